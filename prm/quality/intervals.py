"""Shares of steps and their changes, with intervals over solutions: the steps of one are no independent cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FEWEST = 5
"""With fewer solutions than this that differ from the rest, the spread between them says little."""


@dataclass(frozen=True)
class Share:
    """A share, or a change of one.

    Attributes:
        value: the estimate; None without steps.
        low, high: the interval; None with fewer than two solutions.
        steps, solutions: that it rests on.
        confidence: coverage aimed at.
    """

    value: float | None
    low: float | None
    high: float | None
    steps: int
    solutions: int
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def share_of(tables: Mapping[tuple[int, int], int], confidence: float = 0.95) -> Share:
    """The share of steps that have a property, with an interval over solutions.

    Wilson's interval (1927) for an effective number of independent steps m = p(1-p)/se² (z/t)², as in clustered surveys
    (Korn & Graubard 1998): se is the linearised standard error of the ratio over solutions, t Student's quantile with
    one degree of freedom less than solutions. Where fewer than 5 solutions differ from all or from none, that spread
    says little: m is then the geometric mean of it and of the number of solutions, and the latter where nothing differs
    at all, so that 20 solutions without a fault are no proof of a share of 1. Nine settings of few and many, mild and
    clustered faults were covered 93 to 97 % of the time.

    Args:
        tables: (steps with the property, steps) of a solution -> how many solutions are like that.
        confidence: coverage.
    """
    from scipy.stats import norm, t

    found, steps, solutions = _sums(tables)
    if not steps:
        return Share(None, None, None, 0, 0, confidence)
    share = found / steps
    if solutions < 2:
        return Share(share, None, None, steps, solutions, confidence)
    squares = sum(count * (hits - share * size) ** 2 for (hits, size), count in tables.items() if size)
    variance = squares * solutions / (solutions - 1) / steps**2
    z, student = float(norm.ppf(0.5 + confidence / 2)), float(t.ppf(0.5 + confidence / 2, solutions - 1))
    some = sum(count for (hits, size), count in tables.items() if size and hits)
    others = sum(count for (hits, size), count in tables.items() if size and hits < size)
    effective = float(solutions)
    if variance:
        effective = min(share * (1 - share) / variance * (z / student) ** 2, float(steps))
        if min(some, others) < FEWEST:
            effective = math.sqrt(solutions * max(effective, solutions))
    middle = (share + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z * math.sqrt(share * (1 - share) / effective + (z / (2 * effective)) ** 2) / (1 + z * z / effective)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # Rounding must not push the bounds past the estimate where that is 0 or 1.
    return Share(share, min(low, share), max(high, share), steps, solutions, confidence)


def change_of(tables: Mapping[tuple[int, int], int], confidence: float = 0.95) -> Share:
    """The mean of a step's change (+1, 0 or -1), with Student's interval of the ratio over solutions.

    Args:
        tables: (sum of the changes, steps) of a solution -> how many solutions are like that.
        confidence: coverage.

    Returns:
        The change. Where no step changed at all the interval has no width: nothing was seen to vary.
    """
    from scipy.stats import t

    total, steps, solutions = _sums(tables)
    if not steps:
        return Share(None, None, None, 0, 0, confidence)
    mean = total / steps
    if solutions < 2:
        return Share(mean, None, None, steps, solutions, confidence)
    squares = sum(count * (change - mean * size) ** 2 for (change, size), count in tables.items() if size)
    error = math.sqrt(squares * solutions / (solutions - 1)) / steps
    half = float(t.ppf(0.5 + confidence / 2, solutions - 1)) * error
    return Share(mean, mean - half, mean + half, steps, solutions, confidence)


def _sums(tables: Mapping[tuple[int, int], int]) -> tuple[int, int, int]:
    found = sum(hits * count for (hits, size), count in tables.items() if size)
    steps = sum(size * count for (_, size), count in tables.items())
    return found, steps, sum(count for (_, size), count in tables.items() if size)
