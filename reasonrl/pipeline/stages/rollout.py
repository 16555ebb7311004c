"""Stage kind `rollout`: n samples a problem, verified, in one parquet file for training on them later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, StageFailed
from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from reasonrl.recipe import RolloutStage

UNIT = "samples"
FORMAT = 1
"""Of the rows; a newer one is made from the same samples."""


def run(config: RolloutStage, context: StageContext) -> StageResult:
    """Draws what is missing, verifies it and writes the rows; goes on from the samples on disk.

    Returns:
        Figures of the samples; `data` is the parquet file.

    Raises:
        StageFailed: `keep` leaves no problem.
        RunError: the samples on disk were made with other settings.
    """
    from reasonrl.eval.rollouts import collect
    from reasonrl.pipeline.stages.common import load_source, required_columns
    from reasonrl.pipeline.stages.eval import engine_of
    from reasonrl.rewards.pool import close_shared_pools
    from reasonrl.rollout import SamplingParams

    source = load_source(config.data, context, required_columns(config.reward))
    total = len(source.rows) * config.n
    context.report_progress(0, total, UNIT, "loading the model")
    model, engine, tokenizer, made_by = engine_of(config, context, config.max_tokens)
    context.report_progress(0, total, UNIT)
    try:
        collected = collect(
            engine,
            tokenizer,
            source.rows,
            n=config.n,
            params=SamplingParams(config.max_tokens, config.temperature, config.top_p),
            directory=context.directory,
            seed=context.seed,
            stage=context.name,
            reward=config.reward,
            keep=config.keep,
            model=model,
            system_prompt=source.system_prompt,
            template=source.template,
            base_dir=context.base_directory,
            made_by=made_by,
            texts=_tokenizer(config, context),
            about={"source": source.rows.report.source, "set_aside": source.rows.report.reasons()},
            on_progress=lambda done, of, right: context.report_progress(done, of, UNIT, _note(right)),
            at_safe_point=context.raise_if_stopping,
        )
    except DataError as problem:
        if config.keep is not None and "keep:" in str(problem):
            raise StageFailed(f"stage {context.name!r}: {problem}") from problem
        raise
    finally:
        engine.close()
        close_shared_pools()
    return StageResult(metrics=headline(collected.statistics), data=collected.path)


def headline(statistics: dict[str, Any]) -> dict[str, Any]:
    """The stage's final figures."""
    before = statistics.get("before_keep") or statistics
    found = {
        "problems": statistics["problems"],
        "samples": statistics["samples"],
        "drawn_problems": before["problems"],
        "drawn_samples": before["samples"],
        "pass_rate": before["pass_rate"]["mean"],
        "kept_pass_rate": statistics["pass_rate"]["mean"],
        "truncated": before["truncated"],
        "unscored": before["unscored"],
        "mean_tokens": before["lengths"]["all"]["mean"],
        "response_tokens": before["response_tokens"],
    }
    speed = statistics.get("speed")
    if speed is not None:
        found |= {name: speed[name] for name in ("tokens_per_second", "cost")}
    return {name: value for name, value in found.items() if value is not None}


def dry_run(config: RolloutStage, context: StageContext) -> list[str]:
    """What would be drawn and kept."""
    kept = "" if config.keep is None else f"; kept are problems with {config.keep}"
    return [
        f"{config.n} samples a problem at temperature {config.temperature:g}, top_p {config.top_p:g}, at most"
        f" {config.max_tokens:,} tokens; seeds from {context.seed}{kept}"
    ]


def identity_extra(config: RolloutStage) -> dict[str, Any]:
    """Versions of the rules in a composed reward: its samples cannot be judged again from what is stored."""
    reward, versions = _versions(config)
    return {} if reward == "math" else versions


def extensible_extra(config: RolloutStage) -> dict[str, Any]:
    """Versions with which rows are made anew from the samples there are."""
    reward, versions = _versions(config)
    return {"rows": FORMAT, **({"grader": versions["math"]} if reward == "math" else {})}


def resume_point(directory: Path) -> str | None:
    """How many samples are there."""
    from reasonrl.eval.rollouts import SAMPLES_FOLDER
    from reasonrl.eval.samples import SAMPLES, UNJUDGED

    there = sum(_lines(directory / SAMPLES_FOLDER / name) for name in (SAMPLES, UNJUDGED))
    return f"{there:,} samples kept" if there else None


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _versions(config: RolloutStage) -> tuple[Any, dict[str, int]]:
    from reasonrl.eval.scoring import plain_spec
    from reasonrl.rewards.versions import rule_versions

    reward = plain_spec(config.reward)
    return reward, dict(rule_versions(reward))


def _tokenizer(config: RolloutStage, context: StageContext) -> Any:
    if config.tokenizer is None:
        return None
    from reasonrl.models import load_tokenizer

    return load_tokenizer(context.model_of(config.tokenizer))


def _note(right: float | None) -> str:
    return "" if right is None else f"{100 * right:.1f} % right"
