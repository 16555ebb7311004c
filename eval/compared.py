"""One figure of one evaluation, as it is compared: its estimate, the paired difference to another's, the test of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reasonrl.errors import RunError
from reasonrl.eval.compound import AGAINST_ALONE, against_alone
from reasonrl.eval.metrics import Interval, paired_difference, proportion_interval
from reasonrl.eval.paired import FLIPS, fold_groups, sign_flip_test

EMERGENT = "emergent "
"""How figures begin that are over the problems whose messages were all wrong in that row's own rounds."""


class Compared(Protocol):
    """What a table asks of a figure; `other` is the same figure of the baseline."""

    def estimate(self, confidence: float = 0.95, seed: int = 0) -> Interval: ...

    def difference(self, other: Any, place: str, confidence: float = 0.95, seed: int = 0) -> Interval: ...

    def p_value(self, other: Any, place: str, seed: int = 0) -> float: ...


@dataclass(frozen=True)
class ByProblem:
    """A mean of one value in [0, 1] a problem.

    Attributes:
        values: by problem (by group for `worst_case` and its like).
        groups: group by problem, where problems are variants of questions.
        draws: sign patterns of the test, where they are drawn.
    """

    values: Mapping[str, float]
    groups: Mapping[str, str] = field(default_factory=dict)
    draws: int = FLIPS

    def estimate(self, confidence: float = 0.95, seed: int = 0) -> Interval:
        """Clustered by problem, or by group."""
        units = [self.groups.get(key, key) for key in self.values]
        return proportion_interval(list(self.values.values()), confidence, groups=units)

    def difference(self, other: ByProblem, place: str, confidence: float = 0.95, seed: int = 0) -> Interval:
        """`paired_difference` over problems scored on both sides, or over the groups that they are variants of.

        A problem that one side could not score is left out on both; entirely different problem sets are refused.

        Raises:
            RunError: less than half of the problems are on both sides: these are not the same problems.
        """
        ours, theirs = (fold_groups(side, self.groups) for side in self._shared(other, place))
        return paired_difference(ours, theirs, confidence, seed=seed)

    def p_value(self, other: ByProblem, place: str, seed: int = 0) -> float:
        """By the paired sign-flip test."""
        ours, theirs = self._shared(other, place)
        apart = fold_groups({key: ours[key] - theirs[key] for key in ours}, self.groups)
        return sign_flip_test(list(apart.values()), seed=seed, draws=self.draws)

    def _shared(self, other: ByProblem, place: str) -> tuple[dict[str, float], dict[str, float]]:
        shared = [key for key in self.values if key in other.values]
        too_few_shared(len(shared), len(self.values), len(other.values), place)
        return {key: self.values[key] for key in shared}, {key: other.values[key] for key in shared}


def too_few_shared(shared: int, ours: int, theirs: int, place: str) -> None:
    """Refuses two sides that are not about the same problems.

    Raises:
        RunError: less than half of them are on both sides.
    """
    if 2 * shared < max(ours, theirs) or not shared:
        raise RunError(
            f"{place}: only {shared} problems are on both sides (of {ours} and {theirs})"
            " -> compare evaluations of the same data"
        )


def of_own_problems(metric: str) -> bool:
    """Whether a figure is over problems that a row's own answers choose: of two rows there is no paired difference."""
    return metric.startswith(EMERGENT)


def figure_of(directory: Path, suite: str, metric: str) -> Compared:
    """A named figure of a finished suite.

    Raises:
        RunError: the suite's samples or values are not there.
    """
    from reasonrl.eval.compare import suite_groups, suite_values
    from reasonrl.eval.exams.record import is_exam, pooled_figure

    if metric in AGAINST_ALONE:
        return against_alone(directory, suite, metric)
    if not is_exam(directory, suite):
        return ByProblem(suite_values(directory, suite, metric), suite_groups(directory, suite))
    # An examination has dozens of figures.
    return pooled_figure(directory, suite, metric) or ByProblem(
        suite_values(directory, suite, metric), draws=FLIPS // 10
    )
