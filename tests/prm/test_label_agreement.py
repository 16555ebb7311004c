"""Agreement of label sets: published figures of kappa, plain counts, and the coverage of the interval."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.errors import DataError
from reasonrl.prm.label_agreement import kappa_of
from reasonrl.prm.labels import agreement, agreement_by_position


def test_kappa_of_tables_worked_by_hand():
    # 50 cases: 20 both yes, 5 and 10 split, 15 both no: observed .7, chance .5, kappa .4.
    assert kappa_of(20, 5, 10, 15) == pytest.approx(0.4)
    # The two judges of arXiv:2505.14403 (millions of tokens): 65 and 38 of 118 right, 26 by both.
    both, llm, prm, total = 26, 65, 38, 118
    kappa = kappa_of(both, llm - both, prm - both, total - llm - prm + both)
    assert kappa == pytest.approx(0.17, abs=0.005)
    assert kappa_of(5, 0, 0, 5) == 1 and kappa_of(0, 5, 5, 0) == -1
    assert kappa_of(9, 0, 0, 0) is None and kappa_of(0, 0, 0, 0) is None


PAIRS = st.lists(
    st.lists(st.tuples(st.sampled_from([0, 1, None]), st.sampled_from([0, 1, None])), max_size=6), max_size=12
)


@given(PAIRS)
def test_counts_equal_a_plain_loop(pairs):
    first = [[a for a, _ in solution] for solution in pairs]
    second = [[b for _, b in solution] for solution in pairs]
    found = agreement(first, second, resamples=50)
    flat = [(a, b) for solution in pairs for a, b in solution if a is not None and b is not None]
    assert found.n == len(flat)
    assert found.solutions == sum(any(a is not None and b is not None for a, b in solution) for solution in pairs)
    assert (found.both_right, found.only_first) == (flat.count((1, 1)), flat.count((1, 0)))
    assert (found.only_second, found.both_wrong) == (flat.count((0, 1)), flat.count((0, 0)))
    if flat:
        assert found.observed == pytest.approx(sum(a == b for a, b in flat) / len(flat))
    else:
        assert found.observed is None and found.kappa is None
    if found.interval:
        assert -1 <= found.interval[0] <= found.interval[1] <= 1
    turned = agreement(second, first, resamples=50)
    assert turned.kappa == found.kappa and turned.only_first == found.only_second


def coders(generator, solutions, agree):
    """Two coders of 10 steps a solution who agree the more or the less from one solution to the next."""
    truth = generator.random((solutions, 10)) < 0.5
    share = generator.beta(agree * 4, (1 - agree) * 4, size=(solutions, 1))
    other = numpy.where(generator.random((solutions, 10)) < share, truth, ~truth)
    return truth.astype(int).tolist(), other.astype(int).tolist()


def test_the_interval_covers_kappa_although_steps_of_a_solution_go_together():
    # Half the labels are right, so kappa is 2 x agreement - 1 = .6 in the population.
    generator = numpy.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = agreement(*coders(generator, 60, 0.8), resamples=400).interval
        inside += low <= 0.6 <= high
    # 95 % aimed at; 200 trials have a standard error of 1.5 points. Drawing steps instead covers 76 %.
    assert 0.90 <= inside / 200 <= 0.99


def test_the_interval_is_the_same_for_a_seed_and_narrows_with_the_solutions():
    generator = numpy.random.default_rng(1)
    first, second = coders(generator, 400, 0.8)
    found = agreement(first, second)
    assert agreement(first, second).interval == found.interval
    assert agreement(first, second, seed=1).interval != found.interval
    few = agreement(first[:100], second[:100])
    ratio = (few.interval[1] - few.interval[0]) / (found.interval[1] - found.interval[0])
    assert 1.5 < ratio < 2.6  # sqrt(4) = 2
    assert found.as_dict()["kappa"] == found.kappa
    assert agreement(first[:1], second[:1]).interval is None
    assert agreement([[1, 1], [1]], [[1, 0], [1]]).interval is None, "the first never varies"


def test_agreement_by_position_takes_each_step_alone():
    first, second = [[1, 1, 0], [1, 0], [0]], [[1, 0, 0], [1, 0], [1]]
    found = agreement_by_position(first, second)
    assert [(one.n, one.observed) for one in found] == [(3, pytest.approx(2 / 3)), (2, 0.5), (1, 1.0)]
    assert agreement_by_position([], []) == []


def test_what_is_not_paired_is_refused():
    with pytest.raises(DataError, match="2 and 1 solutions"):
        agreement([[1], [0]], [[1]])
    with pytest.raises(DataError, match="solution 1 has 2 and 1 labels"):
        agreement([[1], [0, 1]], [[1], [0]])
    with pytest.raises(DataError, match="labels 2 and 1"):
        agreement([[2]], [[1]])
