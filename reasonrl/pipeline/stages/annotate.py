"""Stage kind `annotate`: step labels for solutions, in shards that outlive kills."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import StageFailed
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.segmenting import segmenter_of

if TYPE_CHECKING:
    from reasonrl.data_tools.files import PlacedRow
    from reasonrl.prm.annotation import Batch, JudgeSpec, Measure, Shards, Summary
    from reasonrl.prm.judges import Solution
    from reasonrl.recipe import AnnotateStage, Reference
    from reasonrl.recipe.annotate_stage import JudgeTerm

UNIT = "solutions"
_MINED = ("right_share", "precision", "recall", "kappa")
_ROWS_ARE_MADE_BY = ("segment", "verify", "only", "truncated", "truth", "tokenizer")


def run(config: AnnotateStage, context: StageContext) -> StageResult:
    """Labels all solutions; goes on from what is on the disk.

    Returns:
        Counts, shares and cost; `data` is the folder of label records.

    Raises:
        StageFailed: no solution was labelled, or the judge gives no labels.
        RunError, EndpointError, RewardError: as of `prm.annotation.annotate`.
    """
    return result_of(annotate_stage(config, context), context)


def annotate_stage(
    config: AnnotateStage,
    context: StageContext,
    shards: Shards | None = None,
    retry_failed: bool = False,
    batch: Batch | None = None,
) -> Summary:
    """`run`, perhaps of a part of the shards, of what has failed before, or with a file in place of endpoints."""
    from reasonrl.prm.annotation import Reading, annotate
    from reasonrl.rewards.pool import close_shared_pools

    streamed, rows = _rows(config, context)
    columns = {**config.data.columns} if streamed and hasattr(config.data, "columns") else {}
    segmenter = segmenter_of(config.segment)
    made_by = {name: config.model_dump(mode="json")[name] for name in _ROWS_ARE_MADE_BY}
    context.report_progress(0, None, UNIT, "counting")
    try:
        return annotate(
            context.directory,
            rows,
            lambda: Reading(segmenter, columns, config.segment.again, config.verify, config.only, config.truncated),
            _judges(config, context),
            made_by={**made_by, **_versions()},
            rule=config.consensus,
            invalid=config.invalid,
            measure=_measure(config, context),
            shard_size=config.shard_size,
            shards=shards,
            retry_failed=retry_failed,
            base_dir=context.base_directory,
            batch=batch,
            report=lambda done, total, note: context.report_progress(done, total, UNIT, note),
            at_safe_point=context.raise_if_stopping,
        )
    finally:
        close_shared_pools()


def result_of(summary: Summary, context: StageContext) -> StageResult:
    """What a finished annotation hands on. Raises StageFailed if it holds no labels."""
    totals = summary.totals
    failures = context.directory / "failed.jsonl"
    if totals["passed"]:
        words = ", ".join(f"{count:,} {why}" for why, count in totals["passed"].items())
        context.say(f"rows that stand without labels: {words}")
    if not totals["solutions"]:
        raise StageFailed(f"stage {context.name!r}: no solution was labelled; {failures} says why of each")
    if totals["failed"]:
        context.say(f"{totals['failed']:,} of {totals['rows']:,} rows have no labels: {failures}")
    metrics: dict[str, Any] = {
        name: totals[name] for name in ("solutions", "failed", "steps", "right", "wrong", "open")
    }
    judged = totals["right"] + totals["wrong"]
    metrics["right_share"] = totals["right"] / judged if judged else None
    metrics |= {name: totals["usage"][name] for name in ("prompt_tokens", "completion_tokens", "cost")}
    metrics |= {f"passed/{why}": count for why, count in totals["passed"].items()}
    for name, row in json.loads((context.directory / "mined.json").read_bytes())["sources"].items():
        metrics |= {f"mined/{name}/{key}": row[key] for key in _MINED if row.get(key) is not None}
    for pair, found in totals.get("agreement", {}).items():
        metrics[f"kappa/{pair.replace(' ', '_')}"] = found["kappa"]
    return StageResult(metrics=metrics, data=context.directory / "labels")


def dry_run(config: AnnotateStage, context: StageContext) -> list[str]:
    """How steps are made and who judges them; the judges' settings are checked."""
    from reasonrl.prm.judges import build_judge

    how = config.segment
    lines = [f"steps by {how.method}" + (f", {how.shortest} to {how.longest} characters" * (how.method == "rules"))]
    for term in config.judges:
        if (missing := _not_there(term.args, context)) is not None:
            lines.append(f"judge {term.name}: {missing} is not there yet; unchecked")
            continue
        spec = _spec(term, context)
        judge = build_judge(spec.name, spec.args, context.base_directory)
        settings = judge.settings()
        prompt = f", prompt {settings['prompt_hash']}" if settings.get("prompt_hash") else ""
        votes = f"{judge.votes} votes" if judge.votes > 1 else "one vote"
        lines.append(f"judge {spec.name}: {settings.get('judge')}{prompt}, {votes} a solution")
        judge.close()
    return lines


def identity_extra(config: AnnotateStage) -> dict[str, Any]:
    """Versions of segmentation, reading and labels; and the shipped prompt, where it is used."""
    versions = _versions()
    if any(term.name == "endpoint" and not term.args.get("prompt") for term in config.judges):
        from reasonrl.prm import judges

        text = Path(judges.__file__).with_name("step_labels.j2").read_bytes()
        versions["prompt"] = hashlib.sha256(text).hexdigest()[:16]
    return versions


def resume_point(directory: Path) -> str | None:
    """How much is there: `3 shards done, 1,234 answers kept`."""
    from reasonrl.prm.annotation.store import INDEX, VOTES

    done = sum(1 for _ in directory.glob(f"{INDEX}/*.json"))
    answers = 0
    for path in directory.glob(f"{VOTES}/*/*.jsonl"):
        with path.open("rb") as file:
            answers += sum(1 for _ in file)
    return f"{done} shards done, {answers:,} answers kept" if done or answers else None


def _versions() -> dict[str, Any]:
    from reasonrl.prm import segment
    from reasonrl.prm.annotation import labelling
    from reasonrl.prm.judges import endpoint

    return {"segmenter": segment.VERSION, "labels": labelling.VERSION, "reader": endpoint.READER_VERSION}


def _judges(config: AnnotateStage, context: StageContext) -> list[JudgeSpec]:
    return [_spec(term, context) for term in config.judges]


def _measure(config: AnnotateStage, context: StageContext) -> Measure:
    """What counts tokens of steps and knows the truth, where the recipe names it."""
    from reasonrl.prm.annotation import Measure
    from reasonrl.prm.judges import OracleJudge

    truth = None if config.truth is None else OracleJudge(config.truth.column, config.truth.world).truth
    if config.tokenizer is None:
        return Measure(None, truth)
    from reasonrl.models import load_tokenizer
    from reasonrl.prm.token_steps import step_sizes

    tokenizer = load_tokenizer(context.model_of(config.tokenizer))

    def sizes(solution: Solution) -> list[int]:
        return step_sizes(tokenizer, solution.steps, solution.text, solution.row.get("completion_ids"))

    return Measure(sizes, truth)


def _spec(term: JudgeTerm, context: StageContext) -> JudgeSpec:
    """A judge with the folders of the models that its arguments refer to."""
    from reasonrl.prm.annotation import JudgeSpec
    from reasonrl.recipe.references import references_settled

    return JudgeSpec(term.name, references_settled(term.args, context.model_of))


def _not_there(args: Mapping[str, Any], context: StageContext) -> Reference | None:
    """The first stage that a judge's arguments refer to and that has not run yet."""
    from reasonrl.recipe.references import references_settled

    found: list[Reference] = []
    references_settled(args, found.append)
    return next((reference for reference in found if not context.is_available(reference)), None)


def _rows(config: AnnotateStage, context: StageContext) -> tuple[bool, Callable[[], Iterable[PlacedRow]]]:
    """Whether the input is streamed from files, and what gives it anew; other sources are read into memory."""
    from reasonrl.data_tools.files import read_paths
    from reasonrl.recipe import DataSource, Reference

    source = config.data
    if not isinstance(source, DataSource):
        path = context.data_of(source)
        return True, lambda: read_paths(path, None, None, None)
    if source.path is not None and source.keep is None and not source.shuffle:
        named = source.path
        made = context.data_of(named) if isinstance(named, Reference) else named
        paths = list(made) if isinstance(made, tuple) else made

        def read() -> Iterable[PlacedRow]:
            return itertools.islice(
                read_paths(paths, source.format, source.split, context.base_directory), source.limit
            )

        return True, read
    from reasonrl.pipeline.stages.common import load_source

    loaded = load_source(source, context, ("problem",)).rows
    return False, lambda: ((str(row["id"]), row) for row in loaded)
