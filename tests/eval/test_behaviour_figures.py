"""Rates, transfer rates and agreement against plain loops, closed forms and simulation."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist

import numpy
import pytest

from reasonrl.eval.behaviours import agreement, behaviour_rate, cohens_kappa, shares, transfer_rate
from reasonrl.eval.behaviours.rates import error_correlation, ratio_interval
from reasonrl.eval.metrics import Interval, proportion_interval

Z = NormalDist().inv_cdf(0.975)


def spread(total: int, showing: range) -> dict[str, float]:
    """One response a problem; those in `showing` show the behaviour."""
    return {f"p{index}": float(index in showing) for index in range(total)}


def test_a_rate_is_the_mean_over_problems_of_the_share_of_responses():
    counts = {"a": [0, 2, 1, 0], "b": [3], "c": [0, 0], "d": []}
    rate = behaviour_rate(counts, missing=5)
    assert rate.cbr.value == pytest.approx((2 / 4 + 1 + 0) / 3)
    assert rate.mean_count.value == pytest.approx((3 / 4 + 3 + 0) / 3)
    assert (rate.responses, rate.missing, rate.problems_showing, rate.cbr.n) == (7, 5, 2, 3)
    assert shares(counts) == {"a": 0.5, "b": 1.0, "c": 0.0}
    one = behaviour_rate({f"p{index}": [int(index < 52)] for index in range(304)})
    p, n = 52 / 304, 304
    half = Z / (n + Z * Z) * math.sqrt(n * p * (1 - p) + Z * Z / 4)
    centre = (n * p + Z * Z / 2) / (n + Z * Z)
    assert (one.cbr.low, one.cbr.high) == pytest.approx((centre - half, centre + half), rel=0.01), "Wilson's"
    nothing = behaviour_rate({}, missing=3)
    assert nothing.cbr is None and nothing.mean_count is None and nothing.missing == 3


def test_the_ratio_of_the_paper_and_its_ends_solve_their_equation():
    """OVR Fig 5: visual reflection after RL, 17.3 % = 52 of 304 over 301 of 304."""
    vision, language = spread(304, range(52)), spread(304, range(301))
    found = transfer_rate(vision, language)
    assert found.value == pytest.approx(52 / 301) and round(100 * found.value, 1) == 17.3
    assert found.paired == 304 and found.unstable == ()
    v, of = (proportion_interval(list(side.values())) for side in (vision, language))
    r = numpy.corrcoef(list(vision.values()), list(language.values()))[0, 1]
    assert found.correlation == pytest.approx(r)

    def gap(ratio: float, x: float, y: float) -> float:
        return abs(v.value - ratio * of.value) - math.sqrt(x * x + ratio * ratio * y * y - 2 * r * ratio * x * y)

    assert gap(found.low, v.value - v.low, of.high - of.value) == pytest.approx(0, abs=1e-12)
    assert gap(found.high, v.high - v.value, of.value - of.low) == pytest.approx(0, abs=1e-12)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("overlap", [-1, 0, 1])
def test_with_many_problems_it_is_the_delta_methods_and_the_bootstraps(overlap):
    total, v, of = 3000, 900, 1500
    start = {-1: of, 0: of - v // 2, 1: 0}[overlap]  # of those that show it on one side, none, half or all on the other
    vision, language = spread(total, range(start, start + v)), spread(total, range(of))
    found = transfer_rate(vision, language)
    above, below = (numpy.array(list(side.values())) for side in (vision, language))
    ratio = above.mean() / below.mean()
    variance = above.var(ddof=1) / above.mean() ** 2 + below.var(ddof=1) / below.mean() ** 2
    variance -= 2 * numpy.cov(above, below)[0, 1] / (above.mean() * below.mean())
    half = Z * math.sqrt(variance / total)
    assert (found.low, found.high) == pytest.approx((ratio * math.exp(-half), ratio * math.exp(half)), rel=0.01)
    draws = numpy.random.default_rng(0).integers(0, total, (2000, total))
    ends = numpy.quantile(above[draws].mean(axis=1) / below[draws].mean(axis=1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(ends), rel=0.015)
    assert found.correlation == pytest.approx(numpy.corrcoef(above, below)[0, 1])


def test_pairing_narrows_what_goes_together_and_other_problems_are_not_paired():
    same = transfer_rate(spread(200, range(60)), spread(200, range(80)))
    renamed = {f"other {name}": share for name, share in spread(200, range(60)).items()}
    apart = transfer_rate(renamed, spread(200, range(80)))
    assert same.value == apart.value == pytest.approx(0.75)
    assert (apart.paired, apart.correlation) == (0, 0.0) and same.paired == 200
    assert same.high - same.low < 0.8 * (apart.high - apart.low)


def test_the_correlation_of_partly_shared_problems_is_that_of_drawn_means():
    generator = numpy.random.default_rng(1)
    vision = {f"p{index}": float(generator.random() < 0.3) for index in range(0, 300)}
    language = {
        f"p{index}": float(generator.random() < (0.9 if vision.get(f"p{index}") else 0.4)) for index in range(100, 500)
    }
    parts = [sorted(vision.keys() & language.keys()), sorted(vision.keys() - language.keys())]
    parts.append(sorted(language.keys() - vision.keys()))
    means = []
    for _ in range(3000):
        drawn = [[part[index] for index in generator.integers(0, len(part), len(part))] for part in parts]
        ends = [(vision, drawn[0] + drawn[1]), (language, drawn[0] + drawn[2])]
        means.append([sum(side[name] for name in names) / len(names) for side, names in ends])
    assert error_correlation(vision, language) == pytest.approx(numpy.corrcoef(numpy.array(means).T)[0, 1], abs=0.06)


def test_ratios_that_say_little_are_marked_and_none_is_invented():
    none = transfer_rate(spread(100, range(3)), spread(100, range(0)))
    assert none.value is None and none.low is None and none.high is None and len(none.unstable) == 2
    zero = transfer_rate(spread(304, range(0)), spread(304, range(40)))
    assert zero.value == 0 and zero.low == 0 and 0 < zero.high < 0.2 and zero.unstable == ()
    base = transfer_rate(spread(304, range(3)), spread(304, range(12)))  # verification of the base model: 1 % of 4 %
    assert base.unstable == ("CBR_l is under 5 %", "12 problems behind CBR_l") and base.high > 2 * base.value
    few = transfer_rate(spread(304, range(12)), spread(304, range(18)))  # backward chaining: 4 % of 6 %
    assert few.unstable == ("18 problems behind CBR_l",)
    assert transfer_rate({}, spread(10, range(5))).unstable == ("a rate is missing",)
    lone = transfer_rate({"a": 1.0}, {"a": 1.0})
    assert lone.value == 1 and lone.unstable


def test_the_interval_holds_the_estimate_and_stays_in_order_whatever_the_counts():
    for total, v, of in product((1, 2, 7, 40), (0, 1, 2, 7, 40), (1, 2, 7, 40)):
        if max(v, of) <= total:
            for start in {0, total - v}:
                found = transfer_rate(spread(total, range(start, start + v)), spread(total, range(of)))
                assert 0 <= found.low <= found.value and (found.high is None or found.value <= found.high)
                assert found.high is None or math.isfinite(found.high)


def test_a_ratio_needs_intervals():
    bare = Interval(0.5, None, None, None, 0.95, "t", 1)
    with pytest.raises(ValueError, match="with intervals"):
        ratio_interval(bare, bare, 0.0)


def covered(v: float, of: float, total: int, runs: int, seed: int) -> tuple[float, float]:
    """Shares of runs in which the interval, and that of the delta method on logarithms, hold the true ratio."""
    generator = numpy.random.default_rng(seed)
    hits = delta = 0
    for _ in range(runs):
        language = generator.random(total) < of
        vision = generator.random(total) < numpy.where(language, 1.5 * v, (v - 1.5 * v * of) / (1 - of))
        names = [f"p{index}" for index in range(total)]
        sides = [dict(zip(names, map(float, side), strict=True)) for side in (vision, language)]
        found = transfer_rate(*sides)
        hits += found.value is not None and found.low <= v / of <= (found.high or math.inf)
        if vision.any() and language.any():
            a, b = vision.mean(), language.mean()
            half = Z * math.sqrt(
                max(0, (1 - a) / a + (1 - b) / b - 2 * ((vision & language).mean() - a * b) / (a * b)) / total
            )
            delta += abs(math.log(a / b / (v / of))) <= half
    return hits / runs, delta / runs


def test_rare_behaviours_are_covered_where_the_usual_interval_fails():
    ours, delta = covered(0.003, 0.13, 304, 400, seed=0)
    assert ours >= 0.92 and delta < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("v", "of", "total"),
    [(0.01, 0.06, 304), (0.08, 0.6, 304), (0.17, 0.6, 100), (0.3, 0.6, 304), (0.04, 0.1, 304), (0.02, 0.3, 100)],
)
def test_coverage(v, of, total):
    ours, _ = covered(v, of, total, 4000, seed=1)
    assert 0.93 <= ours <= 0.985


def test_kappa_against_its_definition():
    assert cohens_kappa(20, 5, 10, 15) == pytest.approx(0.4)  # p_o = 35/50, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    assert cohens_kappa(7, 0, 0, 3) == 1.0
    assert cohens_kappa(0, 5, 5, 0) == -1.0
    assert cohens_kappa(9, 0, 0, 0) is None and cohens_kappa(0, 0, 0, 0) is None


def test_agreement_over_the_responses_that_both_have_counted():
    generator = numpy.random.default_rng(2)
    first, second = {}, {}
    for problem, index in product(range(60), range(4)):
        count = int(generator.poisson(0.8))
        key = (f"p{problem}", index)
        first[key] = count
        second[key] = count if generator.random() < 0.8 else int(generator.poisson(0.8))
    first[("only here", 0)] = 1
    found = agreement(first, second)
    table = numpy.zeros((2, 2))
    for key in second:
        table[int(first[key] > 0), int(second[key] > 0)] += 1
    assert (found.both, found.only_first, found.only_second, found.neither) == tuple(
        int(table[cell]) for cell in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    observed = numpy.trace(table) / table.sum()
    expected = (table.sum(axis=0) * table.sum(axis=1)).sum() / table.sum() ** 2
    assert found.kappa == pytest.approx((observed - expected) / (1 - expected)) and found.observed == observed
    assert found.positive == pytest.approx(2 * table[1, 1] / (2 * table[1, 1] + table[0, 1] + table[1, 0]))
    assert found.low < found.kappa < found.high and 0.1 < found.high - found.low < 0.4
    assert found == agreement(first, second)
    # Copies of every response tell nothing new: the interval is about problems.
    twice = agreement(
        {(name, (index, copy)): count for (name, index), count in first.items() for copy in range(2)},
        {(name, (index, copy)): count for (name, index), count in second.items() for copy in range(2)},
    )
    assert twice.kappa == pytest.approx(found.kappa)
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high))


def test_agreement_without_variety_or_without_responses():
    same = agreement({("a", 0): 0, ("b", 0): 0}, {("a", 0): 0, ("b", 0): 0})
    assert same.observed == 1 and same.kappa is None and same.low is None and same.positive is None
    none = agreement({("a", 0): 1}, {("b", 0): 1})
    assert none.responses == 0 and none.observed is None and none.kappa is None
