"""Assembling a step: units close when they are whole, and nothing is trained in the order of arrival."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.rollout.assemble import StepAssembler, Unit, Wanted
from reasonrl.rollout.dispatch import Call
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.length_bias import length_bias
from reasonrl.rollout.simulate_fleet import Fleet, Job, run_online

WANTED = [Wanted("a0", "a"), Wanted("b0", "b"), Wanted("a1", "a"), Wanted("b1", "b")]


def test_a_group_closes_with_its_last_member():
    step: StepAssembler[int] = StepAssembler(WANTED)
    assert step.add("b1", 4) is None and step.add("a1", 3) is None
    closed = step.add("a0", 1)
    assert closed is not None and (closed.unit, closed.ids, closed.items) == ("a", ("a0", "a1"), (1, 3))
    assert step.missing == ("b0",) and not step.complete
    with pytest.raises(ValueError, match=r"misses 1 of 4.*'b0'"):
        step.close()
    closed = step.add("b0", 2)
    assert closed is not None and closed.items == (2, 4)
    assert step.close().ids == ("a0", "b0", "a1", "b1") and step.close().items == (1, 2, 3, 4)


def test_samples_close_alone_and_a_batch_only_as_a_whole():
    alone: StepAssembler[str] = StepAssembler(WANTED, "sample")
    first = alone.add("b0", "x")
    assert first is not None and first.items == ("x",) and not alone.complete
    batch: StepAssembler[str] = StepAssembler(WANTED, "batch")
    closed = [batch.add(sample_id, sample_id) for sample_id in ("b1", "a1", "b0", "a0")]
    assert closed[:3] == [None] * 3 and closed[3] is not None and closed[3].items == ("a0", "b0", "a1", "b1")


def test_a_step_closed_in_part_names_what_it_left_out():
    step: StepAssembler[int] = StepAssembler(WANTED, partial=True)
    for sample_id in ("a0", "b0", "a1"):
        step.add(sample_id, 0)
    assert step.missing == ("b1",) and step.left_out == ("b0", "b1")
    assert step.close().ids == ("a0", "a1")
    with pytest.raises(ValueError, match="after its step was closed"):
        step.add("b1", 0)


def test_what_does_not_belong_is_refused():
    step: StepAssembler[int] = StepAssembler(WANTED)
    step.add("a0", 0)
    with pytest.raises(ValueError, match=r"'a0' came twice"):
        step.add("a0", 0)
    with pytest.raises(ValueError, match="not asked for"):
        step.add("c0", 0)
    with pytest.raises(ValueError, match="2 samples wanted under 1"):
        StepAssembler([WANTED[0], WANTED[0]])
    with pytest.raises(ValueError, match="0 samples"):
        StepAssembler([])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from(["sample", "group", "batch"]), st.randoms())
def test_in_any_order_of_arrival_every_unit_closes_once_and_the_step_is_the_same(groups, size, unit, shuffler):
    wanted = [Wanted(f"{group}/{place}", str(group)) for place in range(size) for group in range(groups)]
    arrival = list(wanted)
    shuffler.shuffle(arrival)
    step: StepAssembler[str] = StepAssembler(wanted, unit)
    seen: list[str] = []
    for number, entry in enumerate(arrival):
        closed = step.add(entry.id, f"item {entry.id}")
        arrived = {one.id for one in arrival[: number + 1]}
        if closed is not None:
            assert set(closed.ids) <= arrived and closed.items == tuple(f"item {one}" for one in closed.ids)
            seen += closed.ids
    assert sorted(seen) == sorted(entry.id for entry in wanted)
    assert step.close().ids == tuple(entry.id for entry in wanted)


def stragglers(seed: int, count: int, share: float = 0.1) -> list[int]:
    """Lengths of which a share are stragglers, many times longer than the others."""
    generator = np.random.default_rng(seed)
    lengths = generator.lognormal(5, 0.5, count)
    return [int(x) + 1 for x in np.where(generator.random(count) < share, 8 * lengths, lengths)]


def arrivals(lengths: list[int], group: int = 8) -> list[tuple[Wanted, int]]:
    """What a simulated fleet hands over, in the order in which samples end."""
    jobs = [Job(Call(f"{i}", f"g{i // group}", 1.0), tokens) for i, tokens in enumerate(lengths)]
    timeline = run_online(jobs, Fleet(4, LatencyCurve(((1, 0.01), (256, 0.03))), max_batch=256))
    return [(Wanted(f"{f.job}", f"g{f.job // group}"), lengths[f.job]) for f in timeline.finishes]


def trained_lengths(unit: Unit, requested: list[int], per_step: int) -> list[int]:
    """Steps put together by the assembler from the fleet's stream."""
    found: list[int] = []
    for start in range(0, len(requested), per_step):
        stream = arrivals(requested[start : start + per_step])
        step: StepAssembler[int] = StepAssembler(sorted((w for w, _ in stream), key=lambda w: int(w.id)), unit)
        for wanted, length in stream:
            step.add(wanted.id, length)
        found += step.close().items
    return found


@pytest.mark.parametrize("unit", ["sample", "group", "batch"])
def test_what_is_trained_is_as_long_as_what_was_asked_for(unit):
    requested = stragglers(0, 5_000)
    trained = trained_lengths(unit, requested, 1_000)
    assert sorted(trained) == sorted(requested)
    # Against an independent draw too: a distribution compared with itself could not fail.
    found = length_bias(stragglers(1, 5_000), trained)
    assert found.passes and found.p_value > 0.01
    assert found.mean_ratio == pytest.approx(1, abs=0.06)


def test_training_in_the_order_of_arrival_fails_the_same_test():
    """The control: each step asks for a ninth more than the 1,000 it needs, and takes the first to end."""
    first: list[int] = []
    for number in range(5):
        first += [length for _, length in arrivals(stragglers(2 + number, 1_112))][:1_000]
    found = length_bias(stragglers(1, 5_000), first)
    assert not found.passes and found.p_value < 1e-6
    assert found.mean_ratio < 0.75


def test_steps_closed_in_part_fail_it_too():
    """Steps that end with nine tenths of their samples, and train the groups that are whole by then."""
    trained: list[int] = []
    for number in range(5):
        stream = arrivals(stragglers(2 + number, 1_000))
        step: StepAssembler[int] = StepAssembler([wanted for wanted, _ in stream], partial=True)
        for wanted, length in stream[:900]:
            step.add(wanted.id, length)
        closed = step.close()
        assert len(closed.items) < 900 and len(closed.items) + len(step.left_out) == 1_000
        trained += closed.items
    assert not length_bias(stragglers(1, 5_000), trained).passes


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 10_000))
def test_the_test_itself_is_calibrated(seed):
    """Two draws of one distribution pass (a p-value below 0.0001 comes once in ten thousand); a missing tail fails."""
    one, other = stragglers(seed, 5_000), stragglers(seed + 20_000, 5_000)
    assert length_bias(one, other).p_value > 1e-4
    assert not length_bias(one, sorted(other)[:4_500]).passes


def test_empty_sides_are_refused():
    with pytest.raises(ValueError, match="0 trained"):
        length_bias([1], [])
