"""The run directory, the stage runner, studies, launching; one module per stage kind under `stages/`.

Entries: `train` runs a resolved recipe, `run_study` every arm and seed of a study, `register_stage` adds a kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasonrl.pipeline.context import StageContext, StageResult
    from reasonrl.pipeline.runner import RunSummary, StageSummary, train
    from reasonrl.pipeline.stages import register_stage
    from reasonrl.pipeline.study import StudySummary, run_study

_HOMES = {
    "RunSummary": "runner",
    "StageContext": "context",
    "StageResult": "context",
    "StageSummary": "runner",
    "StudySummary": "study",
    "register_stage": "stages",
    "run_study": "study",
    "train": "runner",
}
__all__ = [
    "RunSummary",
    "StageContext",
    "StageResult",
    "StageSummary",
    "StudySummary",
    "register_stage",
    "run_study",
    "train",
]


def __getattr__(name: str) -> object:
    """Import an entry when it is first asked for, so that importing a part of this package stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
