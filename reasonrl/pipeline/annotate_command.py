"""The work of `reasonrl annotate`: the annotation of a recipe alone, in one process or in several."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted, Problem, RecipeError, RunError

if TYPE_CHECKING:
    from reasonrl.pipeline.planning import PlannedStage
    from reasonrl.prm.annotation import Batch, Folder, Shards
    from reasonrl.recipe import ResolvedRecipe

Say = Callable[[str], None]


def annotate_recipe(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    stage: str | None = None,
    shard: str | None = None,
    retry_failed: bool = False,
    batch_out: Path | None = None,
    batch_in: Path | None = None,
    dry_run: bool = False,
    restart: bool = False,
    say: Say,
) -> Path:
    """Run a recipe up to its annotation, the last where there are several, or carry on with it.

    Args:
        recipe: a file or the name of a shipped recipe.
        overrides: `KEY=VALUE`.
        stage: up to which annotation, where there are several; a part of one needs it.
        shard: `i/n`: take one of n parts of the shards, beside other processes; what the annotation reads must be done.
        retry_failed: ask again about what has no labels.
        batch_out: write the questions that endpoints would be asked into this file, and ask none.
        batch_in: take the answers from this file: the output of a batch made of such a file.
        dry_run: say what would be done and write nothing.
        restart: make the annotation anew; the old is moved aside.
        say: takes lines for the user.

    Returns:
        The folder of the annotation.

    Raises:
        RecipeError: the recipe is wrong or has no annotation.
        RunError: options that do not go together, a changed stage, a part that another process works on.
        Interrupted, StageFailed, EndpointError: as of the stage.
    """
    from reasonrl.recipe import load_recipe

    parts = shard is not None or retry_failed or batch_out is not None or batch_in is not None
    if parts and (restart or dry_run):
        raise RunError(
            "--restart and --dry-run go with the whole annotation -> leave out --shard, --retry-failed and --batch-…"
        )
    if batch_out is not None and batch_in is not None:
        raise RunError("--batch-out and --batch-in are two steps -> take in the old batch, then write the next")
    resolved = load_recipe(recipe, overrides)
    name = annotation_of(resolved, stage, last=not parts and not restart)
    every = [one for one, config in resolved.recipe.stages.items() if config.kind == "annotate"]
    cut = up_to(resolved, name, *(every if stage is None and not parts else ()))
    folder = Path(cut.recipe.output).expanduser().absolute() / "stages" / name
    if not parts:
        from reasonrl.pipeline.runner import train

        train(cut, dry_run=dry_run, restart_stages=[name] if restart else [], say=say)
        return folder
    from reasonrl.prm.annotation import Shards

    part = Shards() if shard is None else Shards.parse(shard)
    if batch_out is None and batch_in is None:
        _beside(cut, name, part, retry_failed, say)
        return folder
    _by_file(cut, name, part, retry_failed, batch_out, batch_in, say)
    return folder


def _by_file(
    cut: ResolvedRecipe,
    name: str,
    part: Shards,
    retry: bool,
    batch_out: Path | None,
    batch_in: Path | None,
    say: Say,
) -> None:
    """Write the questions into one file, or take the answers from another."""
    from reasonrl.prm.judges.batch import BatchReplies, BatchWriter

    if batch_out is not None:
        with BatchWriter(batch_out.expanduser()) as file:
            _beside(cut, name, part, retry, say, file)
        say(f"{batch_out}: {file.requests:,} requests -> run them as a batch, then --batch-in its output")
    if batch_in is not None:
        with BatchReplies(batch_in.expanduser()) as replies:
            _beside(cut, name, part, True, say, replies)
        others = len(replies) - replies.used
        say(f"{batch_in}: {replies.used:,} replies taken in, {others:,} to no open question of these solutions")
        if replies.unreadable:
            say(f"{batch_in}: {replies.unreadable:,} lines cannot be read")


def review_annotation(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    stage: str | None = None,
    audit: int | None = None,
    inspect: str | None = None,
    html: Path | None = None,
    say: Say,
    style: Callable[[str, str], str] = lambda text, colour: text,
) -> None:
    """Look at labels that are there: nothing is asked or changed.

    Args:
        recipe, overrides, stage: as `annotate_recipe`.
        audit: draw so many solutions into `audit.jsonl` for people to review, and say how far they agree.
        inspect: the id of a solution to show; `any` draws one, `any:5` five.
        html: write what is shown into this file instead.
        say: takes lines for the user.
        style: colours a text for the terminal.

    Raises:
        RunError: there are no labels yet, or no solution of this id.
        DataError: a review that cannot be read.
    """
    from reasonrl.observe.metrics import write_atomically
    from reasonrl.prm.annotation.review import audit_lines, draw_sample, read_audit, write_audit
    from reasonrl.prm.annotation.showing import page, plain, terminal
    from reasonrl.prm.annotation.store import Folder
    from reasonrl.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    name = annotation_of(resolved, stage)
    folder = Folder(Path(resolved.recipe.output).expanduser().absolute() / "stages" / name)
    if next(folder.labelled(), None) is None:
        raise RunError(f"{folder.path} holds no complete shard yet -> run reasonrl annotate first")
    if audit is not None:
        path = folder.path / "audit.jsonl"
        with_labels = (record for record in folder.labelled() if record.get("labels"))
        write_audit(path, draw_sample(with_labels, audit))
        first, *rest = audit_lines(read_audit(path))
        say(f"{path}: {first}")
        for line in rest:
            say(plain(line))
    if inspect is None:
        return
    chosen = _chosen(folder, inspect)
    if html is not None:
        write_atomically(html, page(chosen, resolved.recipe.recipe).encode("utf-8", "backslashreplace"))
        say(f"wrote {html}")
        return
    for record in chosen:
        for line in terminal(record, style):
            say(line)


def _chosen(folder: Folder, inspect: str) -> Sequence[Mapping[str, Any]]:
    """The solutions that `--inspect` names."""
    from reasonrl.prm.annotation.review import draw_sample

    word, _, number = inspect.partition(":")
    chosen: Sequence[Mapping[str, Any]]
    if word == "any" and (not number or number.isdecimal()):
        chosen = draw_sample(folder.labelled(), int(number or 1))
    else:
        chosen = [record for record in folder.labelled() if record["id"] == inspect][:1]
    if not chosen:
        raise RunError(f"--inspect {inspect!r}: no labelled solution has this id -> give an id, or any, or any:5")
    return chosen


def annotation_of(resolved: ResolvedRecipe, stage: str | None = None, last: bool = False) -> str:
    """The name of the recipe's annotation; `last` takes the last of several.

    Raises:
        RecipeError: it has none of that name, none at all, several, or it is in a loop.
    """
    stages = resolved.recipe.stages
    found = [name for name, config in stages.items() if config.kind == "annotate"]
    if stage is not None and stage not in found:
        text = f"is {stage!r}, which is no stage of kind annotate; there are: {', '.join(found) or 'none'}"
        raise RecipeError([Problem("--stage", text, fix="name one of them")])
    if not found:
        raise RecipeError([Problem("stages", "has no stage of kind annotate", str(resolved.path), "add one")])
    if stage is None and len(found) > 1 and not last:
        raise RecipeError([Problem("stages", f"has {len(found)} annotations", fix=f"--stage {found[0]}")])
    name = stage or found[-1]
    if resolved.recipe.loop is not None and name in resolved.recipe.loop.stages:
        text = f"repeats {name!r}, which cannot be run alone"
        raise RecipeError([Problem("loop", text, fix="run the whole recipe with reasonrl train")])
    return name


def up_to(resolved: ResolvedRecipe, name: str, *more: str) -> ResolvedRecipe:
    """The recipe with this stage and those that it reads, through others too, and with `more` likewise; where there is
    a loop, with all stages up to this one.
    """
    from reasonrl.recipe import expand_stages

    recipe = resolved.recipe
    if recipe.loop is not None:
        names = list(recipe.stages)
        needed = set(names[: names.index(name) + 1])
    else:
        inputs = {one.name: [reference.stage for reference in one.inputs] for one in expand_stages(recipe)}
        needed, open_ones = set(), [name, *more]
        while open_ones:
            one = open_ones.pop()
            if one not in needed:
                needed.add(one)
                open_ones += inputs[one]
    kept = {one: config for one, config in recipe.stages.items() if one in needed}
    loop = recipe.loop if recipe.loop is not None and set(recipe.loop.stages) <= kept.keys() else None
    return replace(resolved, recipe=recipe.model_copy(update={"stages": kept, "loop": loop}))


def _beside(
    resolved: ResolvedRecipe, name: str, shards: Shards, retry: bool, say: Say, batch: Batch | None = None
) -> None:
    """Annotate without holding the run's lock, so that several processes may do so at once.

    The stage is finished by whoever sees that all shards are there.
    """
    from reasonrl.observe import Progress
    from reasonrl.pipeline.directory import RunDirectory
    from reasonrl.pipeline.progress import LineProgress
    from reasonrl.pipeline.runner import resume_command
    from reasonrl.pipeline.signals import StopFlag, stop_on_signals
    from reasonrl.pipeline.stages.annotate import annotate_stage, result_of

    run = RunDirectory(Path(resolved.recipe.output).expanduser().absolute())
    run.check_ours()
    run.create()
    with _patient(run.path):
        planned, context = _begin(resolved, run, name, retry, say)
    if planned is None:
        return
    stop, bar = StopFlag(), Progress(description="annotate", unit="solution")
    with stop_on_signals(stop, bar.line), bar:
        progress = bar if bar.live else LineProgress(say, "annotate", interval=10.0)
        context = replace(context, progress=progress, stop=stop)
        try:
            summary = annotate_stage(planned.instance.config, context, shards, retry, batch)  # type: ignore[arg-type]
        except Interrupted:
            raise stop.interrupted(f"in {context.directory}", resume_command(sys.argv)) from None
    totals = summary.totals
    say(f"{totals['solutions']:,} solutions with {totals['steps']:,} steps labelled, {totals['failed']:,} failed")
    if summary.complete:
        with _patient(run.path):
            record = planned.directory.read_stage()
            assert record is not None, "the stage was begun above"
            planned.directory.finish(record, result_of(summary, context))
        say(f"all {summary.shards} shards are there: {context.directory / 'labels'}")
    else:
        done = "what could be done is" if batch is not None else f"{shards.number}/{shards.of} is"
        say(f"{done} done; the other parts are not all there yet")


def _begin(resolved: ResolvedRecipe, run: Any, name: str, retry: bool, say: Say) -> tuple[PlannedStage | None, Any]:
    """The stage, begun if it was not, and its context; None if there is nothing to do. The run's lock is held."""
    from reasonrl.pipeline.context import StageContext
    from reasonrl.pipeline.directory import StageRecord, now
    from reasonrl.pipeline.environment import versions
    from reasonrl.pipeline.planning import Action, plan_run
    from reasonrl.recipe import expand_stages

    recipe, home = resolved.recipe, resolved.path.parent.absolute()
    planned = plan_run(expand_stages(recipe), run, seed=recipe.seed, base_directory=home)
    *before, stage = planned
    missing = [one.name for one in before if one.done is None]
    if missing:
        raise RunError(
            f"stage {name!r} reads what {', '.join(missing)} makes, which is not done -> run reasonrl annotate without"
            " --shard once, or reasonrl train, up to there"
        )
    if stage.action not in (Action.START, Action.RESUME, Action.SKIP, Action.EXTEND):
        raise RunError(f"stage {name!r}: {'; '.join(stage.notes)} -> run reasonrl annotate without --shard first")
    if stage.action is Action.SKIP and not retry:
        say(f"{stage.directory.path}: all labels are there")
        return None, None
    if not run.exists():
        run.write_recipe(resolved)
    if stage.directory.read_stage() is None:
        stage.directory.begin(StageRecord(stage.identity, stage.attempt, now(), versions()))
    results = {one.name: one.done.result for one in before if one.done is not None}
    context = StageContext(
        name=stage.name,
        directory=stage.directory.path,
        recipe_name=recipe.recipe,
        seed=recipe.seed,
        run_directory=run.path,
        launch=stage.instance.config.launch,
        base_directory=home,
        results=results,
        say=say,
    )
    return stage, context


@contextmanager
def _patient(path: Path, seconds: float = 30.0) -> Iterator[None]:
    """The lock of a run, waited for while another process begins or ends beside this one."""
    from reasonrl.pipeline.lock import run_lock

    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(run_lock(path))
                break
            except RunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield
