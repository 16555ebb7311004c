"""Stage kind `segment`: steps for solutions, in shards that outlive kills."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import StageFailed
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.logged import placed_rows
from reasonrl.pipeline.stages.segmenting import segmenter_of

if TYPE_CHECKING:
    from reasonrl.prm.resegment import LLMSegmenter
    from reasonrl.recipe.segment_stage import SegmentStage

DEPENDS_ON_SEED = False


def run(config: SegmentStage, context: StageContext) -> StageResult:
    """Cuts all solutions; goes on from what is on the disk.

    Returns:
        Counts; `data` is the folder of rows.

    Raises:
        StageFailed: no row could be used, or the model gives no answers.
        RunError, EndpointError, RewardError: of the files and of the model.
    """
    from reasonrl.prm.resegment_run import COUNTS, ROWS, segment_rows

    model = _model(config)
    context.report_progress(0, None, "rows", "counting")
    try:
        counts = segment_rows(
            context.directory,
            lambda: placed_rows(config.data, context),
            {},
            segmenter_of(config.segment) if model is None else model,
            separator=config.separator,
            shard_size=config.shard_size,
            report=lambda done, total: context.report_progress(done, total, "rows"),
            at_safe_point=context.raise_if_stopping,
        )
    finally:
        if model is not None:
            model.close()
    if not counts.get("rows"):
        raise StageFailed(f"stage {context.name!r}: no row could be used; {context.directory / COUNTS} names the first")
    if counts["set_aside"]:
        context.say(f"{counts['set_aside']:,} rows were set aside; {context.directory / COUNTS} names the first")
    if counts["fallen_back"]:
        context.say(
            f"{counts['fallen_back']:,} of {counts['rows']:,} solutions were cut by rules: the model had no use"
        )
    steps = counts["steps"]
    means = {"steps_per_solution": steps / counts["rows"], "characters_per_step": counts["characters"] / max(1, steps)}
    return StageResult(metrics={**counts, **means}, data=context.directory / ROWS)


def dry_run(config: SegmentStage, context: StageContext) -> list[str]:
    """How steps are made; the model's settings are checked."""
    how = config.segment
    lines = [f"steps by {how.method}" + (f", {how.shortest} to {how.longest} characters" * (how.method == "rules"))]
    if (model := _model(config)) is not None:
        settings = model.settings()
        model.close()
        lines[0] = f"steps by {settings['judge']}, prompt {settings['prompt_hash']}; where it fails, {lines[0]}"
    if config.separator is not None:
        lines.append(f"solutions are written anew with {config.separator!r} between their steps")
    return lines


def identity_extra(config: SegmentStage) -> dict[str, Any]:
    """Versions of the segmentation, and the prompt."""
    from reasonrl.prm import resegment, segment

    if config.llm is None:
        return {"segmenter": segment.VERSION}
    own = Path(resegment.__file__).with_name("resegment.j2")
    text = (own if config.llm.prompt is None else Path(config.llm.prompt).expanduser()).read_bytes()
    return {
        "segmenter": segment.VERSION,
        "resegmenter": resegment.VERSION,
        "prompt": hashlib.sha256(text).hexdigest()[:16],
    }


def resume_point(directory: Path) -> str | None:
    """How much is there: `3 shards done, 120 answers kept`."""
    from reasonrl.prm.resegment_run import ASKED, COUNTS

    done = sum(1 for _ in directory.glob(f"{COUNTS}/*.json"))
    answers = sum(path.read_bytes().count(b"\n") for path in directory.glob(f"{ASKED}/*.jsonl"))
    return f"{done} shards done, {answers:,} answers kept" if done or answers else None


def _model(config: SegmentStage) -> LLMSegmenter | None:
    if config.llm is None:
        return None
    from reasonrl.prm.resegment import LLMSegmenter
    from reasonrl.prm.segment import REFLECTION, Rules

    how = config.segment
    rules = Rules(how.shortest, how.longest, REFLECTION if how.reflection is None else how.reflection)
    given = config.llm.model_dump(exclude={"endpoint"})
    return LLMSegmenter(config.llm.endpoint.settings(), rules, **given)
