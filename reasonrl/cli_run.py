"""The commands around a run: argument parsing and nothing else. `cli` puts `COMMANDS` into its group."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reasonrl.cli_eval import reports_errors


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option("--self-test/--no-self-test", default=True, help="Train a tiny model too (about half a minute).")
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs"), help="Where runs are to be written.")
@reports_errors
def doctor(as_json: bool, self_test: bool, output: Path) -> None:
    """Look whether this machine can run recipes, and say how to mend what is wrong.

    The exit status is 1 if something failed that a run needs, else 0.
    """
    from reasonrl.pipeline.doctor import examine, report

    sys.exit(report(examine(self_test=self_test, output=output), click.echo, as_json=as_json))


COMMANDS: tuple[click.Command, ...] = (doctor,)
