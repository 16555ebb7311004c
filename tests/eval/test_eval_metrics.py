"""Accuracy, pass@k, maj@k and differences against brute force, scipy, a published example and simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.eval.metrics import (
    maj_at_k,
    mean_interval,
    paired_difference,
    pass_at_k,
    proportion_interval,
    seed_difference,
    within_interval,
)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_equals_enumeration_of_all_subsets(n: int) -> None:
    for correct in range(n + 1):
        right = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(right, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_with_many_samples_equals_exact_integers() -> None:
    for n, correct, k in ((10_000, 3, 64), (4096, 1, 4095), (100_000, 50, 1), (2000, 1999, 2)):
        exact = 1 - math.comb(n - correct, k) / math.comb(n, k) if n - correct >= k else 1.0
        assert pass_at_k(n, correct, k) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("n", "correct", "k"), [(8, 3, 16), (8, 3, 0), (8, 9, 1), (8, -1, 1)])
def test_pass_at_k_is_refused_rather_than_filled_up(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(n, correct, k)


def test_published_example_pass_at_k_and_clustered_error(qwen_example: list[dict[str, list[object]]]) -> None:
    right = [[bool(score) for score in row["score"]] for row in qwen_example]
    found = {k: 100 * numpy.mean([pass_at_k(8, sum(flags), k) for flags in right]) for k in (1, 2, 4, 8)}
    assert {k: round(value, 2) for k, value in found.items()} == {1: 91.00, 2: 93.29, 4: 95.10, 8: 96.00}
    interval = proportion_interval([numpy.mean(flags) for flags in right])
    assert interval.value == pytest.approx(0.91) and interval.se is not None and round(100 * interval.se, 2) == 2.50
    # Near the normal interval, but skewed towards 1/2 as a share's is.
    assert interval.low == pytest.approx(0.91 - 1.96 * 0.025, abs=0.02) and interval.high == pytest.approx(
        0.945, abs=0.01
    )


def test_majority_by_hand() -> None:
    assert maj_at_k(["4", "4", "5"], [True, True, False]) == 1.0
    assert maj_at_k(["4", "5", None, None, None], [True, False, False, False, False]) == 0.5
    assert maj_at_k([None, None], [False, False]) == 0.0
    # Subsets of 2 of (right, right, wrong): one pair agrees on the right answer, two pairs tie.
    assert maj_at_k(["4", "4", "5"], [True, True, False], k=2) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert maj_at_k(["4"] * 30 + ["5"] * 30, [True] * 30 + [False] * 30, k=9) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="1 <= k <= n"):
        maj_at_k(["4"], [True], k=2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_one_sample_a_problem_gives_the_mid_p_interval(case: tuple[int, int]) -> None:
    """At each end, exactly 2.5 % of binomial results lie further off, half of the observed one counted."""
    from scipy.stats import binom

    n, right = case
    ours = proportion_interval([1.0] * right + [0.0] * (n - right))
    if right:
        assert binom.sf(right, n, ours.low) + binom.pmf(right, n, ours.low) / 2 == pytest.approx(0.025, abs=1e-8)
    else:
        assert ours.low == 0
    if right < n:
        assert binom.cdf(right - 1, n, ours.high) + binom.pmf(right, n, ours.high) / 2 == pytest.approx(0.025, abs=1e-8)
    else:
        assert ours.high == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 16).map(lambda right: right / 16), min_size=1, max_size=60), st.sampled_from([0.8, 0.95])
)
def test_intervals_hold_the_estimate_and_are_never_zero_wide(values: list[float], confidence: float) -> None:
    interval = proportion_interval(values, confidence)
    assert interval.low is not None and interval.high is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low > 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_with_many_samples_is_as_unsure_as_the_number_of_problems(value: float) -> None:
    interval = proportion_interval([value] * 30)
    assert interval.high - interval.low == pytest.approx(1 - 0.05 ** (1 / 30))  # 0 or 30 of 30


def test_many_problems_tend_to_the_clustered_normal_interval() -> None:
    values = numpy.random.default_rng(1).beta(2, 2, 5000)
    interval = proportion_interval(values)
    se = values.std(ddof=1) / math.sqrt(5000)
    assert interval.se == pytest.approx(se)
    assert interval.high - interval.low == pytest.approx(2 * 1.959964 * se, rel=2e-2)


@pytest.mark.parametrize(("problems", "samples", "a", "b"), [(30, 16, 2, 2), (100, 4, 0.5, 0.5), (100, 16, 8, 0.5)])
def test_interval_covers_the_truth_of_new_problems(problems: int, samples: int, a: float, b: float) -> None:
    """Difficulty follows a beta law; the interval must cover the law's mean, which the naive binomial does not."""
    generator = numpy.random.default_rng(7)
    truth, hits, naive, runs = a / (a + b), 0, 0, 600
    for _ in range(runs):
        means = generator.binomial(samples, generator.beta(a, b, problems)) / samples
        interval = proportion_interval(means)
        hits += interval.low <= truth <= interval.high
        p = means.mean()
        naive += abs(p - truth) <= 1.96 * math.sqrt(p * (1 - p) / (problems * samples))
    assert 0.92 <= hits / runs <= 0.985
    assert naive / runs < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("problems", [30, 500])
@pytest.mark.parametrize(
    # With one sample a problem it is right with chance p, however difficulties spread.
    ("samples", "concentration"),
    [(1, 2.0), *((samples, spread) for samples in (4, 16) for spread in (0.5, 2.0, 8.0))],
)
def test_coverage_bars(problems: int, samples: int, concentration: float) -> None:
    """Difficulties from Beta(c p, c (1 - p)); 95 % intervals cover 93 to 97 % for mean accuracy p of 0.2 to 0.8."""
    generator = numpy.random.default_rng([problems, samples, int(10 * concentration)])
    for truth in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95):
        shape, runs = (concentration * truth, concentration * (1 - truth)), 3_000
        hits = 0
        for _ in range(runs):
            means = generator.binomial(samples, generator.beta(*shape, problems)) / samples
            interval = proportion_interval(means)
            hits += interval.low <= truth <= interval.high
        least, most = (0.93, 0.97) if 0.2 <= truth <= 0.8 else (0.90, 1.0)
        assert least <= hits / runs <= most, f"mean accuracy {truth}: covers {hits / runs:.4f}"


def _kept(generator: numpy.random.Generator, difficulty: numpy.ndarray, samples: int, runs: int) -> tuple[float, float]:
    """How often the within and the clustered interval hold the mean of these very difficulties."""
    truth, within, clustered = difficulty.mean(), 0, 0
    for _ in range(runs):
        right = generator.binomial(samples, difficulty)
        inner, outer = within_interval(right, [samples] * len(right)), proportion_interval(right / samples)
        within += inner.low <= truth <= inner.high
        clustered += outer.low <= truth <= outer.high
    return within / runs, clustered / runs


def test_within_interval_covers_the_truth_of_the_same_problems() -> None:
    generator = numpy.random.default_rng(3)
    for problems, samples, a, b in ((30, 4, 0.5, 0.5), (30, 2, 4, 4), (100, 16, 2, 1)):
        within, clustered = _kept(generator, generator.beta(a, b, problems), samples, 400)
        assert 0.92 <= within <= 0.985
        assert clustered >= within
    assert clustered > 0.98  # too wide a net for that question: difficulties differ, and these do not change


def test_within_interval_by_hand() -> None:
    interval = within_interval([1, 3, 2, 2, 1], [4, 4, 4, 4, 4])
    variances = [p * (1 - p) / 3 for p in (0.25, 0.75, 0.5, 0.5, 0.25)]
    assert interval.value == pytest.approx(0.45) and interval.se == pytest.approx(math.sqrt(sum(variances)) / 5)
    assert interval.method == "mid-p, within problems" and interval.low < 0.45 < interval.high
    assert within_interval([1, 0], [1, 1]).low is None  # one sample tells nothing of a spread
    sure = within_interval([16] * 30, [16] * 30)  # 480 right answers of 480
    assert (sure.low, sure.high) == (pytest.approx(0.05 ** (1 / 480)), 1.0)
    with pytest.raises(ValueError, match="0 <= right <= samples"):
        within_interval([5], [4])


def test_paired_difference_equals_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    generator = numpy.random.default_rng(3)
    base = generator.binomial(16, generator.beta(2, 2, 200)) / 16
    better = numpy.clip(base + generator.normal(0.1, 0.2, 200), 0, 1)
    ids = [f"p{index}" for index in range(200)]
    ours = paired_difference(dict(zip(ids, better, strict=True)), dict(zip(ids, base, strict=True)))
    theirs = bootstrap(
        ((better - base),), numpy.mean, n_resamples=10_000, method="percentile", rng=5
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx((better - base).mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width) and ours.high == pytest.approx(
        theirs.high, abs=0.06 * width
    )
    again = paired_difference(dict(zip(ids, better, strict=True)), dict(zip(ids, base, strict=True)))
    assert again == ours and ours.method == "paired bootstrap by problem"


def test_paired_difference_with_no_or_few_problems_that_differ_is_not_zero_wide() -> None:
    right = {f"p{index}": 1.0 for index in range(100)}
    none = paired_difference(right, right)
    assert none.value == 0 and none.low == pytest.approx(-none.high) and 0.01 < none.high < 0.05
    # Agresti and Min's interval by hand: b = 3, c = 0 of 100 -> (b - c) / (n + 2), var from cells with 1/2 added.
    three = paired_difference(right, right | {"p0": 0.0, "p1": 0.0, "p2": 0.0})
    b, c, n = 3.5, 0.5, 102
    centre, half = (b - c) / n, 1.959964 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert (three.low, three.high) == (pytest.approx(centre - half, abs=1e-9), pytest.approx(centre + half, abs=1e-6))
    assert three.value == pytest.approx(0.03)


def test_paired_difference_is_narrower_than_unpaired_and_refuses_other_problems() -> None:
    generator = numpy.random.default_rng(0)
    hard = generator.beta(0.5, 0.5, 400)
    base = dict(enumerate(generator.binomial(16, hard) / 16))
    other = dict(enumerate(generator.binomial(16, hard) / 16))
    paired = paired_difference(other, base)
    unpaired = proportion_interval(list(base.values()))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    with pytest.raises(ValueError, match="2 are on one side only, such as 'x'"):
        paired_difference({"x": 1.0}, {"y": 1.0})


def test_paired_bootstrap_covers() -> None:
    generator = numpy.random.default_rng(11)
    hits, runs = 0, 300
    for _ in range(runs):
        hard = generator.beta(2, 2, 150)
        lift = 0.1 * (1 - hard)
        base = dict(enumerate(generator.binomial(4, hard) / 4))
        better = dict(enumerate(generator.binomial(4, hard + lift) / 4))
        interval = paired_difference(better, base, resamples=1000)
        hits += interval.low <= 0.05 <= interval.high
    assert 0.915 <= hits / runs <= 0.985


def test_seed_difference_is_the_t_interval() -> None:
    from scipy.stats import ttest_1samp

    differences = [0.21, 0.25, 0.19]
    ours = seed_difference(differences)
    theirs = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    # The rule of thumb of the study designs: 2.5 standard deviations at 3 seeds.
    assert (ours.high - ours.low) / 2 == pytest.approx(2.484 * numpy.std(differences, ddof=1), rel=1e-3)
    one = seed_difference([0.2])
    assert (one.value, one.low, one.high, one.se, one.n) == (0.2, None, None, None, 1)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\], got .*1\.5"):
        proportion_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="got none"):
        proportion_interval([])
    with pytest.raises(ValueError, match="got none"):
        mean_interval([])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
        proportion_interval([0.5], confidence=95)
