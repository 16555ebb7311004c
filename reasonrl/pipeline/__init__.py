"""The run directory, the stage runner, studies, launching; one module per stage kind under `stages/`."""
