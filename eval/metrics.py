"""Accuracy, pass@k, maj@k and differences, each with an interval that treats the problem, not the sample, as the unit.

Two kinds of interval, never mixed: over problems within one run (how far the figure would move with other problems of
this kind) and over paired seeds (how far it would move with another training run).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any, TypeVar

import numpy

ProblemId = TypeVar("ProblemId", bound=Hashable)

RESAMPLES = 10_000
"""Bootstrap resamples; the Monte-Carlo error of a percentile end is then about 1 % of the interval's width."""

FEWEST_VARYING = 5
"""With fewer problems that are neither all right nor all wrong alike, their spread is no estimate of anything."""

FEWEST_DIFFERING = 10
"""With fewer problems that differ, the bootstrap of a paired difference is too narrow (zero wide when none differs)."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval; None where it cannot be estimated (one seed).
        se: standard error; None likewise.
        confidence: coverage aimed at, such as 0.95.
        method: how the interval was made.
        n: number of independent units (problems, or pairs of seeds).
    """

    value: float
    low: float | None
    high: float | None
    se: float | None
    confidence: float
    method: str
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right, from n samples of which `correct` are.

    1 - C(n - c, k) / C(n, k), as a product that neither overflows nor cancels (Chen et al. 2021, arXiv 2107.03374, Eq.
    1).

    Raises:
        ValueError: k is not in 1..n (never filled up with samples that do not exist) or `correct` is not in 0..n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n samples of each problem, got k={k} with n={n}")
    if not 0 <= correct <= n:
        raise ValueError(f"of {n} samples, {correct} cannot be right")
    if n - correct < k:
        return 1.0
    return float(1.0 - numpy.prod(1.0 - k / numpy.arange(n - correct + 1, n + 1)))


def proportion_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean over problems of values in [0, 1] (its accuracy, pass@k) with an interval over problems.

    Wilson's interval for an effective number of independent answers p(1-p)/se², se being the standard error over
    problems (the design-effect form of Wilson 1927 used for clustered surveys, Dean & Pagano 2015). With one sample a
    problem it *is* Wilson's interval; with many problems it tends to p ± z·se; it lies in [0, 1] and holds p. Where
    fewer than 5 problems differ from all right (all wrong), the spread says nothing: each problem then counts as one
    answer (30 problems with 64 right samples each are as sure as 30 right answers), and no interval is zero wide.

    Args:
        values: one value in [0, 1] a problem, length P.
        confidence: coverage.

    Returns:
        The interval; `se` is the standard error over problems (clustered by problem), None for a single one.

    Raises:
        ValueError: no values, or one outside [0, 1].
    """
    array = numpy.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one problem, got none")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"values must lie in [0, 1], got {array[~((array >= 0) & (array <= 1))][0]!r}")
    problems, mean = int(array.size), float(array.mean())
    se = float(array.std(ddof=1) / math.sqrt(problems)) if problems > 1 else None
    varying = min(numpy.count_nonzero(array < 1), numpy.count_nonzero(array > 0))
    answers = float(problems)
    if se and varying >= FEWEST_VARYING:
        # Never fewer than the problems: values in [0, 1] cannot spread more than right and wrong answers do.
        answers = max(answers, mean * (1 - mean) / se**2)
    low, high = _wilson(mean, answers, _quantile(confidence))
    return Interval(mean, low, high, se, confidence, "wilson by problem", problems)


def _wilson(mean: float, answers: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share of `answers` independent answers; rounding cannot push it off the mean."""
    centre = (answers * mean + z * z / 2) / (answers + z * z)
    half = z / (answers + z * z) * math.sqrt(answers * mean * (1 - mean) + z * z / 4)
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of unbounded per-problem values (a reward) with a t interval over problems; ends are None for a single one.

    Raises:
        ValueError: no values.
    """
    from scipy.stats import t

    array = numpy.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one value, got none")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, None, None, None, confidence, "t", 1)
    se = float(array.std(ddof=1) / math.sqrt(array.size))
    half = float(t.ppf(0.5 + confidence / 2, array.size - 1)) * se
    return Interval(mean, mean - half, mean + half, se, confidence, "t", int(array.size))


def seed_difference(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of paired seed differences (arm minus baseline, same seed) with a t interval over seeds.

    With one seed there is no interval: `low`, `high` and `se` are None.

    Raises:
        ValueError: no differences.
    """
    interval = mean_interval(differences, confidence)
    return Interval(
        interval.value, interval.low, interval.high, interval.se, confidence, "t over paired seeds", interval.n
    )


def paired_difference(
    values: Mapping[ProblemId, float],
    baseline: Mapping[ProblemId, float],
    confidence: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of `values` - `baseline` over the same problems, with a percentile bootstrap interval that draws problems.

    Where fewer than 10 problems differ, the bootstrap is too narrow (zero wide if none does); then Agresti and Min's
    adjusted interval is used (half an observation added to each of the four cells; Statistics in Medicine 24, 2005),
    carried over to values between 0 and 1.

    Args:
        values, baseline: value in [0, 1] by problem id; both over the same ids.
        confidence: coverage.
        seed: of the bootstrap's generator; the result is a function of the arguments.
        resamples: number of bootstrap draws.

    Raises:
        ValueError: the problem ids differ, or there are none.
    """
    if set(values) != set(baseline):
        only = sorted(map(str, set(values) ^ set(baseline)))
        raise ValueError(
            f"a paired difference needs the same problems on both sides; {len(only)} are on one side only,"
            f" such as {only[0]!r}"
        )
    if not values:
        raise ValueError("a paired difference needs at least one problem, got none")
    differences = numpy.array([values[key] - baseline[key] for key in values], dtype=float)
    problems, mean = differences.size, float(differences.mean())
    se = float(differences.std(ddof=1) / math.sqrt(problems)) if problems > 1 else None
    if numpy.count_nonzero(differences) < FEWEST_DIFFERING:
        low, high = _agresti_min(differences, confidence)
        return Interval(mean, low, high, se, confidence, "agresti-min by problem", int(problems))
    means = _bootstrap_means(differences, numpy.random.default_rng(seed), resamples)
    low, high = numpy.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), se, confidence, "paired bootstrap by problem", int(problems))


def _agresti_min(differences: numpy.ndarray, confidence: float) -> tuple[float, float]:
    """Ends of the adjusted interval: pseudo-observations +1/2, -1/2 (half a problem each) and two half zeros."""
    z, size = _quantile(confidence), differences.size + 2
    centre = float(differences.sum()) / size
    variance = (float((differences**2).sum()) + 1) / size - centre**2
    half = z * math.sqrt(variance / size)
    mean = float(differences.mean())
    return max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def _bootstrap_means(values: numpy.ndarray, generator: numpy.random.Generator, resamples: int) -> numpy.ndarray:
    """Means of `resamples` draws with replacement, shape (resamples,); in blocks, so that memory stays near 30 MB."""
    block = max(1, 4_000_000 // values.size)
    parts = []
    for start in range(0, resamples, block):
        draws = generator.integers(0, values.size, size=(min(block, resamples - start), values.size))
        parts.append(values[draws].mean(axis=1))
    return numpy.concatenate(parts)


def maj_at_k(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool],
    k: int | None = None,
    *,
    seed: int = 0,
    draws: int = 2_000,
) -> float:
    """Expected share of right majority answers among k of the n samples of one problem.

    Samples without an answer (None) do not vote; when none votes, the result is wrong. Tied classes share the vote
    equally. The expectation is over
    all subsets of size k where there are at most `draws`, else over `draws` seeded ones: never just the first k.

    Args:
        answers: the extracted answer (or its class) of each sample, length n.
        correct: whether each sample counts as right, length n.
        k: votes; None for all n.

    Raises:
        ValueError: lengths differ, or k is not in 1..n.
    """
    n = len(answers)
    k = n if k is None else k
    if len(correct) != n:
        raise ValueError(f"{n} answers but {len(correct)} verdicts")
    if not 1 <= k <= n:
        raise ValueError(f"maj@k needs 1 <= k <= n samples of each problem, got k={k} with n={n}")
    if math.comb(n, k) <= draws:
        subsets: list[Sequence[int]] = list(combinations(range(n), k))
    else:
        generator = numpy.random.default_rng(seed)
        subsets = [generator.choice(n, size=k, replace=False).tolist() for _ in range(draws)]
    return math.fsum(_majority(answers, correct, subset) for subset in subsets) / len(subsets)


def _majority(answers: Sequence[Hashable | None], correct: Sequence[bool], subset: Sequence[int]) -> float:
    classes: dict[Hashable, list[bool]] = {}
    for index in subset:
        answer = answers[index]
        if answer is not None:
            classes.setdefault(answer, []).append(bool(correct[index]))
    if not classes:
        return 0.0
    most = max(len(votes) for votes in classes.values())
    # Within one class the verdicts agree, except where a right answer was cut off and so counts as wrong.
    winners = [float(any(votes)) for votes in classes.values() if len(votes) == most]
    return sum(winners) / len(winners)
