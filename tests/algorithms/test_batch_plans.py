"""Mini-batches and micro-batches as partitions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.algorithms import pad_plans, plan_microbatches, plan_packed_rows, shuffled_parts


@st.composite
def jobs(draw):
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=40))
    indices = draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    return indices, lengths, draw(st.integers(1, 200))


@settings(max_examples=300, deadline=None)
@given(jobs())
def test_a_plan_is_a_partition_within_the_budget(job):
    indices, lengths, budget = job
    plan = plan_microbatches(indices, lengths, budget)
    assert sorted(i for group in plan for i in group) == sorted(indices)
    for group in plan:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= budget or len(group) == 1
    flat = [lengths[i] for group in plan for i in group]
    assert flat == sorted(flat, reverse=True), "longest first"


@settings(max_examples=300, deadline=None)
@given(jobs())
def test_a_plan_wastes_no_room_that_the_next_sample_would_have_fitted(job):
    indices, lengths, budget = job
    plan = plan_microbatches(indices, lengths, budget)
    for group in plan[:-1]:
        assert (len(group) + 1) * lengths[group[0]] > budget


@settings(max_examples=100, deadline=None)
@given(jobs(), st.randoms(use_true_random=False))
def test_a_plan_depends_on_the_set_and_not_on_its_order(job, random):
    indices, lengths, budget = job
    shuffled = list(indices)
    random.shuffle(shuffled)
    assert plan_microbatches(shuffled, lengths, budget) == plan_microbatches(indices, lengths, budget)


def test_golden_plan():
    assert plan_microbatches(range(5), [3, 10, 4, 4, 2], 12) == [[1], [2, 3, 0], [4]]
    assert plan_microbatches([], [3, 4], 12) == []


@pytest.mark.parametrize("plan", [plan_microbatches, plan_packed_rows])
def test_a_budget_below_one_token_is_refused(plan):
    with pytest.raises(ValueError, match="tokens_per_microbatch = 0"):
        plan([0], [1], 0)


@settings(max_examples=300, deadline=None)
@given(jobs())
def test_packed_rows_are_a_partition_within_the_budget(job):
    indices, lengths, budget = job
    plan = plan_packed_rows(indices, lengths, budget)
    assert sorted(i for row in plan for i in row) == sorted(indices)
    for row in plan:
        of_row = [lengths[i] for i in row]
        assert sum(of_row) <= budget or len(row) == 1
        assert of_row == sorted(of_row, reverse=True), "longest first, so equal lengths stand together"


@settings(max_examples=300, deadline=None)
@given(jobs())
def test_packed_rows_leave_no_room_that_a_later_row_would_have_fitted(job):
    indices, lengths, budget = job
    plan = plan_packed_rows(indices, lengths, budget)
    for number, row in enumerate(plan):
        for later in plan[number + 1 :]:
            # What stood in the row when the later one was opened was longer or equal, and it did not fit.
            first = later[0]
            before = sum(lengths[i] for i in row if (-lengths[i], i) < (-lengths[first], first))
            assert before + lengths[first] > budget


@settings(max_examples=100, deadline=None)
@given(jobs(), st.randoms(use_true_random=False))
def test_packed_rows_depend_on_the_set_and_not_on_its_order(job, random):
    indices, lengths, budget = job
    shuffled = list(indices)
    random.shuffle(shuffled)
    assert plan_packed_rows(shuffled, lengths, budget) == plan_packed_rows(indices, lengths, budget)


def test_golden_packed_rows():
    assert plan_packed_rows(range(6), [3, 10, 4, 4, 2, 5], 12) == [[1, 4], [5, 2, 0], [3]]
    assert plan_packed_rows(range(3), [20, 1, 12], 12) == [[0], [2], [1]]
    assert plan_packed_rows([], [3, 4], 12) == []


@given(jobs(), st.integers(0, 3))
def test_padded_plans_end_in_empty_groups(job, more):
    plan = plan_microbatches(*job)
    padded = pad_plans(plan, len(plan) + more)
    assert padded[: len(plan)] == plan and padded[len(plan) :] == [[]] * more


def test_padded_groups_are_separate_lists_and_a_longer_plan_is_refused():
    first, second = pad_plans([], 2)
    assert first is not second
    with pytest.raises(ValueError, match="3 micro-batches cannot be padded to 2"):
        pad_plans([[0], [1], [2]], 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 12), st.integers(0, 2**32), st.text(max_size=5))
def test_parts_are_disjoint_complete_equal_and_seeded(parts, size, seed, name):
    got = shuffled_parts(parts * size, parts, seed, name)
    assert [len(part) for part in got] == [size] * parts
    assert sorted(i for part in got for i in part) == list(range(parts * size))
    assert got == shuffled_parts(parts * size, parts, seed, name)


def test_parts_differ_between_seeds_and_shuffle_evenly():
    assert len({str(shuffled_parts(64, 4, 0, "actor", step)) for step in range(50)}) == 50
    firsts = [0] * 4
    for step in range(2000):
        part = next(i for i, part in enumerate(shuffled_parts(8, 4, "evenness", step)) if 0 in part)
        firsts[part] += 1
    # Sample 0 falls into each of 4 parts with probability 1/4: 5 standard deviations of the binomial are 97.
    assert all(abs(count - 500) < 97 for count in firsts)


def test_parts_are_the_same_in_another_process():
    script = "from reasonrl.algorithms import shuffled_parts; print(shuffled_parts(12, 3, 7, 'actor', 2, 0))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(shuffled_parts(12, 3, 7, "actor", 2, 0))


@pytest.mark.parametrize(("n", "parts"), [(7, 2), (4, 0), (4, -1)])
def test_an_uneven_split_is_refused(n, parts):
    with pytest.raises(ValueError, match=f"{n} samples cannot be split into {parts} equal parts"):
        shuffled_parts(n, parts, 0)
