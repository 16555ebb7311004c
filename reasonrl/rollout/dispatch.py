"""Which engine draws which sample, and in which order: pure functions over frozen values.

A step's calls are either shared out at once (`round_robin`, `longest_first`, `length_aware`, `length_ranges`: a
`Dispatch`), or one by one as engines have room (`least_outstanding`). None of them draws a random number: ties go to
the earlier call and the lower engine.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reasonrl.rollout.latency import LatencyCurve

LONG_FRACTION = 0.2
"""Share of the calls that counts as the long tail (StreamRL, arXiv 2504.15930)."""


@dataclass(frozen=True)
class Call:
    """One sample to draw.

    Attributes:
        id: names the call.
        group: calls of one group share their prompt, so an engine that has drawn one holds the others' prefix.
        predicted: expected response tokens, above 0; equal numbers everywhere where nothing is known.
        prompt_tokens: tokens of the prompt.
    """

    id: str
    group: str
    predicted: float
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Lane:
    """What one engine is given: its calls in the order in which it should begin them, and how many at most may run at
    once (None: as many as the engine allows).
    """

    calls: tuple[Call, ...]
    most_running: int | None = None


@dataclass(frozen=True)
class Dispatch:
    """A whole step's calls over the engines, lane i for engine i.

    Attributes:
        lanes: one an engine; a lane may be empty.
        long_engines: how many engines, from the first, are kept for the predicted long tail; 0 without a split.
        expected_seconds: of the slowest engine by the latency model; None where none was used.
    """

    lanes: tuple[Lane, ...]
    long_engines: int = 0
    expected_seconds: float | None = None


@dataclass(frozen=True)
class EngineLoad:
    """An engine as the router sees it: predicted tokens of its unfinished calls, how many these are, whether it
    answers.
    """

    outstanding_tokens: float = 0.0
    open_calls: int = 0
    alive: bool = True


def round_robin(calls: Sequence[Call], engines: int) -> Dispatch:
    """Call i to engine i mod `engines`, in the order given: the baseline."""
    _check(engines)
    return Dispatch(tuple(Lane(tuple(calls[engine::engines])) for engine in range(engines)))


def longest_first(calls: Sequence[Call], engines: int, *, groups_together: bool = True) -> Dispatch:
    """Longest processing time first (Graham 1969): by falling predicted tokens, each to the engine with the fewest so
    far; inside an engine the longest begin first.

    With one sample at a time an engine and true lengths the longest engine takes at most 4/3 - 1/(3 engines) of the
    best possible time.

    Args:
        calls: the step's calls.
        engines: how many there are.
        groups_together: keep the calls of a group on one engine (its prompt is then prefilled once); a group weighs the
            sum of its calls.
    """
    _check(engines)
    return Dispatch(tuple(Lane(tuple(lane)) for lane in _least_loaded(calls, engines, groups_together)))


def length_aware(
    calls: Sequence[Call],
    engines: int,
    curve: LatencyCurve,
    max_batch: int,
    *,
    lengths: Sequence[float] | None = None,
    long_fraction: float = LONG_FRACTION,
    groups_together: bool = True,
) -> Dispatch:
    """The predicted long tail on engines of its own, so that it runs in small batches (StreamRL, section on
    skewness-aware dispatch).

    Every split engines = N_l + N_r is tried with both parts at least 1; a part of M calls on N engines is expected to
    take PTL(b) * length * ceil(m / b) seconds with m = ceil(M / N) and its best batch b <= `max_batch`, the length
    being the 90th percentile for the long part and the median for the rest; the split whose slower part is fastest is
    taken, if it is expected to be faster than no split (all calls on all engines, at the 90th percentile). Inside a
    part calls go longest first to the least loaded engine.

    Args:
        calls: the step's calls.
        engines: how many there are; with 1, or where a part would be empty, this is `longest_first`.
        curve: seconds a decode step by batch.
        max_batch: most calls an engine decodes together.
        lengths: the length distribution that the percentiles are taken of, such as the last step's; the predictions
            themselves if None.
        long_fraction: share of the calls that is the long tail.
        groups_together: keep the calls of a group on one engine.

    Raises:
        ValueError: there are no engines, `max_batch` < 1, or `long_fraction` is not between 0 and 1.
    """
    _check(engines, max_batch)
    if not 0 < long_fraction < 1:
        raise ValueError(f"long_fraction = {long_fraction}, allowed are values between 0 and 1")
    units = sorted(_units(calls, groups_together), key=lambda unit: -max(call.predicted for call in unit))
    wanted, long = math.ceil(long_fraction * len(calls) - 1e-9), 0
    tail = 0
    while long < wanted:
        long += len(units[tail])
        tail += 1
    if engines == 1 or long in (0, len(calls)):
        return longest_first(calls, engines, groups_together=groups_together)
    sample = np.asarray(lengths if lengths is not None else [call.predicted for call in calls], dtype=np.float64)
    p90, p50 = float(np.percentile(sample, 90)), float(np.percentile(sample, 50))
    split = best_split(long, len(calls) - long, engines, curve, max_batch, p90, p50)
    if split.seconds >= _part_seconds(math.ceil(len(calls) / engines), p90, curve.table(max_batch))[0]:
        return longest_first(calls, engines, groups_together=groups_together)
    parts = (
        (units[:tail], split.long_engines, split.long_batch),
        (units[tail:], engines - split.long_engines, split.rest_batch),
    )
    lanes: list[Lane] = []
    for part, count, batch in parts:
        for lane in _least_loaded([call for unit in part for call in unit], count, groups_together):
            lanes.append(Lane(tuple(lane), batch))
    return Dispatch(tuple(lanes), split.long_engines, split.seconds)


@dataclass(frozen=True)
class Split:
    """How many engines the long tail gets, the batches of both parts, and the expected seconds of the slower part."""

    long_engines: int
    long_batch: int
    rest_batch: int
    seconds: float


def best_split(
    long: int, rest: int, engines: int, curve: LatencyCurve, max_batch: int, long_length: float, rest_length: float
) -> Split:
    """Try every N_l + N_r = engines and take the one whose slower part is expected to be fastest; of equals the one
    with the fewest long engines.

    Args:
        long, rest: calls in each part, at least 1.
        engines: at least 2.
        curve: seconds a decode step by batch.
        max_batch: most calls an engine decodes together.
        long_length, rest_length: tokens that a call of each part is taken to have.
    """
    found: Split | None = None
    step_seconds = curve.table(max_batch)
    for count in range(1, engines):
        first, first_batch = _part_seconds(math.ceil(long / count), long_length, step_seconds)
        second, second_batch = _part_seconds(math.ceil(rest / (engines - count)), rest_length, step_seconds)
        if found is None or max(first, second) < found.seconds:
            found = Split(count, first_batch, second_batch, max(first, second))
    if found is None:
        raise ValueError(f"engines = {engines}, but a split needs at least 2")
    return found


def _part_seconds(calls: int, length: float, step_seconds: Sequence[float]) -> tuple[float, int]:
    """PTL(b) * length * ceil(calls / b) at its best batch b, and that batch; of equals the largest."""
    batch = min(
        range(min(calls, len(step_seconds) - 1), 0, -1), key=lambda size: step_seconds[size] * math.ceil(calls / size)
    )
    return step_seconds[batch] * length * math.ceil(calls / batch), batch


def least_outstanding(
    call: Call,
    loads: Sequence[EngineLoad],
    *,
    home: int | None = None,
    most_open: int | None = None,
    patience_tokens: float = math.inf,
) -> int | None:
    """The engine for the next call: the one with the fewest outstanding predicted tokens among those that answer and
    have room; for requests that come one by one.

    Args:
        call: the call to place.
        loads: one an engine.
        home: the engine that already holds the prompt of the call's group, None if none does. It is preferred while it
            has room and is at most `patience_tokens` behind the least loaded one.
        most_open: an engine with so many open calls has no room; None for no limit.
        patience_tokens: how many more outstanding tokens the prefix is worth.

    Returns:
        The engine's place in `loads`, or None if none may take the call now.
    """
    able = [
        place for place, load in enumerate(loads) if load.alive and (most_open is None or load.open_calls < most_open)
    ]
    if not able:
        return None
    best = min(able, key=lambda place: (loads[place].outstanding_tokens, loads[place].open_calls))
    if home is not None and home in able:
        behind = loads[home].outstanding_tokens - loads[best].outstanding_tokens
        if behind <= patience_tokens:
            return home
    return best


def length_ranges(calls: Sequence[Call], engines: int, curve: LatencyCurve, max_batch: int) -> Dispatch:
    """Each engine a range of lengths, the first the longest: few long calls beside many short ones, all engines done at
    about the same time.

    The split of `length_aware` taken to its end. An engine that decodes calls of falling lengths l_1, l_2, ... takes
    sum of (PTL(k) - PTL(k - 1)) * l_k seconds; the smallest time is sought (by bisection) in which the engines, each
    filled in turn from the longest call left, take all. With true lengths it gains most of all policies here; it takes
    every prediction at its word, so with poor ones it loses: simulate before use.

    Args:
        calls: the step's calls.
        engines: how many there are.
        curve: seconds a decode step by batch.
        max_batch: most calls an engine decodes together; calls beyond it are taken to run at the full batch's rate.
    """
    _check(engines, max_batch)
    ordered = sorted(calls, key=lambda call: -call.predicted)
    lengths = np.array([call.predicted for call in ordered])
    step_seconds = np.array(curve.table(max_batch))
    rates = np.full(len(ordered), step_seconds[-1] / max_batch)
    rates[:max_batch] = np.diff(step_seconds)[: len(ordered)].clip(min=0.0)
    low, high = 0.0, float(lengths.sum() * step_seconds.max())
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if _range_ends(lengths, rates, engines, middle)[-1] == len(ordered):
            high = middle
        else:
            low = middle
    ends = _range_ends(lengths, rates, engines, high)
    lanes = tuple(Lane(tuple(ordered[begin:end])) for begin, end in pairwise([0, *ends]))
    return Dispatch(lanes, expected_seconds=high if ordered else None)


def _range_ends(lengths: NDArray[np.float64], rates: NDArray[np.float64], engines: int, limit: float) -> list[int]:
    """Where each engine's range ends when every engine takes what it can in `limit` seconds; rates[k] is what the call
    after k others costs, in seconds a token.
    """
    ends: list[int] = []
    place = 0
    for _ in range(engines):
        seconds = np.cumsum(lengths[place:] * rates[: len(lengths) - place])
        place += int(np.searchsorted(seconds, limit, side="right"))
        ends.append(place)
    return ends


def _check(engines: int, max_batch: int = 1) -> None:
    if engines < 1 or max_batch < 1:
        raise ValueError(f"engines = {engines}, max_batch = {max_batch}, but there must be at least 1 of each")


def _units(calls: Iterable[Call], groups_together: bool) -> list[list[Call]]:
    """What must stay together, in the order of first appearance."""
    if not groups_together:
        return [[call] for call in calls]
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(call.group, []).append(call)
    return list(groups.values())


def _weight(unit: Sequence[Call]) -> float:
    return math.fsum(call.predicted for call in unit)


def _least_loaded(calls: Sequence[Call], engines: int, groups_together: bool) -> list[list[Call]]:
    units = sorted(_units(calls, groups_together), key=lambda unit: -_weight(unit))
    lanes: list[list[list[Call]]] = [[] for _ in range(engines)]
    loads = [(0.0, engine) for engine in range(engines)]
    for unit in units:
        load, engine = loads[0]
        lanes[engine].append(unit)
        heapq.heapreplace(loads, (load + _weight(unit), engine))
    # A group's longest call decides when the group begins; its calls stay side by side.
    return [
        [call for unit in sorted(lane, key=lambda unit: -max(c.predicted for c in unit)) for call in unit]
        for lane in lanes
    ]
