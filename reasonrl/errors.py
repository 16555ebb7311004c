"""Every error that reasonrl raises on purpose.

One small tree. Each message names the key or the item, the value, what was allowed, and what to do. `exit_status` is
what the command line exits with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ReasonRLError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""

    exit_status: int = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe.

    Attributes:
        key: dotted key the problem is about, such as `stages.rl.learning_rate`; empty for the file as a whole.
        message: what is wrong, with the value and what was allowed.
        origin: where the value came from: `file.yaml:12` or the command-line token; empty if it has no place.
        fix: what to do about it; may be empty.
    """

    key: str
    message: str
    origin: str = ""
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin else ""
        key = f"{self.key}: " if self.key else ""
        return f"{place}{key}{self.message}" + (f" -> {self.fix}" if self.fix else "")


class RecipeError(ReasonRLError, ValueError):
    """A recipe that cannot be run, with every problem found in it."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(ReasonRLError, ValueError):
    """A data source that cannot be read or holds no usable row."""


class ModelError(ReasonRLError, ValueError):
    """A model or tokenizer that cannot be loaded or does not fit the job."""


class RewardError(ReasonRLError, ValueError):
    """A reward that cannot be found, built, or that broke its contract."""


class RunError(ReasonRLError):
    """A run directory that cannot be used as asked: changed recipe, foreign folder, a lock held by another process."""

    exit_status = 2


class NothingLeft(ReasonRLError):
    """A run that was to train, and whose stages are all done."""

    exit_status = 3


class StageFailed(ReasonRLError):
    """A stage that could not finish."""


class MissingExtra(ReasonRLError, ImportError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, package: str, extra: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed -> pip install 'reasonrl[{extra}]'"
        )


class Interrupted(ReasonRLError):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has saved what it could."""

    exit_status = 130
