"""Intervals of accuracy, pass@k, maj@k and of differences; what one problem's samples say is in
`reasonrl.eval.estimates`.

Three kinds of interval, never mixed and always named: clustered by problem (how far the figure would move with other
problems of this kind), within problems (how far it would move with other samples of these very problems), and over
paired seeds (how far it would move with another training run).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy

from reasonrl.eval.estimates import maj_at_k as maj_at_k  # importable from here, too
from reasonrl.eval.estimates import pass_at_k as pass_at_k

ProblemId = TypeVar("ProblemId", bound=Hashable)

RESAMPLES = 10_000
"""Bootstrap resamples; the Monte-Carlo error of a percentile end is then about 1 % of the interval's width."""

FEWEST_VARYING = 5
"""With fewer problems that are neither all right nor all wrong alike, their spread is no estimate of anything."""

CLUSTERED = "mid-p, clustered by problem"
"""Name of the interval for other problems of the same kind."""

WITHIN = "mid-p, within problems"
"""Name of the interval for other samples of the same problems."""

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


def proportion_interval(
    values: Sequence[float], confidence: float = 0.95, *, groups: Sequence[Hashable] | None = None
) -> Interval:
    """Mean over problems of values in [0, 1] (its accuracy, pass@k) with an interval clustered by problem.

    The mid-p form of Clopper and Pearson's interval (Lancaster 1961; Berry & Armitage 1995) for an effective number of
    independent answers m = p(1-p)/se² (z/t)², se being the standard error over problems and t Student's quantile with
    one degree of freedom less than problems, as in clustered surveys (Korn & Graubard 1998). With one sample a problem
    it *is* the mid-p interval of the right answers; with many problems it tends to p ± z·se; it lies in [0, 1] and
    holds p. Where fewer than 5 problems differ from all right (all wrong), the spread says nothing: each problem then
    counts as one answer (30 problems with 64 right samples each are as sure as 30 right answers), and no interval is
    zero wide. `benchmarks/interval_coverage.py` measures its coverage.

    Args:
        values: one value in [0, 1] a problem, length P.
        confidence: coverage.
        groups: the group of each problem, where several are variants of one question: groups then are the independent
            units, wherever this text says problems.

    Returns:
        The interval; `se` is the standard error over problems (clustered by problem), None for a single one.

    Raises:
        ValueError: no values, or one outside [0, 1].
    """
    from scipy.stats import t

    array = _shares(values)
    mean, units, sizes = float(array.mean()), array - array.mean(), numpy.ones(array.size)
    if groups is not None and len(set(groups)) < len(groups):
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        codes = [places[group] for group in groups]
        units, sizes = numpy.bincount(codes, weights=units), numpy.bincount(codes).astype(float)
        array = units / sizes + mean
    problems = int(units.size)
    # The residuals' sums by group over the number of values: the linearised error of a ratio, exact for equal sizes.
    spread = math.sqrt(float((units**2).sum()) * problems / max(problems - 1, 1)) / float(sizes.sum())
    se = spread if problems > 1 else None
    varying = min(numpy.count_nonzero(array < 1 - 1e-12), numpy.count_nonzero(array > 1e-12))
    answers = float(problems)
    if se and varying >= FEWEST_VARYING:
        wider = _quantile(confidence) / float(t.ppf(0.5 + confidence / 2, problems - 1))
        # Never fewer than the problems: values in [0, 1] cannot spread more than right and wrong answers do.
        answers = max(answers, mean * (1 - mean) / se**2 * wider**2)
    low, high = mid_p(mean, answers, confidence)
    return Interval(mean, low, high, se, confidence, CLUSTERED, problems)


def within_interval(right: Sequence[int], samples: Sequence[int], confidence: float = 0.95) -> Interval:
    """Mean over problems of the share of right samples with an interval for these very problems, within problems.

    How far the figure would move if the same problems were sampled again: se² = sum of s_q²/n_q over P², s_q² being the
    unbiased variance p_q(1-p_q) n_q/(n_q-1) of one problem's samples; the interval is the mid-p one for p(1-p)/se²
    independent answers, and never for fewer than there are samples. It says nothing about other problems: compare it
    with the clustered one. Where fewer than 5 problems have both right and wrong samples, it is the mid-p interval over
    all samples, which is wider than need be. Problems with one sample take the mean variance of the others.

    Args:
        right: right samples of each problem, length P.
        samples: scored samples of each problem, length P, each at least 1.

    Returns:
        The interval; its ends and `se` are None where no problem has two samples: one sample tells nothing of a spread.

    Raises:
        ValueError: no problems, lengths differ, or a count is not in 0..samples.
    """
    hits, sizes = numpy.asarray(right, dtype=float), numpy.asarray(samples, dtype=float)
    if hits.shape != sizes.shape or hits.size == 0:
        raise ValueError(f"counts of right samples of {hits.size} problems and of samples of {sizes.size}")
    if (sizes < 1).any() or (hits < 0).any() or (hits > sizes).any():
        raise ValueError("of each problem, 0 <= right <= samples and samples >= 1 must hold")
    problems, shares = int(hits.size), hits / sizes
    mean, several = float(shares.mean()), sizes > 1
    if not several.any():
        return Interval(mean, None, None, None, confidence, WITHIN, problems)
    spread = numpy.zeros(problems)
    spread[several] = (shares * (1 - shares) * sizes / numpy.maximum(sizes - 1, 1))[several]
    spread[~several] = spread[several].mean()
    se = math.sqrt(float((spread / sizes).sum())) / problems
    # Of equally many samples each, independent answers are at least as many as samples; of unequal ones, weighted.
    answers = problems**2 / float((1 / sizes).sum())
    if numpy.count_nonzero((shares > 0) & (shares < 1)) >= FEWEST_VARYING:
        answers = max(answers, mean * (1 - mean) / se**2)
    low, high = mid_p(mean, answers, confidence)
    return Interval(mean, low, high, se, confidence, WITHIN, problems)


def _shares(values: Sequence[float]) -> numpy.ndarray:
    array = numpy.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one problem, got none")
    outside = array[~((array >= 0) & (array <= 1))]
    if outside.size:
        raise ValueError(f"values must lie in [0, 1], got {float(outside[0])!r}")
    return array


def mid_p(share: float, answers: float, confidence: float = 0.95) -> tuple[float, float]:
    """Ends of the mid-p interval of a share of `answers` independent answers (any positive number, not only whole).

    An end is the rate at which a result this far off or further, half of this very result counted, has half the chance
    that the confidence leaves over; binomial tails of fractional counts are regularised incomplete beta functions.
    """
    from scipy.optimize import brentq

    tail = (1 - confidence) / 2
    if not 0 < tail < 0.5:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    hits, misses = share * answers, (1 - share) * answers

    def root(excess: Callable[[float], float]) -> float:
        return float(brentq(excess, 0.0, 1.0, xtol=1e-12))

    low = 0.0 if hits < 1e-9 else root(lambda rate: _at_least(hits, misses, rate) - tail)
    high = 1.0 if misses < 1e-9 else root(lambda rate: tail - _at_least(misses, hits, 1 - rate))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def _at_least(hits: float, misses: float, rate: float) -> float:
    """Chance of more than `hits`, and half of that of exactly so many, of hits + misses answers right at `rate`."""
    from scipy.special import betainc

    more = float(betainc(hits + 1, misses, rate)) if misses > 1e-9 else 0.0
    return (more + float(betainc(hits, misses + 1, rate))) / 2


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
