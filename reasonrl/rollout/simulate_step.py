"""From the end of each sample to the end of the run, in simulated time: checking answers, and overlap of steps."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


def verify_seconds(
    finished: Sequence[float], seconds: Sequence[float], workers: int, *, streaming: bool = True
) -> float:
    """When the last answer is checked, in seconds from the start of generation.

    Args:
        finished: when each sample ended.
        seconds: how long the check of each takes, in the same order.
        workers: how many checks run at a time; they begin in the order in which samples ended.
        streaming: begin as soon as a sample ends; otherwise only when the last one has.

    Raises:
        ValueError: `workers` < 1, or not one duration a sample.
    """
    if workers < 1 or len(finished) != len(seconds):
        raise ValueError(f"{workers} workers, {len(finished)} samples, {len(seconds)} durations of checks")
    if not finished:
        return 0.0
    generated = max(finished)
    free = [0.0] * workers
    for end, duration in sorted(zip(finished, seconds, strict=True)):
        begin = max(free[0], end if streaming else generated)
        heapq.heapreplace(free, begin + duration)
    return max(generated, *free)


@dataclass(frozen=True)
class StepTimes:
    """One step: seconds to generate it, from its start until it is generated and checked, and to train on it."""

    generate: float
    checked: float
    train: float


@dataclass(frozen=True)
class PipelineTimes:
    """A run of steps.

    Attributes:
        total: seconds until the last update.
        generator_idle: share of the total in which nothing is generated.
        trainer_idle: share of the total in which nothing is trained.
        lags: by how many updates the weights that drew each step were older than those it is trained on.
    """

    total: float
    generator_idle: float
    trainer_idle: float
    lags: tuple[int, ...]


def run_pipeline(steps: Sequence[StepTimes], max_staleness: int = 0) -> PipelineTimes:
    """Steps one after another, generation running ahead of training by at most `max_staleness` updates.

    Step k may be generated once the step before is, and once update k - 1 - max_staleness is made; it is trained on
    once it is checked and the update before is made. 0: nothing overlaps. It takes the newest weights there are.

    Raises:
        ValueError: `max_staleness` is negative.
    """
    if max_staleness < 0:
        raise ValueError(f"max_staleness = {max_staleness}, allowed are 0 (no overlap) and above")
    updated: list[float] = []
    lags: list[int] = []
    generator_free = 0.0
    for number, step in enumerate(steps):
        needed = number - 1 - max_staleness
        begin = max(generator_free, updated[needed] if needed >= 0 else 0.0)
        lags.append(number - bisect_right(updated, begin))
        generator_free = begin + step.generate
        ready = max(begin + step.checked, updated[-1] if updated else 0.0)
        updated.append(ready + step.train)
    total = updated[-1] if updated else 0.0
    generating, training = sum(step.generate for step in steps), sum(step.train for step in steps)
    return PipelineTimes(
        total,
        generator_idle=1 - generating / total if total else 0.0,
        trainer_idle=1 - training / total if total else 0.0,
        lags=tuple(lags),
    )
