"""The figures of one step of PPO: sums over all ranks, then one flat line."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from reasonrl.algorithms.statistics import explained_variance, residual_moments
from reasonrl.trainers._trl import Collected
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.completion_rows import cached_tokens, column_of
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.targets import Targets


def step_metrics(
    collected: Collected,
    batch: RolloutBatch,
    targets: Targets,
    meter: Meter,
    accelerator: Accelerator,
    step: int,
    seconds: float,
) -> dict[str, Any]:
    """What docs/metrics.md calls a step's line, but for what engine, critic and predictor add. A collective call.

    Args:
        collected, batch, targets: this rank's share of the step.
        meter: the step's sums so far; the batch's are added.
        accelerator: the trainer's.
        step: steps made before this one: the version of the weights that it trained.
        seconds: wall time of the step.
    """
    _add_sums(meter, collected, batch, targets, step, accelerator)
    metrics: dict[str, Any] = {**_logged_by_rewards(collected), **meter.means()}
    metrics["reward_std"] = max(metrics.pop("reward_square", 0.0) - metrics.get("reward", 0.0) ** 2, 0.0) ** 0.5
    if targets.values is not None and targets.returns is not None:
        moments = residual_moments(targets.values, targets.returns, targets.mask)
        metrics["explained_variance"] = explained_variance(accelerator.reduce(moments, reduction="sum"))
    if targets.importance is not None:
        largest = accelerator.gather(targets.importance.ratio.max().unsqueeze(0))
        metrics["sampling/importance_ratio_max"] = float(largest.max())
    lengths = accelerator.gather(_lengths(collected, accelerator))
    prompts = torch.tensor([float(sum(batch.prompt_lengths))], dtype=lengths.dtype, device=lengths.device)
    tokens = float(lengths.sum()) + float(accelerator.gather(prompts).sum())
    return {
        **metrics,
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "rollout/staleness_max": int(accelerator.gather(_ages(collected, step, accelerator)).max()),
        "samples": len(lengths),
        "tokens": tokens,
        **meter.times,
        "time/step": seconds,
        "rate/tokens_per_second": tokens / seconds,
        "memory/rss_mb": psutil.Process().memory_info().rss / 2**20,
    }


def _add_sums(
    meter: Meter, collected: Collected, batch: RolloutBatch, targets: Targets, step: int, accelerator: Accelerator
) -> None:
    scored = ~batch.scores.isnan()
    scores = batch.scores[scored].double()
    meter.add("reward", scores.sum(), len(scores))
    meter.add("reward_square", scores.square().sum(), len(scores))
    meter.add("unscored", float((~scored).sum()), 1 / accelerator.num_processes)
    lengths, ages = _lengths(collected, accelerator), _ages(collected, step, accelerator)
    meter.add("completions/mean_length", lengths.sum(), len(lengths))
    meter.add("completions/truncated_fraction", float((~batch.finished).sum()), len(lengths))
    meter.add("rollout/staleness_mean", ages.sum(), len(ages))
    meter.add("rate/prefix_hits", *cached_tokens(collected.samples))
    verdicts = column_of(collected.extra, "verdict", len(batch))
    if verdicts is not None:
        flags = zip(verdicts, batch.finished.tolist(), scored.tolist(), strict=True)
        right = sum(verdict == "correct" and stopped for verdict, stopped, counts in flags if counts)
        meter.add("accuracy", float(right), float(scored.sum()))
    if targets.kl is not None:
        meter.add("kl", targets.kl.sum(), float(targets.mask.sum()))


def _lengths(collected: Collected, accelerator: Accelerator) -> torch.Tensor:
    lengths = [float(len(sample.token_ids)) for sample in collected.samples]
    return torch.tensor(lengths, dtype=torch.float64, device=accelerator.device)


def _ages(collected: Collected, step: int, accelerator: Accelerator) -> torch.Tensor:
    return torch.tensor([step - sample.weight_version for sample in collected.samples], device=accelerator.device)


def _logged_by_rewards(collected: Collected) -> dict[str, float]:
    """Scalars that reward functions logged, averaged over the ranks that logged them."""
    logged: dict[str, list[float]] = {}
    for scalars in gather_object([collected.metrics]):
        for name, value in scalars.items():
            logged.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(logged.items())}
