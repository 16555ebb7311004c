"""The samples of a step as plain rows: what the completions on disk hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rollout.engine import Sample
from reasonrl.trainers._trl import Collected


def completion_rows(
    step: int,
    collected: Collected,
    scores: Sequence[float],
    advantages: Sequence[float | None],
    decode: Callable[[Sequence[int]], str],
) -> list[dict[str, Any]]:
    """One row a sample: prompt, response, reward, advantage, the columns that rewards logged, and where and when it was
    drawn (`server`, `started`, `finished`; what `reasonrl plan` reads).

    Args:
        step: counted from 1.
        collected: one rank's share of the step.
        scores: (B,) total rewards, NaN where there is none.
        advantages: (B,) means over response tokens; None of a sample that is not trained on.
        decode: prompt tokens to text.
    """
    count = len(collected.rows)
    extra = {name: column_of(collected.extra, name, count) for name in collected.extra}
    return [
        {
            "step": step,
            "id": str(row["id"]),
            "prompt": decode(sample.request.prompt_ids),
            "text": sample.text,
            "answer": str(row.get("answer", "")),
            "reward": None if score != score else score,
            "advantage": advantage,
            "length": len(sample.token_ids),
            "finish_reason": sample.finish_reason,
            "prompt_tokens": len(sample.request.prompt_ids),
            **_when(sample),
            **{name: values[place] for name, values in extra.items()},
        }
        for place, (row, sample, score, advantage) in enumerate(
            zip(collected.rows, collected.samples, scores, advantages, strict=True)
        )
    ]


def cached_tokens(samples: Sequence[Sample]) -> tuple[float, float]:
    """Prompt tokens that the engine did not have to read anew, and all prompt tokens, of the samples that say so."""
    told = [
        (sample.stamp.cached_tokens, len(sample.request.prompt_ids))
        for sample in samples
        if sample.stamp is not None and sample.stamp.cached_tokens is not None
    ]
    return float(sum(cached for cached, _ in told)), float(sum(tokens for _, tokens in told))


def column_of(extra: dict[str, list[Any]], name: str, count: int) -> Any:
    """A column that rewards logged, one value a sample; None if there is none.

    Raises:
        RewardError: it has another number of values.
    """
    if name not in extra:
        return None
    if len(extra[name]) != count:
        raise RewardError(
            f"reward: the column {name!r} was logged with {len(extra[name])} values for {count} samples -> log each"
            " column once a call, with one value per sample (do not name the same reward twice)"
        )
    return extra[name]


def _when(sample: Sample) -> dict[str, Any]:
    stamp = sample.stamp
    return {} if stamp is None else {"server": stamp.server, "started": stamp.started, "finished": stamp.finished}
