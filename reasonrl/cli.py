"""The command line: argument parsing and nothing else. Everything heavy is imported where it is used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import reasonrl
from reasonrl.cli_eval import COMMANDS, reports_errors
from reasonrl.cli_labels import labels
from reasonrl.cli_pacore import pacore
from reasonrl.cli_run import COMMANDS as RUN_COMMANDS


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(reasonrl.__version__, prog_name="reasonrl")
def main() -> None:
    """Reasoning RL as recipes: one YAML file holds a whole paper, from raw prompts to the results table.

    Start with `reasonrl train quickstart`.
    """


@main.command(options_metavar="[OPTIONS]")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--print-config", is_flag=True, help="Print the composed recipe, each value with its origin, and stop.")
@click.option("--dry-run", is_flag=True, help="Go through every stage without training; writes nothing.")
@click.option("--study", metavar="NAME", help="Run every arm and seed of a study, and compare them.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="With --study: runs at a time (default: 1).")
@click.option("--arm", metavar="NAME", help="Lay one of the recipe's arms over it.")
@click.option(
    "--restart-stage", "restart_stages", metavar="NAME", multiple=True, help="Start a stage over; repeatable."
)
@click.option("--if-needed", is_flag=True, help="Nothing left to do is status 0, not 3.")
@reports_errors
def train(
    recipe: str,
    overrides: tuple[str, ...],
    print_config: bool,
    dry_run: bool,
    study: str | None,
    jobs: int | None,
    arm: str | None,
    restart_stages: tuple[str, ...],
    if_needed: bool,
) -> None:
    """Run RECIPE, a YAML file or the name of a shipped recipe, or carry on with what its run directory holds.

    Values are changed with KEY=VALUE, such as stages.rl.learning_rate=1e-6; they may stand before or after options.
    """
    if study is not None and arm is not None:
        raise click.UsageError("--study runs the arms it names: give --study or --arm, not both")
    if jobs is not None and study is None:
        raise click.UsageError("--jobs is how many runs of a study go at a time: give --study NAME with it")
    if if_needed and study is not None:
        raise click.UsageError("--if-needed is for a run: a study with nothing left to do ends with status 0 anyway")
    if study is not None and not print_config:
        from reasonrl.pipeline import run_study
        from reasonrl.pipeline.progress import logs_to_terminal

        logs_to_terminal()

        options = {"dry_run": dry_run, "restart_stages": restart_stages, "jobs": jobs or 1}
        run_study(recipe, study, overrides, say=click.echo, **options)  # type: ignore[arg-type]
        return
    from reasonrl.recipe import load_recipe

    resolved = load_recipe(recipe, overrides, arm=arm)
    if print_config:
        from reasonrl.recipe import print_config as render

        click.echo(render(resolved), nl=False)
        return
    from reasonrl import pipeline
    from reasonrl.pipeline.progress import logs_to_terminal

    logs_to_terminal()
    pipeline.train(resolved, dry_run=dry_run, must_train=not if_needed, restart_stages=restart_stages, say=click.echo)


@main.command(options_metavar="[OPTIONS]")
@click.argument("pairs", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the verdicts go, one a line; resumed.")
@click.option("--gold", help="A right answer, for one pair instead of a file.")
@click.option("--response", help="A response, for one pair; - reads standard input.")
@click.option("--explain", is_flag=True, help="Say how the verdict on one pair came about.")
@click.option("--policy", default="default", show_default=True, help="Rules of comparison: strict, default or lenient.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes (default: by the processors; 0: this one).")
@click.option("--time-limit", default=2.0, show_default=True, help="Seconds a pair may take.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many lines.")
@click.option("--gold-column", metavar="NAME", help="Column of the golds (default: gold or answer).")
@click.option("--pred-column", metavar="NAME", help="Column of the responses (default: pred, response or completion).")
@click.option("--restart", is_flag=True, help="Throw away the verdicts in --out and start over.")
@click.option("--compare", type=click.Path(path_type=Path), help="Another file of verdicts: show what differs.")
@reports_errors
def verify(pairs: Path | None, gold: str | None, response: str | None, explain: bool, **options: Any) -> None:
    """Grade PAIRS, a JSONL file of golds and responses, or one pair given by --gold and --response.

    The exit status for a file is 0 however many are wrong; for one pair it is 0 if the response is correct, else 1.
    """
    if pairs is not None and (gold is not None or response is not None or explain):
        raise click.UsageError("give a file of pairs, or one pair by --gold and --response (with --explain), not both")
    if pairs is None and (gold is None or response is None):
        raise click.UsageError("give a file of pairs, or --gold and --response")
    from reasonrl.eval import verify_command

    if pairs is not None:
        verify_command.grade_file(pairs, say=click.echo, **options)
        return
    unused = [name for name in ("out", "limit", "gold_column", "pred_column", "compare") if options[name] is not None]
    if unused or options["restart"]:
        name = "--" + (unused[0] if unused else "restart").replace("_", "-")
        raise click.UsageError(f"{name} belongs to a file of pairs")
    text = sys.stdin.read() if response == "-" else response
    sys.exit(0 if verify_command.grade_pair(gold or "", text or "", options["policy"], explain, click.echo) else 1)


@main.group()
def recipes() -> None:
    """The recipes that come with the library."""


@recipes.command("ls")
@reports_errors
def recipes_ls() -> None:
    """List the shipped recipes with their first comment line."""
    from reasonrl.recipe.shipped import describe_recipes

    click.echo(describe_recipes())


@recipes.command("show")
@click.argument("name")
@reports_errors
def recipes_show(name: str) -> None:
    """Print the recipe NAME as it is written."""
    from reasonrl.recipe.shipped import shipped_recipe

    click.echo(shipped_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes.command("cp")
@click.argument("name")
@click.argument("destination", type=click.Path(path_type=Path), default=Path("."))
@reports_errors
def recipes_cp(name: str, destination: Path) -> None:
    """Copy the recipe NAME, with the files it is based on, to DESTINATION (a folder or a file; never overwritten)."""
    from reasonrl.recipe.shipped import copy_recipe

    for path in copy_recipe(name, destination):
        click.echo(f"wrote {path}")


@main.group()
def runs() -> None:
    """Look at run directories."""


@runs.command("ls")
@click.argument("root", type=click.Path(path_type=Path), default=Path("runs"))
@reports_errors
def runs_ls(root: Path) -> None:
    """List the runs under ROOT (default: runs) with their state and last figures."""
    from reasonrl.observe.runs import list_runs

    click.echo(list_runs(root))


@runs.command("tail")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "--lines", default=10, show_default=True, help="How many of the last steps to show.")
@click.option("-f", "--follow", is_flag=True, help="Go on as new steps are written, until Ctrl-C.")
@reports_errors
def runs_tail(run: Path, lines: int, follow: bool) -> None:
    """Show the last steps of the run directory RUN."""
    from reasonrl.observe.runs import tail_run

    for line in tail_run(run, lines, follow=follow):
        click.echo(line)


@runs.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@reports_errors
def runs_report(run: Path) -> None:
    """Write report.html and the pictures of the run directory RUN anew; it may be running or half done."""
    from reasonrl.observe.report import write_report

    click.echo(f"wrote {write_report(run)}")


@runs.command("compare")
@click.argument("paths", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@reports_errors
def runs_compare(paths: tuple[Path, ...]) -> None:
    """Compare what differs between runs: settings, and the last figures."""
    from reasonrl.observe.runs import compare_runs

    click.echo(compare_runs(list(paths)))


for command in (*COMMANDS, *RUN_COMMANDS, labels, pacore):
    main.add_command(command)

if __name__ == "__main__":
    main()
