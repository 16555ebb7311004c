"""How far two sets of step labels agree: observed share, Cohen's kappa and its interval. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from reasonrl.errors import DataError

Cells = tuple[int, int, int, int]
"""Steps of one solution that both call right, only the first, only the second, and neither."""

RESAMPLES = 2_000
BATCH = 2_000_000
"""Cells of a bootstrap that are in memory at once."""


@dataclass(frozen=True)
class Agreement:
    """Two sources on the same steps.

    Attributes:
        n: steps that both label.
        solutions: solutions with such a step; what the interval draws.
        observed: share of steps on which they agree; None without steps.
        kappa: Cohen's (1960), (observed - chance) / (1 - chance); None where both give one and the same label
            throughout.
        interval: (low, high) of kappa, percentiles of a bootstrap that draws whole solutions, since the steps of one
            are no independent cases; None with fewer than two solutions, or where a source never varies.
        both_right, only_first, only_second, both_wrong: steps called right by whom.
        confidence: coverage aimed at.
    """

    n: int
    solutions: int
    observed: float | None
    kappa: float | None
    interval: tuple[float, float] | None
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def kappa_of(both_right: float, only_first: float, only_second: float, both_wrong: float) -> float | None:
    """Cohen's kappa of a 2 x 2 table; None where chance alone would agree on everything, or without steps."""
    total = both_right + only_first + only_second + both_wrong
    if not total:
        return None
    first, second = (both_right + only_first) / total, (both_right + only_second) / total
    chance = first * second + (1 - first) * (1 - second)
    return None if chance >= 1 else ((both_right + both_wrong) / total - chance) / (1 - chance)


def agreement(
    first: Sequence[Sequence[int | None]],
    second: Sequence[Sequence[int | None]],
    confidence: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Agreement over the steps that both sources label.

    Args:
        first, second: a list of labels for every solution, in the same order; None is a step that is left open.
        confidence: coverage of the interval.
        seed: of the bootstrap.
        resamples: draws of the bootstrap.

    Raises:
        DataError: the two do not hold the same solutions with the same numbers of steps, or a label is none.
    """
    if len(first) != len(second):
        raise DataError(f"agreement: {len(first)} and {len(second)} solutions -> pair them by id")
    tables: Counter[Cells] = Counter()
    for number, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        if len(ours) != len(theirs):
            raise DataError(
                f"agreement: solution {number} has {len(ours)} and {len(theirs)} labels -> give the same steps"
            )
        cells = cells_of(ours, theirs)
        if any(cells):
            tables[cells] += 1
    return agreement_of_tables(tables, confidence, seed=seed, resamples=resamples)


def cells_of(ours: Sequence[int | None], theirs: Sequence[int | None]) -> Cells:
    """The table of one solution; steps that one of the two leaves open are left out.

    Raises:
        DataError: a label is not 0, 1 or None.
    """
    cells = [0, 0, 0, 0]
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            continue
        if a not in (0, 1) or b not in (0, 1):
            raise DataError(f"agreement: labels {a!r} and {b!r}, allowed are 0, 1 and None")
        cells[2 * (1 - a) + (1 - b)] += 1
    return cells[0], cells[1], cells[2], cells[3]


def agreement_of_tables(
    tables: Mapping[Cells, int], confidence: float = 0.95, *, seed: int = 0, resamples: int = RESAMPLES
) -> Agreement:
    """`agreement` of solutions that have been counted by their tables, so that any number of them fits in memory.

    Args:
        tables: how many solutions have each table.
        confidence, seed, resamples: as `agreement`.
    """
    tables = Counter({cells: count for cells, count in tables.items() if any(cells)})
    right, ours_only, theirs_only, wrong = (sum(table[i] * count for table, count in tables.items()) for i in range(4))
    n = right + ours_only + theirs_only + wrong
    return Agreement(
        n,
        sum(tables.values()),
        (right + wrong) / n if n else None,
        kappa_of(right, ours_only, theirs_only, wrong),
        _interval(tables, confidence, seed, resamples),
        right,
        ours_only,
        theirs_only,
        wrong,
        confidence,
    )


def agreement_by_position(
    first: Sequence[Sequence[int | None]], second: Sequence[Sequence[int | None]], confidence: float = 0.95
) -> list[Agreement]:
    """`agreement` on the first steps alone, on the second ones, and so on to the longest solution's last."""
    longest = max((len(labels) for labels in first), default=0)
    return [
        agreement([labels[k : k + 1] for labels in first], [labels[k : k + 1] for labels in second], confidence)
        for k in range(longest)
    ]


def _interval(tables: Counter[Cells], confidence: float, seed: int, resamples: int) -> tuple[float, float] | None:
    """Percentiles of kappa over draws of solutions. Solutions with equal tables are drawn as one, which changes nothing
    but the cost: that depends on the number of different tables, not on the number of solutions.
    """
    kinds = sorted(tables)
    cells = numpy.array(kinds, dtype=float).reshape(-1, 4)
    counts = numpy.array([tables[kind] for kind in kinds])
    total = counts @ cells
    varied = total.sum() and 0 < total[0] + total[1] < total.sum() and 0 < total[0] + total[2] < total.sum()
    if not varied or counts.sum() < 2:
        return None
    generator = numpy.random.default_rng(seed)
    found: list[numpy.ndarray] = []
    batch = max(1, BATCH // len(kinds))
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=size) @ cells
        drawn /= drawn.sum(axis=1, keepdims=True)
        ours, theirs = drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]
        chance = ours * theirs + (1 - ours) * (1 - theirs)
        observed = drawn[:, 0] + drawn[:, 3]
        usable = chance < 1
        found.append((observed[usable] - chance[usable]) / (1 - chance[usable]))
    low, high = numpy.quantile(numpy.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
