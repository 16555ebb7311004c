"""Stage kind `rollout`: n samples a problem, verified, in one parquet file for training on them later."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, StageFailed
from reasonrl.pipeline.context import StageContext, StageResult

if TYPE_CHECKING:
    from reasonrl.data_tools.files import PlacedRow
    from reasonrl.eval.rollouts import Collected
    from reasonrl.recipe import RolloutStage
    from reasonrl.recipe.rollout_stage import LogSource

UNIT = "samples"
LOOKED_AT = 64
FORMAT = 2
"""Of the rows; a newer one is made from the same samples."""


def run(config: RolloutStage, context: StageContext) -> StageResult:
    """Draws what is missing, or reads logs, verifies it and writes the rows; goes on from the samples on disk.

    Returns:
        Figures of the samples; `data` is the parquet file.

    Raises:
        StageFailed: `keep` leaves no problem.
        RunError: the samples on disk were made with other settings.
        DataError: a sample of the logs is damaged, and the recipe refuses such.
    """
    with _told(config, context):
        collected = _draw(config, context) if config.logs is None else _import(config, context)
    without = collected.statistics["without"]
    if without["logprobs"]:
        context.say(f"{without['logprobs']:,} of {collected.statistics['samples']:,} samples have no log-probabilities")
    return StageResult(metrics=headline(collected.statistics), data=collected.path)


def _draw(config: RolloutStage, context: StageContext) -> Collected:
    from reasonrl.eval.recording import SampleOrder
    from reasonrl.eval.rollouts import SAMPLES_FOLDER, collect
    from reasonrl.pipeline.stages.common import load_source, required_columns
    from reasonrl.pipeline.stages.eval import engine_of
    from reasonrl.rollout import SamplingParams

    assert config.data is not None and config.n is not None and config.max_tokens is not None, "the schema holds it"
    source = load_source(config.data, context, required_columns(config.reward))
    total = len(source.rows) * config.n
    context.report_progress(0, total, UNIT, "loading the model")
    model, engine, tokenizer, made_by = engine_of(config, context, config.max_tokens)
    context.report_progress(0, total, UNIT)
    try:
        return collect(
            engine,
            tokenizer,
            source.rows,
            SampleOrder(
                n=config.n,
                params=SamplingParams(config.max_tokens, config.temperature, config.top_p, config.stop_strings),
                directory=context.directory,
                name=SAMPLES_FOLDER,
                seed=context.seed,
                stage=context.name,
                reward=config.reward,
                model=model,
                system_prompt=source.system_prompt,
                template=source.template,
                base_dir=context.base_directory,
                made_by=made_by,
            ),
            keep=config.keep,
            texts=None if config.tokenizer is None else _tokenizer(config, context),
            about={"source": source.rows.report.source, "set_aside": source.rows.report.reasons()},
            on_progress=lambda done, of, right: context.report_progress(done, of, UNIT, _note(right)),
            at_safe_point=context.raise_if_stopping,
        )
    finally:
        engine.close()


def _import(config: RolloutStage, context: StageContext) -> Collected:
    from reasonrl.eval.rollouts import import_logs

    logs = config.logs
    assert logs is not None, "asked for with logs only"
    collected = import_logs(
        itertools.islice(_log_rows(logs, context), logs.limit),
        directory=context.directory,
        columns={str(ours): theirs for ours, theirs in logs.columns.items()},
        reward=config.reward,
        verify=config.verify,
        damaged=config.damaged,
        keep=config.keep,
        texts=(lambda: _tokenizer(config, context)) if config.tokenizer or config.model else None,
        system_prompt=logs.system_prompt,
        template=logs.template,
        base_dir=context.base_directory,
        about={"source": str(logs.path or logs.hub)},
        on_progress=lambda done: context.report_progress(done, None, UNIT),
        at_safe_point=context.raise_if_stopping,
    )
    aside = collected.statistics["imported"]["set_aside"]
    if aside:
        words = ", ".join(f"{count:,} x {kind}" for kind, count in aside.items())
        context.say(f"samples set aside: {words}; {context.directory / 'set_aside.jsonl'} says which and why")
    return collected


def _log_rows(logs: LogSource, context: StageContext) -> Iterator[PlacedRow]:
    """The raw rows of the logs, one at a time."""
    from reasonrl.data_tools.loading import placed_rows
    from reasonrl.recipe import Reference

    path = context.data_of(logs.path) if isinstance(logs.path, Reference) else logs.path
    return placed_rows(
        list(path) if isinstance(path, tuple) else path,
        logs.hub,
        format=logs.format,
        split=logs.split,
        name=logs.name,
        revision=logs.revision,
        base_dir=context.base_directory,
    )


@contextmanager
def _told(config: RolloutStage, context: StageContext) -> Iterator[None]:
    """Pools of processes closed at the end; a condition that keeps nothing is the stage's failure, not the data's."""
    from reasonrl.rewards.pool import close_shared_pools

    try:
        yield
    except DataError as problem:
        if config.keep is not None and str(problem).startswith("keep:"):
            raise StageFailed(f"stage {context.name!r}: {problem}") from problem
        raise
    finally:
        close_shared_pools()


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
    if config.logs is not None:
        return [*_log_lines(config, context), f"verdicts by the reward: {config.verify}{kept}"]
    return [
        f"{config.n} samples a problem at temperature {config.temperature:g}, top_p {config.top_p:g}, at most"
        f" {config.max_tokens:,} tokens; seeds from {context.seed}{kept}"
    ]


def _log_lines(config: RolloutStage, context: StageContext) -> list[str]:
    """What the first rows of the logs hold."""
    from reasonrl.eval.rollouts.logs import Damaged, read_logs
    from reasonrl.recipe import Reference

    logs = config.logs
    assert logs is not None, "asked for with logs only"
    if logs.hub is not None:
        return [f"logs: hub dataset {logs.hub}, not looked at"]
    if isinstance(logs.path, Reference) and not context.is_available(logs.path):
        return [f"logs: {logs.path}, not made yet: nothing to look at"]
    columns = {str(ours): theirs for ours, theirs in logs.columns.items()}
    first = list(itertools.islice(read_logs(_log_rows(logs, context), columns), LOOKED_AT))
    bad = [item for item in first if isinstance(item, Damaged)]
    names = dict.fromkeys(name for item in first if not isinstance(item, Damaged) for name in item.values)
    lines = [
        f"logs: of the first {len(first)} samples {len(first) - len(bad)} can be used; they have {', '.join(names)}"
    ]
    return lines + [f"logs: {item.place}: {item.reason}" for item in bad[:3]]


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
    """The tokenizer that gives ids to texts."""
    from reasonrl.models import load_tokenizer

    named = config.tokenizer if config.tokenizer is not None else config.model
    assert named is not None, "asked for with one of both only"
    return load_tokenizer(context.model_of(named))


def _note(right: float | None) -> str:
    return "" if right is None else f"{100 * right:.1f} % right"
