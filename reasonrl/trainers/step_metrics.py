"""The figures of one step of PPO: sums over all ranks, then one flat line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from reasonrl.algorithms.groups import group_figures
from reasonrl.algorithms.statistics import explained_variance, residual_moments, value_and_return_means
from reasonrl.rewards.combining import joined
from reasonrl.rollout.engine import Sample
from reasonrl.trainers._trl import Collected
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.completion_rows import cached_tokens, column_of
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.synthesis_metrics import add_synthesis_sums
from reasonrl.trainers.targets import Targets


@dataclass(frozen=True)
class Seen:
    """The drawn and scored samples of this rank that figures of a step are made of.

    Attributes:
        rows: the data set's, one a sample.
        samples: in the order of their places.
        scores: (N,) total rewards after the stop rule, NaN where there is none.
        finished: (N,) whether each stopped by itself.
        verdicts: one a sample; None where the rewards give no verdicts.
        scalars: what reward functions logged.
    """

    rows: Sequence[dict[str, Any]]
    samples: Sequence[Sample]
    scores: torch.Tensor
    finished: torch.Tensor
    verdicts: Sequence[str | None] | None
    scalars: dict[str, float]


def seen_in(collected: Collected, batch: RolloutBatch) -> Seen:
    """The samples of a batch, where it holds all that was drawn."""
    verdicts = column_of(collected.extra, "verdict", len(batch))
    return Seen(collected.rows, collected.samples, batch.scores, batch.finished, verdicts, collected.metrics)


def step_metrics(
    seen: Seen,
    batch: RolloutBatch,
    targets: Targets,
    meter: Meter,
    accelerator: Accelerator,
    step: int,
    seconds: float,
) -> dict[str, Any]:
    """What docs/metrics.md calls a step's line, but for what engine, critic and predictor add. A collective call.

    Args:
        seen: what was drawn on this rank; ranks may have drawn different numbers.
        batch, targets: this rank's share of what is trained on.
        meter: the step's sums so far; the batch's are added.
        accelerator: the trainer's.
        step: steps made before this one: the version of the weights that it trained.
        seconds: wall time of the step.
    """
    _add_sums(meter, seen, batch, targets, step, accelerator)
    metrics: dict[str, Any] = {**_logged_by_rewards(seen), **meter.means()}
    metrics["reward_std"] = max(metrics.pop("reward_square", 0.0) - metrics.get("reward", 0.0) ** 2, 0.0) ** 0.5
    if targets.values is not None and targets.returns is not None:
        moments = residual_moments(targets.values, targets.returns, targets.mask)
        moments = accelerator.reduce(moments, reduction="sum")
        metrics["explained_variance"] = explained_variance(moments)
        metrics["value_mean"], metrics["return_mean"] = value_and_return_means(moments)
    if targets.importance is not None:
        largest = accelerator.gather(targets.importance.ratio.max().unsqueeze(0))
        metrics["sampling/importance_ratio_max"] = float(largest.max())
    tokens, samples, longest, shortest, oldest, device_mb = _totals(seen, step, accelerator)
    if device_mb > 0:
        metrics["memory/device_mb"] = device_mb
    return {
        **metrics,
        "completions/min_length": shortest,
        "completions/max_length": longest,
        "rollout/staleness_max": int(oldest),
        "samples": int(samples),
        "tokens": tokens,
        **meter.times,
        "time/step": seconds,
        "rate/tokens_per_second": tokens / seconds,
        "memory/rss_mb": psutil.Process().memory_info().rss / 2**20,
    }


def equal_groups(seen: Seen, num_generations: int, above: float) -> dict[str, float]:
    """The shares of prompts whose samples all have the same score, are all right and are all wrong (`group_figures`);
    the samples of a prompt lie next to each other, over all ranks. A collective call.
    """
    if num_generations < 2:
        return {}
    scores = gather_object(seen.scores.tolist())
    return group_figures(scores, num_generations, above)


Behaviours = Callable[[Sequence[str]], dict[str, Sequence[bool]]]
"""Tells of responses, by behaviour, whether each shows it; of the first few alone, if it likes."""


def add_behaviours(meter: Meter, samples: Sequence[Sample], tell: Behaviours | None) -> None:
    """Add the share of responses that show each behaviour, `behaviour/<name>`."""
    for name, shown in tell([sample.text for sample in samples]).items() if tell is not None else ():
        meter.add(f"behaviour/{name}", float(sum(shown)), len(shown))


def start_measuring() -> None:
    """Begin a step's peak of device memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _totals(seen: Seen, step: int, accelerator: Accelerator) -> tuple[float, ...]:
    """Over all ranks: tokens, samples, longest and shortest response, age of the oldest weights, peak MiB of a device
    (0 without one).
    """
    lengths = [len(sample.token_ids) for sample in seen.samples]
    prompts = sum(len(sample.request.prompt_ids) for sample in seen.samples)
    ages = [step - sample.weight_version for sample in seen.samples]
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    mine = [float(prompts + sum(lengths)), float(len(lengths)), max(lengths), min(lengths), max(ages), device]
    told = accelerator.gather(torch.tensor([mine], dtype=torch.float64, device=accelerator.device))
    sums, most, least = told.sum(dim=0), told.amax(dim=0), told.amin(dim=0)
    return tuple(map(float, (sums[0], sums[1], most[2], least[3], most[4], most[5])))


def _add_sums(
    meter: Meter, seen: Seen, batch: RolloutBatch, targets: Targets, step: int, accelerator: Accelerator
) -> None:
    scored = ~seen.scores.isnan()
    scores = seen.scores[scored].double()
    count = len(seen.samples)
    meter.add("reward", scores.sum(), len(scores))
    meter.add("reward_square", scores.square().sum(), len(scores))
    meter.add("unscored", float((~scored).sum()), 1 / accelerator.num_processes)
    meter.add("completions/mean_length", float(sum(len(sample.token_ids) for sample in seen.samples)), count)
    meter.add("completions/truncated_fraction", float((~seen.finished).sum()), count)
    meter.add("rollout/staleness_mean", float(sum(step - sample.weight_version for sample in seen.samples)), count)
    meter.add("rate/prefix_hits", *cached_tokens(seen.samples))
    if seen.verdicts is not None:
        flags = zip(seen.verdicts, seen.finished.tolist(), scored.tolist(), strict=True)
        right = sum(verdict == "correct" and stopped for verdict, stopped, counts in flags if counts)
        meter.add("accuracy", float(right), float(scored.sum()))
    add_synthesis_sums(meter, seen, scored.tolist(), accelerator.num_processes)
    if targets.kl is not None:
        meter.add("kl", targets.kl.sum(), float(targets.mask.sum()))
    drawn = float(sum(batch.lengths) - sum(batch.prompt_lengths))
    meter.add("masked_fraction", drawn - float((targets.mask > 0).sum()), drawn)


def _logged_by_rewards(seen: Seen) -> dict[str, float]:
    """Scalars that reward functions logged, averaged or added up over the ranks that logged them."""
    logged: dict[str, list[float]] = {}
    for scalars in gather_object([seen.scalars]):
        for name, value in scalars.items():
            logged.setdefault(name, []).append(value)
    return {name: joined(name, values) for name, values in sorted(logged.items())}
