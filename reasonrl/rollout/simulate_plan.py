"""The plan for a fleet: every policy on the log's steps, with intervals, and what streaming and overlap add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasonrl.errors import DataError
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.simulate import (
    BASELINE,
    POLICIES,
    Recent,
    SimulationError,
    fit_spans,
    forecast,
    is_oracle,
    makespans,
    resample_prompts,
    run_policies,
    simulation_error,
)
from reasonrl.rollout.simulate_fleet import Fleet, Job, Timeline
from reasonrl.rollout.simulate_log import RolloutLog
from reasonrl.rollout.simulate_step import StepTimes, run_pipeline, verify_seconds

FEWEST_STEPS = 8
"""With fewer logged steps their spread is no estimate: prompts are resampled instead."""

_RESAMPLED_JOBS = 50_000
_RESAMPLES = (20, 100)
_STEP_RESAMPLES = 2_000


@dataclass(frozen=True)
class PlanSettings:
    """What to plan for.

    Attributes:
        servers: engines.
        curve: seconds a decode step by batch; fitted to the log's stamps if None.
        max_batch: most samples an engine decodes together.
        prefill_seconds_per_token: cost of a prompt token that an engine has not cached.
        verify_seconds: time of checking one answer; the log's where None (0 if it has none).
        verify_workers: checks at a time.
        train_seconds: of one step; the log's where None (0 if it has none).
        prompts_per_step: replay steps of so many prompts drawn from the log; the logged steps themselves if None.
        confidence: coverage of the intervals.
        seed: of the resampling.
    """

    servers: int
    curve: LatencyCurve | None = None
    max_batch: int = 256
    prefill_seconds_per_token: float = 0.0
    verify_seconds: float | None = None
    verify_workers: int = 1
    train_seconds: float | None = None
    prompts_per_step: int | None = None
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("servers", "max_batch", "verify_workers", "prompts_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} = {value}, but it must be at least 1")
        for name in ("prefill_seconds_per_token", "verify_seconds", "train_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise DataError(f"{name} = {value}, allowed are seconds from 0")
        if not 0 < self.confidence < 1:
            raise DataError(f"confidence = {self.confidence}, allowed are values between 0 and 1")


@dataclass(frozen=True)
class PolicyResult:
    """One policy over all steps.

    Attributes:
        policy: its name.
        makespan: mean seconds from a step's first token to its last.
        gain, low, high: total time under round robin over the total under this policy, and its interval.
        idle_share: of each server, idle seconds over all steps' makespans.
        prefix_hit_rate: share of the calls whose prompt their engine had already.
        oracle: whether it uses the true lengths.
    """

    policy: str
    makespan: float
    gain: float
    low: float
    high: float
    idle_share: tuple[float, ...]
    prefix_hit_rate: float
    oracle: bool


@dataclass(frozen=True)
class OverlapResult:
    """A way to run whole steps: mean seconds a step, and the gain over round robin, batch-then-score, no staleness."""

    policy: str
    streaming: bool
    max_staleness: int
    seconds: float
    gain: float
    generator_idle: float
    trainer_idle: float


@dataclass(frozen=True)
class FleetPlan:
    """The answer.

    Attributes:
        steps, samples, tokens: what was replayed.
        skipped: rows of the log without a usable length.
        curve: the latency curve, and whether it was fitted to the log.
        recall, spearman, dispatch_on: quality of the predicted lengths (see `Forecast`).
        error: simulated against measured makespan; None without stamps.
        interval: how the intervals were made.
        policies: in the order of `POLICIES`.
        overlaps: empty where neither checking nor training takes time.
    """

    settings: PlanSettings
    steps: int
    samples: int
    tokens: int
    skipped: int
    curve: LatencyCurve
    curve_fitted: bool
    recall: float | None
    spearman: float | None
    dispatch_on: float
    error: SimulationError | None
    interval: str
    policies: tuple[PolicyResult, ...]
    overlaps: tuple[OverlapResult, ...]

    @property
    def best(self) -> PolicyResult:
        """The fastest policy that a run could follow."""
        return min((row for row in self.policies if not row.oracle), key=lambda row: row.makespan)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def plan_fleet(log: RolloutLog, settings: PlanSettings) -> FleetPlan:
    """Replay a log over a fleet under every policy.

    Raises:
        DataError: the log has no stamps and no latency curve is given.
    """
    curve = settings.curve or fit_spans(list(log.steps.values()))
    fleet = Fleet(settings.servers, curve, settings.max_batch, settings.prefill_seconds_per_token)
    predicted = forecast(log, seed=settings.seed)
    logged, names = list(predicted.steps.values()), list(POLICIES)
    generator = np.random.default_rng(settings.seed)
    steps: Sequence[Sequence[Job]] = logged
    recent: list[Recent] = list(predicted.recent.values())
    if settings.prompts_per_step is not None:
        steps = _drawn_steps(logged, generator, settings.prompts_per_step)
        recent = [[job.tokens for jobs in logged for job in jobs]] * len(steps)
    runs = run_policies(steps, recent, fleet, names)
    seconds = makespans(runs)
    if settings.prompts_per_step is not None:
        base = seconds[:, [names.index(BASELINE)]]
        gains, interval = base / seconds, f"spread of one step over {len(steps)} drawn ones"
    elif len(steps) >= FEWEST_STEPS:
        gains, interval = _gains_over_steps(seconds, names, generator), f"bootstrap over {len(steps)} steps"
    else:
        gains = _gains_over_prompts(steps, recent, fleet, names, generator)
        interval = f"bootstrap over the prompts of {len(steps)} steps, {len(gains)} resamples"
    ends = np.quantile(gains, [(1 - settings.confidence) / 2, (1 + settings.confidence) / 2], axis=0)
    policies = tuple(
        _result(name, [row[column] for row in runs], seconds, column, (float(ends[0, column]), float(ends[1, column])))
        for column, name in enumerate(names)
    )
    best = min((row for row in policies if not row.oracle), key=lambda row: row.makespan).policy
    chosen = list(dict.fromkeys([BASELINE, best]))
    timelines = {name: [row[names.index(name)] for row in runs] for name in chosen}
    return FleetPlan(
        settings=settings,
        steps=len(steps),
        samples=sum(len(jobs) for jobs in steps),
        tokens=sum(job.tokens for jobs in steps for job in jobs),
        skipped=log.skipped,
        curve=curve,
        curve_fitted=settings.curve is None,
        recall=predicted.recall,
        spearman=predicted.spearman,
        dispatch_on=predicted.dispatch_on,
        error=simulation_error(log, fleet, curve_is_given=settings.curve is not None),
        interval=interval,
        policies=policies,
        overlaps=_overlaps(log, timelines, settings),
    )


def _drawn_steps(logged: Sequence[Sequence[Job]], generator: np.random.Generator, prompts: int) -> list[Sequence[Job]]:
    first = resample_prompts(logged, generator, prompts)
    return [*first, *(resample_prompts(logged, generator, prompts)[0] for _ in range(_count(len(first[0])) - 1))]


def _count(jobs: int) -> int:
    """How many resamples of so many jobs are worth their time."""
    return max(_RESAMPLES[0], min(_RESAMPLES[1], _RESAMPLED_JOBS // max(1, jobs)))


def _gains_over_steps(
    seconds: NDArray[np.float64], names: Sequence[str], generator: np.random.Generator
) -> NDArray[np.float64]:
    """(resamples, policies) gains over the baseline with steps drawn with replacement."""
    picks = generator.integers(len(seconds), size=(_STEP_RESAMPLES, len(seconds)))
    totals = seconds[picks].sum(axis=1)
    return np.asarray(totals[:, [names.index(BASELINE)]] / totals)


def _gains_over_prompts(
    steps: Sequence[Sequence[Job]],
    recent: Sequence[Recent],
    fleet: Fleet,
    names: Sequence[str],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """(resamples, policies) gains over the baseline with the prompts of every step drawn with replacement."""
    totals = np.stack(
        [
            makespans(run_policies(resample_prompts(steps, generator), recent, fleet, names)).sum(axis=0)
            for _ in range(_count(sum(len(jobs) for jobs in steps)))
        ]
    )
    return np.asarray(totals[:, [names.index(BASELINE)]] / totals)


def _result(
    name: str, runs: Sequence[Timeline], seconds: NDArray[np.float64], column: int, ends: tuple[float, float]
) -> PolicyResult:
    total = seconds[:, column].sum()
    idle = np.array([run.idle for run in runs]).sum(axis=0) / total
    return PolicyResult(
        policy=name,
        makespan=float(seconds[:, column].mean()),
        gain=float(seconds[:, list(POLICIES).index(BASELINE)].sum() / total),
        low=ends[0],
        high=ends[1],
        idle_share=tuple(idle.tolist()),
        prefix_hit_rate=sum(run.prefix_hits for run in runs) / sum(len(run.finishes) for run in runs),
        oracle=is_oracle(name),
    )


def _overlaps(
    log: RolloutLog, timelines: Mapping[str, Sequence[Timeline]], settings: PlanSettings
) -> tuple[OverlapResult, ...]:
    train = settings.train_seconds if settings.train_seconds is not None else log.train_seconds or 0.0
    check = settings.verify_seconds if settings.verify_seconds is not None else _logged_check(log)
    if not train and not check:
        return ()
    rows: list[OverlapResult] = []
    for name, runs in timelines.items():
        for streaming in (False, True):
            steps = []
            for run in runs:
                ends = [finish.finished for finish in run.finishes]
                checked = verify_seconds(ends, [check] * len(ends), settings.verify_workers, streaming=streaming)
                steps.append(StepTimes(run.makespan, checked, train))
            for staleness in (0, 1):
                times = run_pipeline(steps, staleness)
                seconds = times.total / len(steps)
                gain = rows[0].seconds / seconds if rows else 1.0
                rows.append(
                    OverlapResult(name, streaming, staleness, seconds, gain, times.generator_idle, times.trainer_idle)
                )
    return tuple(rows)


def _logged_check(log: RolloutLog) -> float:
    """Mean seconds of checking one answer: as timed a sample, else a step's reward time over its samples."""
    timed = [one.verify_seconds for samples in log.steps.values() for one in samples if one.verify_seconds is not None]
    if timed:
        return sum(timed) / len(timed)
    return (log.reward_seconds or 0.0) * len(log.steps) / log.samples
