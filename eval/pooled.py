"""Figures of pooled entries, such as an F1 over all steps of all solutions: intervals, paired differences and tests
that resample units (solutions), never steps: steps of one solution are alike.

A figure is a function of weights over units, so that a bootstrap draw is one more row of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy

from reasonrl.errors import DataError
from reasonrl.eval.metrics import Interval, mid_p

RESAMPLES = 1_000
FLIPS = 2_000
BINS = 10

Array = numpy.ndarray


@dataclass(frozen=True)
class Pool:
    """Scored and labelled entries, each of a unit.

    Attributes:
        units: ids of the units.
        unit: [E] place of each entry's unit.
        scores: [E] between 0 and 1.
        labels: [E] the truth.
        strata: [E] what entries are compared within, such as the step's place; zeros where it does not matter.
    """

    units: tuple[str, ...]
    unit: Array
    scores: Array
    labels: Array
    strata: Array

    @classmethod
    def of(cls, entries: Mapping[str, Mapping[str, Sequence[Any]]]) -> Pool:
        """From `{unit: {"scores": […], "labels": […], "strata": […]}}`, as `values.jsonl` has them; `strata` may lack.

        Raises:
            DataError: lists of one unit differ in length.
        """
        place: list[int] = []
        scores: list[float] = []
        labels: list[bool] = []
        strata: list[int] = []
        for number, (name, entry) in enumerate(entries.items()):
            size = len(entry["scores"])
            its = entry.get("strata") or [0] * size
            if len(entry["labels"]) != size or len(its) != size:
                raise DataError(f"unit {name!r}: scores, labels and strata are of different lengths")
            place += [number] * size
            scores += entry["scores"]
            labels += entry["labels"]
            strata += its
        return cls(
            tuple(entries),
            numpy.array(place, dtype=int),
            numpy.array(scores, dtype=float),
            numpy.array(labels, dtype=bool),
            numpy.array(strata, dtype=int),
        )

    def among(self, units: Sequence[str]) -> Pool:
        """The entries of these units, in their order."""
        order = {name: number for number, name in enumerate(units)}
        there = numpy.array([order.get(name, -1) for name in self.units], dtype=int)
        place = there[self.unit] if len(self.unit) else self.unit
        kept = place >= 0
        return Pool(tuple(units), place[kept], self.scores[kept], self.labels[kept], self.strata[kept])

    def beside(self, other: Pool) -> Pool:
        """Both, the units of the other one after ours."""
        parts = zip(
            (self.unit, self.scores, self.labels, self.strata),
            (other.unit + len(self.units), other.scores, other.labels, other.strata),
            strict=True,
        )
        return Pool((*self.units, *other.units), *(numpy.concatenate(pair) for pair in parts))

    def sums(self, columns: Array) -> Array:
        """[U, C] sums over the entries of each unit of [E, C] columns."""
        return numpy.stack(
            [numpy.bincount(self.unit, weights=column, minlength=len(self.units)) for column in columns.T], axis=1
        )

    @cached_property
    def flat(self) -> Pool:
        """The same in one stratum."""
        return Pool(self.units, self.unit, self.scores, self.labels, numpy.zeros_like(self.strata))

    @cached_property
    def ranked(self) -> tuple[Array, Array, Array]:
        """Order by stratum and score; first places of equal ones; of each of these, the first one of its stratum."""
        order = numpy.lexsort((self.scores, self.strata))
        strata, scores = self.strata[order], self.scores[order]
        fresh = numpy.ones(len(order), dtype=bool)
        fresh[1:] = (strata[1:] != strata[:-1]) | (scores[1:] != scores[:-1])
        starts = numpy.flatnonzero(fresh)
        _, first = numpy.unique(strata[starts], return_index=True)
        owner = numpy.repeat(first, numpy.diff([*first, len(starts)]))
        return order, starts, owner


Figure = Callable[[Pool, Array, float], Array]


def _counts(pool: Pool, weights: Array, threshold: float) -> tuple[Array, Array, Array, Array]:
    """Weighted true and false positives, false and true negatives, [R] each; positive is a right step."""
    said = pool.scores >= threshold
    kinds = [said & pool.labels, said & ~pool.labels, ~said & pool.labels, ~said & ~pool.labels]
    sums = weights @ pool.sums(numpy.stack(kinds, axis=1).astype(float))
    return sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]


def _ratio(over: Array, under: Array) -> Array:
    return numpy.divide(over, under, out=numpy.zeros_like(over), where=under > 0)


def _share(over: Array, under: Array) -> Array:
    """A share of nothing is unknown."""
    return numpy.divide(over, under, out=numpy.full_like(over, numpy.nan), where=under > 0)


def _f1(pool: Pool, weights: Array, threshold: float) -> Array:
    hits, false, missed, _ = _counts(pool, weights, threshold)
    return _ratio(2 * hits, 2 * hits + false + missed)


def _f1_wrong(pool: Pool, weights: Array, threshold: float) -> Array:
    _, false, missed, hits = _counts(pool, weights, threshold)
    return _ratio(2 * hits, 2 * hits + false + missed)


def _macro_f1(pool: Pool, weights: Array, threshold: float) -> Array:
    return (_f1(pool, weights, threshold) + _f1_wrong(pool, weights, threshold)) / 2


def _precision(pool: Pool, weights: Array, threshold: float) -> Array:
    hits, false, _, _ = _counts(pool, weights, threshold)
    return _ratio(hits, hits + false)


def _recall(pool: Pool, weights: Array, threshold: float) -> Array:
    hits, _, missed, _ = _counts(pool, weights, threshold)
    return _share(hits, hits + missed)


def _precision_wrong(pool: Pool, weights: Array, threshold: float) -> Array:
    _, _, missed, hits = _counts(pool, weights, threshold)
    return _ratio(hits, hits + missed)


def _recall_wrong(pool: Pool, weights: Array, threshold: float) -> Array:
    _, false, _, hits = _counts(pool, weights, threshold)
    return _share(hits, hits + false)


def _accuracy(pool: Pool, weights: Array, threshold: float) -> Array:
    hits, false, missed, clean = _counts(pool, weights, threshold)
    return _share(hits + clean, hits + false + missed + clean)


def _f1_always(pool: Pool, weights: Array, threshold: float) -> Array:
    hits, false, missed, clean = _counts(pool, weights, threshold)
    return _ratio(2 * (hits + missed), 2 * (hits + missed) + false + clean)


def _macro_f1_always(pool: Pool, weights: Array, threshold: float) -> Array:
    return _f1_always(pool, weights, threshold) / 2


def _brier(pool: Pool, weights: Array, threshold: float) -> Array:
    far = (pool.scores - pool.labels) ** 2
    sums = weights @ pool.sums(numpy.stack([far, numpy.ones_like(far)], axis=1))
    return _share(sums[:, 0], sums[:, 1])


def _calibration_error(pool: Pool, weights: Array, threshold: float) -> Array:
    place = numpy.minimum((pool.scores * BINS).astype(int), BINS - 1)
    inside = place[:, None] == numpy.arange(BINS)[None, :]
    apart = weights @ pool.sums(inside * (pool.scores - pool.labels)[:, None])
    return _share(numpy.abs(apart).sum(axis=1), weights @ pool.sums(numpy.ones((len(place), 1)))[:, 0])


def _harmonic(pool: Pool, weights: Array, threshold: float) -> Array:
    """Harmonic mean of the mean scores of both classes (ProcessBench's F1, where a score is 1 for an exact match)."""
    columns = [pool.scores * pool.labels, pool.labels, pool.scores * ~pool.labels, ~pool.labels]
    sums = weights @ pool.sums(numpy.stack(columns, axis=1).astype(float))
    first, second = _ratio(sums[:, 0], sums[:, 1]), _ratio(sums[:, 2], sums[:, 3])
    return _ratio(2 * first * second, first + second)


def _auroc(pool: Pool, weights: Array, threshold: float) -> Array:
    return _auroc_within(pool.flat, weights, threshold)


def _auroc_within(pool: Pool, weights: Array, threshold: float) -> Array:
    """Chance that a right entry scores above a wrong one of its stratum, ties counted half; over all such pairs."""
    if not len(pool.unit):
        return numpy.full(len(weights), numpy.nan)
    order, starts, owner = pool.ranked
    unit, right = pool.unit[order], pool.labels[order]
    found, block = [], max(1, 4_000_000 // len(order))
    for begin in range(0, len(weights), block):
        heavy = weights[begin : begin + block, unit].astype(float)
        above = numpy.add.reduceat(heavy * right, starts, axis=1)
        below = numpy.add.reduceat(heavy * ~right, starts, axis=1)
        before = numpy.cumsum(below, axis=1) - below
        won = (above * (before - before[:, owner] + below / 2)).sum(axis=1)
        heads = numpy.unique(owner)
        pairs = (numpy.add.reduceat(above, heads, axis=1) * numpy.add.reduceat(below, heads, axis=1)).sum(axis=1)
        found.append(_share(won, pairs))
    return numpy.concatenate(found)


FIGURES: dict[str, Figure] = {
    "f1": _f1,
    "f1_wrong": _f1_wrong,
    "macro_f1": _macro_f1,
    "precision": _precision,
    "recall": _recall,
    "precision_wrong": _precision_wrong,
    "recall_wrong": _recall_wrong,
    "accuracy": _accuracy,
    "f1_always": _f1_always,
    "macro_f1_always": _macro_f1_always,
    "brier": _brier,
    "calibration_error": _calibration_error,
    "harmonic": _harmonic,
    "auroc": _auroc,
    "auroc_within": _auroc_within,
}
"""Pooled figures by name; all lie in [0, 1]. Unknown (nan) where a class is empty that they need."""


@dataclass(frozen=True)
class PooledFigure:
    """One figure of a pool: its estimate, and how it differs from the same figure of another pool.

    Attributes:
        pool: the entries.
        name: of the figure, one of `FIGURES`.
        threshold: from which score on an entry is called right.
        known: its interval where that was made before.
    """

    pool: Pool
    name: str
    threshold: float = 0.5
    known: Interval | None = None

    def __call__(self, weights: Array | None = None) -> Array:
        """[R] values under [R, U] weights; of the pool as it is without."""
        heavy = numpy.ones((1, len(self.pool.units))) if weights is None else weights
        return FIGURES[self.name](self.pool, heavy, self.threshold)

    @property
    def value(self) -> float | None:
        """None where it does not exist."""
        found = float(self()[0])
        return None if numpy.isnan(found) else found

    def estimate(self, confidence: float = 0.95, seed: int = 0) -> Interval:
        """With a percentile bootstrap interval over units; where no draw differs, the mid-p one of as many answers."""
        if self.known is not None and self.known.confidence == confidence:
            return self.known
        own, units = float(self()[0]), len(numpy.unique(self.pool.unit))
        drawn = self(_draws(len(self.pool.units), seed))
        low, high, se = _ends(drawn, confidence)
        if high - low > 1e-12:
            return Interval(own, min(low, own), max(high, own), se, confidence, "bootstrap by unit", units)
        low, high = mid_p(own, float(max(1, units)), confidence)
        return Interval(own, low, high, None, confidence, "mid-p, an answer a unit", units)

    def difference(self, other: PooledFigure, place: str, confidence: float = 0.95, seed: int = 0) -> Interval:
        """Ours minus the other's over the units that both have, bootstrapped in pairs.

        Raises:
            RunError: less than half of the units are on both sides.
        """
        ours, theirs = self._shared(other, place)
        units = len(ours.pool.units)
        weights = _draws(units, seed)
        low, high, se = _ends(ours(weights) - theirs(weights), confidence)
        own = float(ours()[0] - theirs()[0])
        return Interval(own, min(low, own), max(high, own), se, confidence, "paired bootstrap by unit", units)

    def p_value(self, other: PooledFigure, place: str, seed: int = 0) -> float:
        """Two-sided, of a permutation test that swaps the two within units (Phipson & Smyth 2010)."""
        ours, theirs = self._shared(other, place)
        units = len(ours.pool.units)
        both = PooledFigure(ours.pool.beside(theirs.pool), self.name, self.threshold)
        swapped = numpy.random.default_rng(seed).integers(0, 2, size=(FLIPS, units)).astype(float)
        observed = abs(float(ours()[0] - theirs()[0]))
        there = numpy.concatenate([1 - swapped, swapped], axis=1)
        found = numpy.abs(both(there) - both(1 - there))
        far = int((found[~numpy.isnan(found)] >= observed * (1 - 1e-12)).sum())
        return (far + 1) / (FLIPS + 1)

    def _shared(self, other: PooledFigure, place: str) -> tuple[PooledFigure, PooledFigure]:
        from reasonrl.eval.compared import too_few_shared

        theirs = set(other.pool.units)
        shared = [name for name in self.pool.units if name in theirs]
        too_few_shared(len(shared), len(self.pool.units), len(other.pool.units), place)
        return (
            PooledFigure(self.pool.among(shared), self.name, self.threshold),
            PooledFigure(other.pool.among(shared), other.name, other.threshold),
        )


def _draws(units: int, seed: int) -> Array:
    return numpy.random.default_rng(seed).multinomial(units, numpy.full(units, 1 / units), size=RESAMPLES).astype(float)


def _ends(drawn: Array, confidence: float) -> tuple[float, float, float]:
    known = drawn[~numpy.isnan(drawn)]
    low, high = numpy.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high), float(known.std(ddof=1))
