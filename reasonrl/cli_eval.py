"""The commands of evaluation: argument parsing and nothing else. `cli` puts `COMMANDS` into its group."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from reasonrl.errors import ReasonRLError, RecipeError

P = ParamSpec("P")
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_SECONDS = click.FloatRange(0, min_open=True)


def reports_errors(command: Callable[P, Any]) -> Callable[P, None]:
    """Turn the library's errors into a message on stderr and their exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except RecipeError as error:
            count = len(error.problems)
            click.echo(f"the recipe has {count} problem{'' if count == 1 else 's'}:", err=True)
            for problem in error.problems:
                click.echo(f"  {problem}", err=True)
            sys.exit(error.exit_status)
        except ReasonRLError as error:
            click.echo(f"reasonrl: {error}", err=True)
            sys.exit(error.exit_status)
        except OSError as error:
            # A full or read-only disk, a file where a folder should be: what was written before is there still.
            if error.filename is None and error.errno != errno.ENOSPC:
                raise
            place = f"{error.filename}: " if error.filename is not None else ""
            click.echo(f"reasonrl: {place}{error.strerror} -> make room, or name another folder or file", err=True)
            sys.exit(1)

    return run


@click.command("eval", options_metavar="[OPTIONS]")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--model", metavar="NAME", help="A folder or hub id; with --endpoint the name that the server knows.")
@click.option("--suites", required=True, metavar="A,B", help="Names (see `suites ls`), my.yaml or my.yaml:name.")
@click.option("--n", type=click.IntRange(min=1), help="Samples a problem; more than there were reuses those.")
@click.option("--protocol", metavar="NAME", help="Whose sampling settings to use.")
@click.option("--engine", type=click.Choice(["transformers", "vllm", "servers"]), help="What draws the samples.")
@click.option("--endpoint", multiple=True, metavar="URL", help="An OpenAI-compatible server, up to /v1; repeatable.")
@click.option("--output", type=click.Path(path_type=Path), help="The folder (default: evaluations/MODEL); resumed.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many problems; marked in the results.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of one sample.")
@click.option("--greedy/--no-greedy", default=None, help="One more sample a problem at temperature 0.")
@click.option("--seed", default=0, show_default=True, help="Of all samples' seeds.")
@click.option("--data", "data_root", type=click.Path(path_type=Path), help="Local files (default: REASONRL_DATA).")
@click.option("--dry-run", is_flag=True, help="Say what would be sampled; writes nothing.")
@reports_errors
def evaluate(model: str | None, suites: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Evaluate a model on suites; killed at any moment, the same command goes on.

    Settings are changed with KEY=VALUE: temperature=0.6 for all suites, math500.n=4 for one, rollout.batch_size=64,
    endpoint.max_concurrency=64.
    """
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from reasonrl.pipeline.eval_command import evaluate_model

    evaluate_model(model, suites, overrides, say=click.echo, **options)


@click.command(options_metavar="[OPTIONS]")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--stage", metavar="NAME", help="Which annotation, where the recipe has several.")
@click.option("--shard", metavar="I/N", help="Take one of N parts, beside other processes or machines.")
@click.option("--retry-failed", is_flag=True, help="Ask again about what has no labels.")
@click.option("--batch-out", type=click.Path(path_type=Path), help="Write the questions into a file; ask none.")
@click.option("--batch-in", type=click.Path(path_type=Path), help="Take the answers from a batch's output file.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; writes nothing.")
@click.option("--restart", is_flag=True, help="Label anew; the old labels are moved aside.")
@click.option("--audit", type=click.IntRange(min=1), metavar="N", help="Draw N solutions for people; labels none.")
@click.option("--inspect", metavar="ID", help="Show a labelled solution: its id, any, or any:5; labels none.")
@click.option("--html", type=click.Path(path_type=Path), help="With --inspect: write a page instead.")
@reports_errors
def annotate(recipe: str, overrides: tuple[str, ...], stage: str | None, **options: Any) -> None:
    """Label the steps of solutions: run RECIPE up to its annotation; killed at any moment, the same command goes on."""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from reasonrl.pipeline.annotate_command import annotate_recipe, review_annotation

    look = {name: options.pop(name) for name in ("audit", "inspect", "html")}
    if look["audit"] is None and look["inspect"] is None:
        annotate_recipe(recipe, overrides, stage=stage, say=click.echo, **options)
        return
    review_annotation(recipe, overrides, stage=stage, say=click.echo, style=_coloured, **look)


def _coloured(text: str, colour: str) -> str:
    return click.style(text, fg=colour)


@click.command(options_metavar="[OPTIONS]")
@click.argument("folders", nargs=-1, required=True, metavar="[LABEL=]DIR…")
@click.option("--endpoint", metavar="URL", help="Address of the judge, up to /v1; none: patterns alone.")
@click.option("--model", metavar="NAME", help="The judge's model, as its server calls it.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the endpoint; repeatable.")
@click.option("--name", default="judge", show_default=True, help="What the judge's counts are called on disk.")
@click.option("--votes", default=1, show_default=True, help="How often each question is asked.")
@click.option("--temperature", type=float, help="Of the judge (default: 0 for one vote, else 1).")
@click.option("--max-tokens", default=2048, show_default=True, help="Of one reply of the judge.")
@click.option("--seed", default=0, show_default=True, help="Of the first vote.")
@click.option("--re-asks", default=2, show_default=True, help="How often a reply without a count is asked for again.")
@click.option(
    "--reply", default="json_schema", show_default=True, help="Form asked of the server: that, json_object or text."
)
@click.option("--prompt", type=click.Path(path_type=Path), help="A prompt of your own.")
@click.option("--catalogue", type=click.Path(path_type=Path), help="Behaviours of your own, in YAML.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--language", metavar="SUITE", help="Suite that the language side is counted on.")
@click.option("--vision", metavar="SUITE", help="Suite that the vision side is counted on.")
@click.option("--greedy", is_flag=True, help="Read the greedy responses rather than the samples.")
@click.option("--per-problem", type=click.IntRange(min=0), default=1, show_default=True, help="Responses; 0: all.")
@click.option("--quoted", is_flag=True, help="Count only what the judge quotes rightly.")
@click.option(
    "--confidence", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), help="A folder for the tables of all DIRs together.")
@click.option("--restart", is_flag=True, help="Count anew; the judge's old counts are kept under another name.")
@reports_errors
def behaviours(folders: tuple[str, ...], **options: Any) -> None:
    """Count cognitive behaviours in the responses of evaluations: CBR, and how they transfer to vision (BTR)."""
    from reasonrl.eval.behaviours_command import JudgeArguments, Selection, count_behaviours

    own = {name: options.pop(name) for name in ("catalogue", "out", "confidence", "quoted")}
    metric = "greedy" if options.pop("greedy") else "sample"
    chosen = {name: options.pop(name) for name in ("suites", "language", "vision", "per_problem")}
    count_behaviours(folders, Selection(metric=metric, **chosen), JudgeArguments(**options), say=click.echo, **own)


@click.command(options_metavar="[OPTIONS]")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--policy", metavar="NAME", help="Rules of comparison: strict, default or lenient.")
@click.option("--reward", metavar="SPEC", help="Another grader: a reward's name, file.py:function, or terms in YAML.")
@click.option("--name", help="What the verdicts are called on disk (default: the policy or reward).")
@click.option("--against", metavar="NAME", help="An earlier re-grade to compare with (default: the samples' verdicts).")
@click.option("--workers", type=click.IntRange(min=0), help="Processes (default: by the processors; 0: this one).")
@click.option("--time-limit", type=_SECONDS, default=2.0, show_default=True, help="The verifier's, for a sample.")
@click.option("--restart", is_flag=True, help="Throw away the verdicts of this name and start over.")
@reports_errors
def regrade(directory: Path, **options: Any) -> None:
    """Judge the stored samples of the evaluation folder DIR again, and show which verdicts differ."""
    from reasonrl.eval.regrade_command import regrade as judge_again

    judge_again(directory, say=click.echo, **options)


@click.command(options_metavar="[OPTIONS]")
@click.argument("folders", nargs=-1, metavar="[LABEL=]DIR…")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--confidence", type=_SHARE, default=0.95, show_default=True, help="Of the intervals.")
@click.option("--detect", type=float, metavar="POINTS", help="Plan: the true difference that is to be found.")
@click.option("--power", type=_SHARE, default=0.8, show_default=True, help="Plan: the chance of finding it.")
@click.option("--assume", metavar="TEXT", help="Plan without runs: accuracy=50,concentration=1,correlation=0.9.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the table: Markdown, CSV, JSON, picture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@reports_errors
def compare(folders: tuple[str, ...], **options: Any) -> None:
    """Compare evaluation folders question by question with the first; with --detect, how many questions that takes."""
    from reasonrl.eval.compare_command import compare_folders

    click.echo(compare_folders(folders, **options))


@click.command("import-samples", options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The evaluation folder to write into.")
@click.option("--suite", metavar="NAME", help="Name of the suite, for one FILE (default: its task).")
@click.option("--metric", metavar="NAME", help="Whose scores to take (default: the first; none: no scores).")
@click.option("--filter", "filter_name", metavar="NAME", help="Whose lines to take, of an lm-eval file with several.")
@click.option("--answer-column", metavar="NAME", help="The question's column with the gold (default: the target).")
@click.option("--model", metavar="NAME", help="What was evaluated (default: the file's folder).")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The limit that was set, if the file does not tell it.")
@reports_errors
def import_samples(files: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Make an evaluation folder of sample files of lm-eval (JSONL) or lighteval (parquet)."""
    from reasonrl.eval.import_samples import import_samples as read_in

    read_in(files, output, say=click.echo, **options)


@click.command(options_metavar="[OPTIONS]")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--words", default=10, show_default=True, help="Words of a run that counts as shared.")
@click.option("--share", default=0.5, show_default=True, help="Least share of a B row's runs that stand in an A row.")
@click.option("--a-column", "first_column", metavar="NAME", help="A's column with the problem.")
@click.option("--b-column", "second_column", metavar="NAME", help="B's column with the problem.")
@click.option("--out", type=click.Path(path_type=Path), help="JSONL file for all pairs.")
@reports_errors
def overlap(first: str, second: str, **options: Any) -> None:
    """Find the problems of B (a test set) that stand in A (training data); each is a file or the name of a suite."""
    from reasonrl.eval.overlap_command import overlap_report

    click.echo(overlap_report(first, second, **options))


@click.command(options_metavar="[OPTIONS]")
@click.argument("directory", metavar="[LABEL=]DIR")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--verdicts", metavar="NAME", help="Show the verdicts of this re-grade.")
@click.option("--against", multiple=True, metavar="[LABEL=]DIR", help="Another evaluation, set beside; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write into (default: DIR).")
@reports_errors
def report(directory: str, against: tuple[str, ...], **options: Any) -> None:
    """Write report.html, report.md and report.json of the evaluation folder DIR; it may be half done."""
    from reasonrl.eval.labelled_folders import labelled_folders
    from reasonrl.eval.report import write_eval_report

    (label, folder), *others = labelled_folders([directory, *against]).items()
    for path in write_eval_report(folder, label=label, against=dict(others), **options):
        click.echo(f"wrote {path}")


@click.command(options_metavar="[OPTIONS]")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="DIR", help="A process reward model (a stage of kind prm makes one).")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File (--processbench: folder); resumed.")
@click.option(
    "--aggregate", "aggregation", default="last", show_default=True, help="Of step scores: last, min, product or mean."
)
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens of prompt and solution that are read.")
@click.option("--segment", "split", is_flag=True, help="Cut solutions that have no steps by rules.")
@click.option("--tokens", "tokens_per_microbatch", default=16384, show_default=True, help="In the model at once.")
@click.option("--threshold", type=_SHARE, help="Wrong below it (default: 0.5; --processbench: best on gsm8k).")
@click.option("--processbench", is_flag=True, help="FILEs are its subsets, named after them: find first errors.")
@click.option("--restart", is_flag=True, help="Throw away what is at --out and start over.")
@reports_errors
def score(files: tuple[Path, ...], processbench: bool, threshold: float | None, **options: Any) -> None:
    """Score the steps of the solutions in FILE (JSON lines) with a process reward model."""
    from reasonrl.eval.score_command import ScoreSettings, score_file, score_processbench

    settings = ScoreSettings(**{name: options.pop(name) for name in ("model", "aggregation", "max_length", "split")})
    if processbench:
        score_processbench(files, settings, threshold=threshold, say=click.echo, **options)
    elif len(files) > 1:
        raise click.UsageError("one FILE at a time, but for --processbench")
    else:
        score_file(files[0], settings=settings, threshold=threshold or 0.5, say=click.echo, **options)


@click.command("prm-eval", options_metavar="[OPTIONS]")
@click.argument("model", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--steps", type=click.Path(path_type=Path), help="Label rows: step scores against labels.")
@click.option("--best-of", type=click.Path(path_type=Path), help="Sample rows, several a problem: best-of-N.")
@click.option("--k", metavar="2,4,8", help="The N of best-of-N.")
@click.option("--search", type=click.Path(path_type=Path), help="Problems with answers: guided search.")
@click.option("--policy", metavar="NAME", help="The model that writes the steps of a search.")
@click.option("--candidates", metavar="2,4,8", help="Continuations of a step in a search.")
@click.option("--processbench", metavar="A,B", help="Its subsets, such as gsm8k,math.")
@click.option("--prmbench", metavar="A,B", help="Its files.")
@click.option("--data", "data_root", type=click.Path(path_type=Path), help="Their folder (default: REASONRL_DATA).")
@click.option("--output", type=click.Path(path_type=Path), help="The folder (default: evaluations/MODEL); resumed.")
@click.option("--seed", default=0, show_default=True, help="Of all draws.")
@click.option("--restart", is_flag=True, help="Begin anew where the folder holds other settings.")
@click.option("--dry-run", is_flag=True, help="Say what would be examined; writes nothing.")
@reports_errors
def prm_eval(model: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Examine the process reward model MODEL; killed at any moment, the same command goes on.

    Other settings of the stage prm_eval are given as KEY=VALUE: segment.method=lines, best_of.aggregations=[last].
    MODEL may be left out where rows bring their scores: best_of.scores=COLUMN.
    """
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from reasonrl.pipeline.prm_eval_command import examine_model

    if model is not None and "=" in model:
        overrides, model = (model, *overrides), None
    examine_model(model, overrides, say=click.echo, **options)


@click.group()
def suites() -> None:
    """The suites and protocols of evaluation."""


@suites.command("ls")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of local files (default: REASONRL_DATA).")
@reports_errors
def suites_ls(data: Path | None) -> None:
    """List the shipped suites, and whether their files are there, and the protocols."""
    from reasonrl.eval.suites.listing import suites_table

    click.echo(suites_table(data))


@suites.command("show")
@click.argument("name")
@reports_errors
def suites_show(name: str) -> None:
    """Print what the suite or protocol NAME (or a file of suites, my.yaml) says, as YAML."""
    from reasonrl.eval.suites.listing import describe

    click.echo(describe(name))


@suites.command("check")
@click.argument("names", metavar="A,B")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of local files (default: REASONRL_DATA).")
@reports_errors
def suites_check(names: str, data: Path | None) -> None:
    """Read the rows of suites (names, my.yaml), compare them with what is expected, and print what they are.

    The exit status is 1 if a suite cannot be read or has other rows.
    """
    from reasonrl.eval.suites.listing import check

    fine = True
    for line, right in check(names, data):
        click.echo(line, err=not right)
        fine &= right
    sys.exit(0 if fine else 1)


@click.command(options_metavar="[OPTIONS]")
@click.argument("folders", nargs=-1, required=True, metavar="[LABEL=]DIR…")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for the tables: Markdown and JSON.")
@reports_errors
def traces(folders: tuple[str, ...], **options: Any) -> None:
    """How coherent and how diverse responses are: hesitation, switches of problem, likeness, dialogue; side by side."""
    from reasonrl.eval.trace_tables import compare_traces

    compare_traces(folders, say=click.echo, **options)


@click.command(options_metavar="[OPTIONS]")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--row", type=int, default=0, show_default=True, help="Which one, from 0; below 0 from the end.")
@click.option("--play", metavar="TAG", help="Tag of the play, where it is not <play>.")
@click.option("--answer", metavar="TAG", help="Tag of the answers, where it is not <answer>.")
@click.option("--scene", metavar="PATTERN", help="How a scene's heading looks.")
@click.option("--speaker", metavar="PATTERN", help="How a turn begins; group `name` is the voice.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page instead.")
@reports_errors
def show(file: Path, row: int, html: Path | None, **marks: Any) -> None:
    """Show one row of a completions file (parquet) or of a suite's samples; a play as a play."""
    import shutil

    from reasonrl.eval import show_command

    width = min(120, shutil.get_terminal_size((100, 40)).columns)
    show_command.show(file, row, marks, colour=sys.stdout.isatty(), width=width, html=html, say=click.echo)


COMMANDS: tuple[click.Command, ...] = (
    annotate,
    behaviours,
    compare,
    evaluate,
    import_samples,
    overlap,
    prm_eval,
    regrade,
    report,
    score,
    show,
    suites,
    traces,
)
