"""From the scores of a solution's steps to the solution's own. The rule is always named beside the number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasonrl.errors import DataError

AGGREGATIONS = ("last", "min", "product", "mean")
DEFAULT_AGGREGATION = "last"
"""Score of the final step (arXiv:2505.14391, Section 5)."""


def check_aggregation(how: str) -> str:
    """The rule's name. Raises DataError if there is no such rule."""
    if how not in AGGREGATIONS:
        raise DataError(f"aggregate: {how!r} is no rule, allowed are {', '.join(AGGREGATIONS)}")
    return how


def aggregate(scores: Sequence[float | None], how: str = DEFAULT_AGGREGATION) -> float | None:
    """The score of a solution.

    Args:
        scores: P(step is right) of its steps; None where a step has no score (the solution was cut there).
        how: `last`, `min`, `product` or `mean`.

    Returns:
        None if the solution has no step, or one without a score.

    Raises:
        DataError: an unknown rule.
    """
    check_aggregation(how)
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    if how == "last":
        return float(known[-1])
    if how == "min":
        return float(min(known))
    return math.prod(known) if how == "product" else math.fsum(known) / len(known)
