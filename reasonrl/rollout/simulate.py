"""What a dispatch policy would gain: a logged length distribution replayed over a fleet in simulated time.

Policies are compared on the same samples, with the lengths predicted as the run itself would have predicted them
(from the steps before alone), and once with the true lengths as the bound of what prediction can give.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reasonrl.errors import DataError
from reasonrl.rollout.dispatch import Call, Dispatch, Lane, length_aware, length_ranges, longest_first, round_robin
from reasonrl.rollout.latency import LatencyCurve, Span, fit_latency, usual_batch
from reasonrl.rollout.lengths import LengthPredictor, Outcome, PredictorSettings
from reasonrl.rollout.simulate_fleet import Fleet, Job, Timeline, run_dispatch, run_online
from reasonrl.rollout.simulate_log import LoggedSample, RolloutLog

Recent = Sequence[float] | None
"""Lengths of the last samples before a step, whatever their prompts; None where there were none."""

Policy = Callable[[Sequence[Job], Fleet, Recent], Timeline]


def _round_robin(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
    return run_dispatch(jobs, fleet, round_robin([job.call for job in jobs], fleet.servers))


def _online(groups_together: bool) -> Policy:
    def run(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
        return run_online(jobs, fleet, groups_together=groups_together)

    return run


def _longest_first(groups_together: bool) -> Policy:
    def run(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
        calls = [job.call for job in jobs]
        return run_dispatch(jobs, fleet, longest_first(calls, fleet.servers, groups_together=groups_together))

    return run


def _length_aware(groups_together: bool) -> Policy:
    def run(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
        calls = [job.call for job in jobs]
        dealt = length_aware(
            calls, fleet.servers, fleet.curve, fleet.max_batch, lengths=recent, groups_together=groups_together
        )
        return run_dispatch(jobs, fleet, dealt)

    return run


def _length_ranges(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
    calls = [job.call for job in jobs]
    return run_dispatch(jobs, fleet, length_ranges(calls, fleet.servers, fleet.curve, fleet.max_batch))


def _knowing(policy: Policy) -> Policy:
    """The policy with the true lengths for predictions."""

    def run(jobs: Sequence[Job], fleet: Fleet, recent: Recent = None) -> Timeline:
        knowing = [replace(job, call=replace(job.call, predicted=float(job.tokens))) for job in jobs]
        return policy(knowing, fleet, [job.tokens for job in jobs])

    return run


BASELINE = "round_robin"
POLICIES: Mapping[str, Policy] = {
    BASELINE: _round_robin,
    "least_outstanding": _online(False),
    "least_outstanding, groups together": _online(True),
    "longest_first": _longest_first(False),
    "longest_first, groups together": _longest_first(True),
    "length_aware": _length_aware(False),
    "length_aware, groups together": _length_aware(True),
    "length_ranges": _length_ranges,
    "longest_first, true lengths": _knowing(_longest_first(False)),
    "length_aware, true lengths": _knowing(_length_aware(False)),
    "length_ranges, true lengths": _knowing(_length_ranges),
}
"""Name -> how a step is run. Those with true lengths are no policy that a run could follow."""


def is_oracle(policy: str) -> bool:
    """Whether a policy of `POLICIES` uses what nobody knows beforehand."""
    return policy.endswith("true lengths")


@dataclass(frozen=True)
class Forecast:
    """The samples of a log as jobs with the predictions that the run would have made, and how good these are.

    Attributes:
        steps: jobs by step.
        recent: lengths of the step before each; None for the first.
        recall: mean recall of the longest 20 % over the steps that could be predicted; None if none could.
        spearman: mean rank correlation likewise, over the steps where it is defined.
        dispatch_on: share of the steps in which the predictor would have left length-aware dispatch on.
    """

    steps: Mapping[int, tuple[Job, ...]]
    recent: Mapping[int, tuple[int, ...] | None]
    recall: float | None
    spearman: float | None
    dispatch_on: float


def forecast(log: RolloutLog, settings: PredictorSettings | None = None, seed: int = 0) -> Forecast:
    """Replay the log through a new `LengthPredictor`: each step is predicted from the steps before it.

    The jobs of a step stand in an order drawn with `seed`, groups together: a log written in the order in which samples
    ended would otherwise tell the policies what they cannot know.
    """
    predictor = LengthPredictor(settings)
    generator = np.random.default_rng(seed)
    steps: dict[int, tuple[Job, ...]] = {}
    recalls: list[float] = []
    correlations: list[float] = []
    recent: dict[int, tuple[int, ...] | None] = {}
    before: tuple[int, ...] | None = None
    on = 0
    for number, (step, logged) in enumerate(log.steps.items()):
        samples = _in_drawn_order(logged, generator)
        on += predictor.enabled
        predictions = predictor.predict([sample.prompt for sample in samples])
        steps[step] = tuple(
            Job(Call(f"{step}/{place}", sample.prompt.id, predicted, sample.prompt.tokens), sample.length)
            for place, (sample, predicted) in enumerate(zip(samples, predictions, strict=True))
        )
        recent[step], before = before, tuple(sample.length for sample in samples)
        quality = predictor.observe(Outcome(sample.prompt, sample.length) for sample in samples)
        if number:
            recalls.append(quality.recall)
            correlations += [] if math.isnan(quality.spearman) else [quality.spearman]
    return Forecast(steps, recent, _mean(recalls), _mean(correlations), on / len(log.steps))


def _in_drawn_order(samples: Sequence[LoggedSample], generator: np.random.Generator) -> list[LoggedSample]:
    groups: dict[str, list[LoggedSample]] = {}
    # The groups themselves are first put in an order that does not come from the log.
    for sample in sorted(samples, key=lambda sample: sample.prompt.id):
        groups.setdefault(sample.prompt.id, []).append(sample)
    ordered = list(groups.values())
    return [
        ordered[group][place]
        for group in generator.permutation(len(ordered)).tolist()
        for place in generator.permutation(len(ordered[group])).tolist()
    ]


def resample_prompts(
    steps: Sequence[Sequence[Job]], generator: np.random.Generator, prompts: int | None = None
) -> list[tuple[Job, ...]]:
    """Steps of prompts drawn with replacement, each with all its samples.

    Args:
        steps: logged steps.
        generator: the source of randomness.
        prompts: draw one step of so many prompts from all steps together; None: each step anew from its own prompts, as
            many as it has.
    """
    drawn = []
    for pool in [[job for step in steps for job in step]] if prompts is not None else steps:
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in pool:
            groups.setdefault((job.call.id.split("/")[0], job.call.group), []).append(job)
        names = list(groups)
        picks = generator.integers(len(names), size=prompts if prompts is not None else len(names)).tolist()
        drawn.append(
            tuple(
                replace(job, call=replace(job.call, id=f"{turn}/{place}", group=f"{turn}"))
                for turn, pick in enumerate(picks)
                for place, job in enumerate(groups[names[pick]])
            )
        )
    return drawn


def run_policies(
    steps: Sequence[Sequence[Job]], recent: Sequence[Recent], fleet: Fleet, policies: Sequence[str]
) -> list[list[Timeline]]:
    """Each step, with the lengths before it, under each policy."""
    return [
        [POLICIES[name](jobs, fleet, before) for name in policies] for jobs, before in zip(steps, recent, strict=True)
    ]


def makespans(runs: Sequence[Sequence[Timeline]]) -> NDArray[np.float64]:
    """Seconds of each step under each policy: (steps, policies)."""
    return np.array([[run.makespan for run in row] for row in runs])


@dataclass(frozen=True)
class SimulationError:
    """Simulated against measured makespans of the log's own steps.

    Attributes:
        mean_absolute: mean of |simulated / measured - 1| over steps.
        mean: mean of simulated / measured - 1; above 0: the simulator is too slow.
        steps: how many steps were compared.
        held_out: whether each step's latency curve came from other steps; False: given, or the log has one step.
    """

    mean_absolute: float
    mean: float
    steps: int
    held_out: bool


def simulation_error(log: RolloutLog, fleet: Fleet, *, curve_is_given: bool) -> SimulationError | None:
    """Run every stamped step as it was sent (same servers, same starting times) and compare the makespan.

    Without a given curve, even steps are simulated with a curve fitted on odd ones and the other way about.

    Returns:
        The error; None where no step is stamped in full.
    """
    stamped = list(log.stamped.values())
    if not stamped:
        return None
    crossed = not curve_is_given and len(stamped) > 1
    errors = []
    for half in (0, 1) if crossed else (0,):
        others = [sample for samples in stamped[1 - half :: 2] for sample in samples]
        curve = fit_spans([others]) if crossed else fleet.curve
        for samples in stamped[half::2] if crossed else stamped:
            errors.append(_as_sent(samples, replace(fleet, curve=curve)) / _measured(samples) - 1)
    found = np.array(errors)
    return SimulationError(float(np.abs(found).mean()), float(found.mean()), len(errors), crossed)


def fit_spans(steps: Sequence[Sequence[LoggedSample]]) -> LatencyCurve:
    """The latency curve of stamped samples; since stamps begin at the first token, all that are open run.

    Raises:
        DataError: no sample has stamps.
    """
    spans = [sample.span for samples in steps for sample in samples if sample.span is not None]
    if not spans:
        raise DataError(
            "the log has no stamps (`started`, `finished`) to fit a latency curve to -> give one with --ptl, such as"
            " --ptl 1:0.010,64:0.018,256:0.040 (batch:seconds a decode step)"
        )
    return fit_latency(spans)


def _measured(samples: Sequence[LoggedSample]) -> float:
    spans = [sample.span for sample in samples if sample.span is not None]
    return max(span.finished for span in spans) - min(span.started for span in spans)


def _as_sent(samples: Sequence[LoggedSample], fleet: Fleet) -> float:
    """Makespan of a step sent as the log says; what waited for room waits for it here, too."""
    servers: dict[str, list[Span]] = {}
    for sample in samples:
        if sample.span is not None:
            servers.setdefault(sample.span.server, []).append(sample.span)
    begin = min(span.started for spans in servers.values() for span in spans)
    jobs, lanes = [], []
    for name, spans in sorted(servers.items()):
        spans.sort(key=lambda span: span.started)
        most = usual_batch([spans])
        calls = []
        for place, release in enumerate(_releases(spans, most, 2 * fleet.curve(most))):
            call = Call(f"{name}/{place}", f"{name}/{place}", float(spans[place].tokens))
            calls.append(call)
            jobs.append(Job(call, spans[place].tokens, release - begin))
        lanes.append(Lane(tuple(calls), most))
    # The stamps begin at the first token: what prefilling cost is in them already.
    fleet = Fleet(len(lanes), fleet.curve, max_batch=max(lane.most_running or 1 for lane in lanes))
    return run_dispatch(jobs, fleet, Dispatch(tuple(lanes))).makespan


def _releases(spans: Sequence[Span], most: int, patience: float) -> list[float]:
    """When each sample, in the order of their starts, could have begun: one that began on a server that had just been
    full (`most` open, within `patience` seconds) had waited, since the sample before it at least.
    """
    starts, ends = [span.started for span in spans], sorted(span.finished for span in spans)
    found: list[float] = []
    for start in starts:
        open_before = bisect_left(starts, start) - bisect_left(ends, start - patience)
        waited = bool(found) and open_before >= most
        found.append(found[-1] if waited else start)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
