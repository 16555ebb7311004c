"""The commands of label quality: argument parsing and nothing else. `cli` puts `labels` into its group."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from reasonrl.cli_eval import reports_errors

_PATH = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1, min_open=True)
_INSIDE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.group()
def labels() -> None:
    """Quality of step labels: people's labels, agreement, drift, near-duplicates, splits by problem.

    A SOURCE is an annotation's folder, a file of label records, or a filled-in review file.
    """


@labels.command(options_metavar="[OPTIONS]")
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]SOURCE…")
@click.option("--gold", metavar="[NAME=]SOURCE", help="Labels taken for the truth: each judge's accuracy.")
@click.option("--length", default="steps", show_default=True, help="Solutions' length: steps, characters, or a column.")
@click.option("--confidence", type=_INSIDE, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--out", type=_PATH, help="JSON file for all figures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@reports_errors
def agree(sources: tuple[str, ...], **options: Any) -> None:
    """How far labels agree: overall, by the step's position, by the solution's length; one SOURCE: its votes."""
    from reasonrl.prm.quality import commands

    commands.agree(sources, say=click.echo, **options)


@labels.command(options_metavar="[OPTIONS]")
@click.argument("source")
@click.option("--out", required=True, type=_PATH, help="A folder.")
@click.option("--format", "form", type=click.Choice(["review", "label-studio"]), default="review", show_default=True)
@click.option("--n", type=click.IntRange(min=1), help="Draw so many solutions (default: all).")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option("--annotators", metavar="A,B", help="A file for each of these people.")
@click.option(
    "--double", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share that every annotator gets."
)
@click.option("--blind", is_flag=True, help="Leave out the labels and reasons that are there.")
@reports_errors
def export(source: str, **options: Any) -> None:
    """Write solutions for people to label: JSONL review files, or tasks and interface for Label Studio."""
    from reasonrl.prm.quality import commands

    commands.send(source, say=click.echo, **options)


@labels.command("import", options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=_PATH)
@click.option("--out", required=True, type=_PATH, help="A folder: label records, a file a person.")
@click.option("--against", metavar="SOURCE", help="What was exported: take its columns, and hold the steps to it.")
@click.option("--name", "names", multiple=True, metavar="1=ANNA", help="Call a person otherwise; repeatable.")
@reports_errors
def import_(files: tuple[Path, ...], **options: Any) -> None:
    """Read people's labels: exports of Label Studio (JSON, JSON-MIN) or filled-in review files."""
    from reasonrl.prm.quality import commands

    commands.receive(files, say=click.echo, **options)


@labels.command(options_metavar="[OPTIONS]")
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]SOURCE…")
@click.option("--out", "gold", required=True, type=_PATH, help="The gold set; written anew.")
@click.option("--disputes", type=_PATH, help="Review file of disputed steps (default: beside --out).")
@click.option("--decided", multiple=True, type=_PATH, help="The adjudicator's labels; repeatable.")
@reports_errors
def adjudicate(sources: tuple[str, ...], **options: Any) -> None:
    """Make a gold set of several people's labels: what they agree on, and what somebody decides of the rest."""
    from reasonrl.prm.quality import commands

    commands.adjudicate(sources, say=click.echo, **options)


@labels.command(options_metavar="[OPTIONS]")
@click.argument("source")
@click.option("--out", required=True, type=_PATH, help="JSONL file for what is kept.")
@click.option("--dropped", type=_PATH, help="JSONL file for what is dropped, and for which.")
@click.option("--share", type=_SHARE, default=0.8, show_default=True, help="Of five-word runs in common.")
@click.option("--any-verdict", is_flag=True, help="Drop also for a solution with another verdict.")
@click.option("--problem-column", metavar="NAME", help="Column of the problems.")
@click.option("--solution-column", metavar="NAME", help="Column of the solutions.")
@reports_errors
def dedup(source: str, problem_column: str | None, solution_column: str | None, **options: Any) -> None:
    """Drop near-duplicate solutions of a problem but for the first."""
    from reasonrl.prm.quality import commands

    given = {"problem": problem_column, "solution": solution_column}
    columns = {name: column for name, column in given.items() if column is not None}
    commands.dedup(source, columns=columns, say=click.echo, **options)


@labels.command(options_metavar="[OPTIONS]")
@click.argument("source")
@click.option("--out", required=True, type=_PATH, help="A folder: train.jsonl, test.jsonl, split.json.")
@click.option("--test", type=_INSIDE, default=0.1, show_default=True, help="Share of the problems for test.jsonl.")
@click.option("--validation", type=_INSIDE, help="Share of the problems for validation.jsonl.")
@click.option("--seed", default=0, show_default=True, help="Of the sides.")
@click.option("--share", type=_SHARE, default=0.5, show_default=True, help="Of runs in common: stay together.")
@click.option("--together", multiple=True, metavar="COLUMN", help="Rows of equal value stay together; repeatable.")
@click.option("--problem-column", metavar="NAME", help="Column of the problems.")
@reports_errors
def split(source: str, test: float, validation: float | None, problem_column: str | None, **options: Any) -> None:
    """Split rows by problem: no problem, nor one that is nearly the same, on two sides."""
    from reasonrl.prm.quality import commands

    shares = {"test": test} | ({"validation": validation} if validation is not None else {})
    columns = {"problem": problem_column} if problem_column is not None else {}
    commands.split(source, shares=shares, columns=columns, say=click.echo, **options)


@labels.command(options_metavar="[OPTIONS]")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--set", "folder", required=True, type=_PATH, help="The probe set's folder.")
@click.option("--freeze", metavar="SOURCE", help="Make the probe set of these gold labels first.")
@click.option("--stage", metavar="NAME", help="Which annotation, where the recipe has several.")
@click.option("--against", type=click.IntRange(min=1), metavar="N", help="Compare with run N (default: the first).")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Fall of accuracy that is borne."
)
@click.option("--confidence", type=_INSIDE, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@reports_errors
def probe(recipe: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Let the judges of RECIPE's annotation label a frozen set again: has their accuracy changed?

    The exit status is 3 if it fell by more than is borne, else 0.
    """
    from reasonrl.pipeline.labels_command import probe_judges

    sys.exit(0 if probe_judges(recipe, overrides, say=click.echo, **options) else 3)
