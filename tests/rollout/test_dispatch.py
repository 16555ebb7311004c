"""Dispatch: schedules computed by hand, a brute force for the best possible one, what must hold for any calls."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.rollout.dispatch import (
    Call,
    Dispatch,
    EngineLoad,
    best_split,
    least_outstanding,
    length_aware,
    length_ranges,
    longest_first,
    round_robin,
)
from reasonrl.rollout.latency import LatencyCurve

FLAT = LatencyCurve(((1, 1.0),))
STEEP = LatencyCurve(((1, 1.0), (101, 11.0)))  # PTL(b) = 0.9 + 0.1 b


def calls_of(lengths: list[float], size: int = 1) -> list[Call]:
    return [Call(str(place), f"g{place // size}", float(length)) for place, length in enumerate(lengths)]


def dealt(dispatch: Dispatch) -> list[list[int]]:
    return [[int(call.id) for call in lane.calls] for lane in dispatch.lanes]


def loads(dispatch: Dispatch) -> list[float]:
    return [sum(call.predicted for call in lane.calls) for lane in dispatch.lanes]


def best_makespan(lengths: list[int], engines: int) -> int:
    """By trying every assignment; an engine takes one call at a time."""
    best = sum(lengths)
    for places in itertools.product(range(engines), repeat=len(lengths)):
        best = min(best, max(sum(x for x, p in zip(lengths, places, strict=True) if p == e) for e in range(engines)))
    return best


def engine_seconds(lengths: list[float], curve: LatencyCurve) -> float:
    """One engine decoding calls that all begin at once, period by period between ends."""
    left, seconds = sorted(lengths), 0.0
    gone = 0.0
    while left:
        seconds += (left[0] - gone) * curve(len(left))
        gone = left[0]
        left = [length for length in left if length > gone]
    return seconds


def test_by_hand():
    calls = calls_of([3, 9, 4, 8, 5, 7])
    assert dealt(round_robin(calls, 2)) == [[0, 2, 4], [1, 3, 5]]
    # 9 | 8, then 7 to the second (15), 5 to the first (14), 4 to the first (18), 3 to the second (18).
    assert dealt(longest_first(calls, 2)) == [[1, 4, 2], [3, 5, 0]]
    # Groups of two weigh 12, 12, 12; the third goes to the first engine again, which begins with its longest call's.
    assert dealt(longest_first(calls_of([3, 9, 4, 8, 5, 7], 2), 2)) == [[0, 1, 4, 5], [2, 3]]
    assert dealt(longest_first(calls, 8))[6:] == [[], []]


def test_the_split_by_hand():
    # 4 long calls of 100 tokens, 16 others of 10, PTL(b) = 0.9 + 0.1 b, 4 engines.
    # N_l = 1: long 1.3 * 100 = 130, rest ceil(16 / 3) = 6 calls: 1.5 * 10 = 15; N_l = 2: 1.1 * 100 = 110, rest 8:
    # 1.7 * 10 = 17; N_l = 3: two calls on one engine still, 110, rest 16: 2.5 * 10 = 25. The first of the equals.
    split = best_split(4, 16, 4, STEEP, 256, 100.0, 10.0)
    assert (split.long_engines, split.long_batch, split.rest_batch) == (2, 2, 8)
    assert split.seconds == pytest.approx(110)
    # Where a batch costs more than it gives, waves are expected: PTL(2) = 3 > 2 * PTL(1).
    assert best_split(2, 2, 2, LatencyCurve(((1, 1.0), (2, 3.0))), 8, 5.0, 5.0).long_batch == 1
    # And where only 2 fit, 16 calls need 8 waves.
    assert best_split(4, 16, 2, FLAT, 2, 1.0, 10.0).seconds == pytest.approx(80)


def test_length_aware_by_hand():
    lengths = [10.0] * 16 + [100.0] * 4
    dispatch = length_aware(calls_of(lengths), 4, STEEP, 256)
    assert dispatch.long_engines == 2 and dispatch.expected_seconds == pytest.approx(110)
    assert dealt(dispatch)[:2] == [[16, 18], [17, 19]]
    assert dealt(dispatch)[2:] == [list(range(0, 16, 2)), list(range(1, 16, 2))]
    assert [lane.most_running for lane in dispatch.lanes] == [2, 2, 8, 8]
    # The percentiles of another distribution shift the split: short ones that take longer than the tail get engines.
    assert length_aware(calls_of(lengths), 4, STEEP, 256, lengths=[55.0] * 8 + [60.0] * 2).long_engines == 1
    # Lengths that are all equal have no tail, and where a batch costs nothing a small one gains nothing: no split.
    assert length_aware(calls_of(lengths), 4, STEEP, 256, lengths=[50.0] * 10) == longest_first(calls_of(lengths), 4)
    assert length_aware(calls_of(lengths), 4, FLAT, 256) == longest_first(calls_of(lengths), 4)
    assert length_aware(calls_of(lengths), 1, STEEP, 256) == longest_first(calls_of(lengths), 1)


def test_length_ranges_by_hand():
    # PTL(b) = 0.9 + 0.1 b: the engine of 100 alone takes 100 s; 10s take 1 s a token for the first, 0.1 for the others.
    dispatch = length_ranges(calls_of([10.0] * 60 + [100.0]), 2, STEEP, 256)
    # Both at 100: on the first 100 alone and nothing more; the second 10 + 0.1 * 10 * 59 = 69 in all.
    assert dealt(dispatch) == [[60], list(range(60))]
    assert dispatch.expected_seconds == pytest.approx(100)
    # With 100 more the second would take 169: the first takes tens too, at one second each, until both are even.
    dispatch = length_ranges(calls_of([10.0] * 160 + [100.0]), 2, STEEP, 256)
    sides = [engine_seconds([call.predicted for call in lane.calls], STEEP) for lane in dispatch.lanes]
    assert abs(sides[0] - sides[1]) <= 1.0 + 1e-6 and max(sides) == pytest.approx(dispatch.expected_seconds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 3))
def test_longest_first_is_within_grahams_bound_of_the_best(lengths, engines):
    best = best_makespan(lengths, engines)
    found = max(loads(longest_first(calls_of(lengths), engines, groups_together=False)))
    assert best <= found <= (4 / 3 - 1 / (3 * engines)) * best + 1e-9


def test_grahams_bound_is_reached():
    # The classic worst case for 2 engines: 3, 3, 2, 2, 2 takes 7 where 6 is possible.
    assert max(loads(longest_first(calls_of([3, 3, 2, 2, 2]), 2))) == 7 == 7 / 6 * best_makespan([3, 3, 2, 2, 2], 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 3), st.floats(0.0, 0.5))
def test_ranges_of_lengths_are_the_best_of_all_assignments_into_ranges(lengths, engines, slope):
    curve = LatencyCurve(((1, 1.0), (65, 1.0 + 64 * slope)))
    ordered = sorted((float(length) for length in lengths), reverse=True)
    best = math.inf
    for cuts in itertools.combinations_with_replacement(range(len(ordered) + 1), engines - 1):
        edges = [0, *cuts, len(ordered)]
        best = min(best, max(engine_seconds(ordered[a:b], curve) for a, b in itertools.pairwise(edges)))
    dispatch = length_ranges(calls_of([float(length) for length in lengths]), engines, curve, 64)
    found = max(engine_seconds([call.predicted for call in lane.calls], curve) for lane in dispatch.lanes)
    assert found == pytest.approx(best) == dispatch.expected_seconds


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1, 1e4), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 8), st.booleans(), st.data()
)
def test_every_call_is_dealt_once_and_groups_stay_together(lengths, engines, size, together, data):
    calls = calls_of(lengths, size)
    curve = data.draw(st.sampled_from([FLAT, STEEP]))
    for dispatch in (
        longest_first(calls, engines, groups_together=together),
        length_aware(calls, engines, curve, 16, groups_together=together),
    ):
        assert len(dispatch.lanes) == engines
        assert sorted(place for lane in dealt(dispatch) for place in lane) == list(range(len(calls)))
        homes: dict[str, set[int]] = {}
        for number, lane in enumerate(dispatch.lanes):
            for call in lane.calls:
                homes.setdefault(call.group, set()).add(number)
            if not together:
                assert [call.predicted for call in lane.calls] == sorted(
                    (call.predicted for call in lane.calls), reverse=True
                )
        assert not together or all(len(engine) == 1 for engine in homes.values())
        if dispatch.long_engines and not together:
            long = [call.predicted for lane in dispatch.lanes[: dispatch.long_engines] for call in lane.calls]
            rest = [call.predicted for lane in dispatch.lanes[dispatch.long_engines :] for call in lane.calls]
            assert len(long) == math.ceil(0.2 * len(calls) - 1e-9) and min(long) >= max(rest)
    assert sorted(p for lane in dealt(length_ranges(calls, engines, curve, 16)) for p in lane) == list(
        range(len(calls))
    )


def test_the_router_by_hand():
    call = Call("x", "g", 50.0)
    loads = [EngineLoad(100, 2), EngineLoad(40, 1), EngineLoad(40, 1), EngineLoad(0, 0, alive=False)]
    assert least_outstanding(call, loads) == 1  # not the dead one; of equals the first
    assert least_outstanding(call, loads, home=0) == 0
    assert least_outstanding(call, loads, home=0, patience_tokens=59) == 1
    assert least_outstanding(call, loads, home=0, patience_tokens=60) == 0
    assert least_outstanding(call, loads, home=3) == 1  # its engine is gone
    assert least_outstanding(call, loads, home=0, most_open=2) == 1  # its engine is full
    assert least_outstanding(call, loads, most_open=1) is None
    assert least_outstanding(call, [EngineLoad(alive=False)]) is None


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="engines = 0"):
        round_robin(calls_of([1]), 0)
    with pytest.raises(ValueError, match="max_batch = 0"):
        length_aware(calls_of([1]), 2, FLAT, 0)
    with pytest.raises(ValueError, match="long_fraction = 1"):
        length_aware(calls_of([1]), 2, FLAT, 4, long_fraction=1.0)
    with pytest.raises(ValueError, match="at least 2"):
        best_split(1, 1, 1, FLAT, 4, 1.0, 1.0)
