"""Stage kind `curate`: from sources of rows to a training set, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.recipe.curate_stage import (
    BehavioursStep,
    DecontaminateStep,
    DeduplicateStep,
    JudgeStep,
    KeepStep,
    LossStep,
    MixStep,
    PassRateStep,
    RulesStep,
    StratifyStep,
)
from reasonrl.recipe.references import Reference

if TYPE_CHECKING:
    from reasonrl.data_tools.curate.intake import Intake
    from reasonrl.data_tools.curate.rules import Step
    from reasonrl.data_tools.files import PlacedRow
    from reasonrl.recipe import DataSource
    from reasonrl.recipe.curate_stage import CurateStage

VERSION = 1
"""Of what the steps do."""


def run(config: CurateStage, context: StageContext) -> StageResult:
    """Runs the steps; goes on after those that are done.

    Returns:
        Rows read and kept, and kept by step; `data` is `rows.jsonl`, pictures lie beside it.

    Raises:
        DataError: no row is left, or a source cannot be read.
        RunError, EndpointError, RewardError, ModelError: of models that are asked.
    """
    from reasonrl.data_tools.curate import PictureRules, curate, take_in
    from reasonrl.data_tools.curate.run import ROWS

    folder = context.directory
    pictures = PictureRules(**config.pictures.model_dump())
    intakes = {name: _intake(source, context) for name, source in config.sources.items()}
    steps = [(step.step, _step(number, step, context)) for number, step in enumerate(config.steps, start=1)]
    made = curate(
        folder,
        lambda tally: take_in(intakes, tally, folder, config.require, pictures),
        steps,
        say=context.say,
        report=lambda step, rows: context.report_progress(rows, None, "rows", step),
        at_safe_point=context.raise_if_stopping,
    )
    kept = {f"kept/{one['step']}": one["kept"] for one in made["steps"]}
    return StageResult(metrics={"read": made["read"], "kept": made["kept"], **kept}, data=Path(ROWS))


def dry_run(config: CurateStage, context: StageContext) -> list[str]:
    """The sources and steps; the first row of what is there."""
    lines = []
    for name, source in config.sources.items():
        if not context.is_available(source):
            lines.append(f"source {name}: {source if isinstance(source, Reference) else source.path}, not there yet")
            continue
        intake = _intake(source, context)
        place, row = next(iter(intake.rows), ("", None))
        shown = ", ".join(row) if isinstance(row, Mapping) else "no row that can be read"
        lines.append(f"source {name}: first row at {place}: {shown}")
    for number, step in enumerate(config.steps, start=1):
        given = step.model_dump(mode="json", exclude_defaults=True, exclude={"step", "endpoint"})
        lines.append(f"step {number}: {step.step}" + (f" {given}" if given else ""))
    return lines


def identity_extra(config: CurateStage) -> dict[str, Any]:
    """Versions of the steps, and prompts."""
    found: dict[str, Any] = {"curate": VERSION}
    for number, step in enumerate(config.steps, start=1):
        if isinstance(step, JudgeStep):
            from reasonrl.rewards.judges import rows

            own = Path(rows.__file__).with_name(rows.OWN.get(step.question, ""))
            text = (own if step.prompt is None else Path(step.prompt).expanduser()).read_bytes()
            found[f"prompt of step {number}"] = hashlib.sha256(text).hexdigest()[:16]
    return found


def resume_point(directory: Path) -> str | None:
    """How many steps are done."""
    done = len(list((directory / "steps").glob("*.json")))
    return f"{done} steps done" if done else None


def _intake(source: DataSource | Reference, context: StageContext) -> Intake:
    from reasonrl.data_tools.curate.intake import Intake
    from reasonrl.data_tools.files import read_paths
    from reasonrl.data_tools.loading import placed_rows, world_rows

    if isinstance(source, Reference):
        return Intake(read_paths(context.data_of(source), None, None, None), curated=True)
    if source.world is not None:
        rows: Iterator[PlacedRow] = world_rows(source.world, source.args, source.split, source.n, context.seed)
    else:
        path = context.data_of(source.path) if isinstance(source.path, Reference) else source.path
        rows = placed_rows(
            list(path) if isinstance(path, tuple) else path,
            source.hub,
            format=source.format,
            split=source.split,
            name=source.name,
            revision=source.revision,
            base_dir=context.base_directory,
        )
    return Intake(
        rows,
        {str(ours): theirs for ours, theirs in source.columns.items()},
        source.limit,
        source.keep,
        isinstance(source.path, Reference),
    )


def _step(number: int, step: Any, context: StageContext) -> Step:
    from reasonrl.data_tools import curate

    seed = context.seed
    if isinstance(step, RulesStep):
        return curate.rules(step.characters, step.drop, step.require, step.options_from)
    if isinstance(step, KeepStep):
        return curate.keep_when(step.when)
    if isinstance(step, DeduplicateStep):
        return curate.deduplicate(step.share, step.column)
    if isinstance(step, StratifyStep):
        return curate.stratify(step.by, bins=step.bins, weights=step.weights, cap=step.cap, seed=seed)
    if isinstance(step, MixStep):
        return curate.mix(step.weights, total=step.total, caps=step.caps, repeats=step.repeats, seed=seed)
    if isinstance(step, DecontaminateStep):
        return _later(lambda: curate.decontaminate(_suites(step, context), step.words, step.share))
    if isinstance(step, PassRateStep):
        return curate.join_samples(lambda: _samples(step, context), step.when)
    if isinstance(step, BehavioursStep):
        return curate.with_columns(_behaviours(step.column))
    from reasonrl.pipeline.stages import curate_scores

    ledger = context.directory / "scores" / f"{number:02d}-{step.step}.jsonl"
    if isinstance(step, LossStep):
        return curate_scores.loss_step(step, context, ledger)
    assert isinstance(step, JudgeStep), "the schema knows no other"
    return curate_scores.judge_step(step, ledger)


def _later(make: Any) -> Step:
    """A step that is made when it begins: what it reads may be large."""

    def step(rows: Any, tally: Any) -> Iterator[dict[str, Any]]:
        yield from make()(rows, tally)

    return step


def _suites(step: DecontaminateStep, context: StageContext) -> dict[str, Any]:
    from reasonrl.eval.suites import resolve
    from reasonrl.pipeline.stages.common import load_source

    found: dict[str, Any] = {name: load_source(data, context, ("problem",)).rows for name, data in step.against.items()}
    for name, suite in (resolve(step.suites) if step.suites else {}).items():
        rows, _ = suite.load(context.seed, context.base_directory)
        found[name] = rows
    return found


def _samples(step: PassRateStep, context: StageContext) -> Iterator[Mapping[str, Any]]:
    from reasonrl.pipeline.stages.logged import placed_rows

    for place, row in placed_rows(step.data, context):
        if isinstance(row, Mapping):
            if "problem_id" not in row:
                raise RunError(f"{place}: has no problem_id -> pass_rate reads what a stage of kind rollout makes")
            yield row


def _behaviours(column: str) -> Any:
    from reasonrl.eval.behaviours import lexical_count, read_catalogue

    catalogue = read_catalogue()

    def columns(row: Mapping[str, Any]) -> dict[str, int]:
        text = row.get(column)
        counts = {
            f"n_{one.name}": lexical_count(one, text) if isinstance(text, str) else 0 for one in catalogue.behaviours()
        }
        return {**counts, "n_behaviours": sum(count > 0 for count in counts.values())}

    return columns
