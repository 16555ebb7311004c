"""Judges that know: an exact oracle, one that errs as much as it is told to, and a user's own function."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from reasonrl.errors import DataError, RewardError
from reasonrl.prm.judges.base import Judged, Keep, Solution, Task
from reasonrl.prm.label_checks import validate
from reasonrl.prm.steps import spans_of


class _OneByOne(ABC):
    """A judge that takes one solution after the other in this process."""

    votes = 1
    at_once = 1

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`; a solution that cannot be labelled is one with a failure."""
        for task in tasks:
            try:
                labels = self._labels(task)
                faults = validate(
                    {"labels": labels, "steps": spans_of(task.solution.steps), "text": task.solution.text}
                )
                judged = Judged(task, failure="; ".join(faults)) if faults else Judged(task, tuple(labels))
            except DataError as problem:
                judged = Judged(task, failure=str(problem))
            keep(judged)
            yield judged

    def close(self) -> None:
        """There is nothing to close."""
        return

    @abstractmethod
    def _labels(self, task: Task) -> list[int | None]:
        """[K] the labels; DataError where there are none."""


class OracleJudge(_OneByOne):
    """The true labels: those of a column of the solution's record, or read from its text by a world's own reader.

    Args:
        column: of the records, with a label (0, 1 or null) a step.
        world: `reflective`: every step must be a line of the text (segment: lines).

    Raises:
        RewardError: both or an unknown world are given.
    """

    def __init__(self, column: str | None = None, world: str | None = None) -> None:
        if column is not None and world is not None:
            raise RewardError("oracle judge: column and world both say where the labels are -> give one of them")
        if world not in (None, "reflective"):
            raise RewardError(f"oracle judge: world {world!r} has no reader of its solutions -> give reflective")
        self.column = column or ("labels" if world is None else None)
        self.world = world

    def settings(self) -> dict[str, Any]:
        """What changes the labels."""
        return {"judge": "oracle", "prompt_hash": None, "column": self.column, "world": self.world}

    def truth(self, solution: Solution) -> list[int | None]:
        """The labels; raises DataError if the record has none that fit its steps."""
        if self.world is not None:
            from reasonrl.data_tools.worlds.reflective import read_trace

            reading = read_trace(solution.problem, solution.text)
            if [list(span) for span in reading.steps] != spans_of(solution.steps):
                raise DataError("oracle judge: the steps are not the lines of the text -> segment: {method: lines}")
            return list(reading.labels)
        labels = solution.row.get(self.column or "")
        if not isinstance(labels, Sequence) or isinstance(labels, str):
            raise DataError(f"oracle judge: the column {self.column!r} is {str(labels)[:40]!r}, no list of labels")
        if len(labels) != len(solution.steps):
            raise DataError(
                f"oracle judge: the column {self.column!r} has {len(labels)} labels, but the solution has"
                f" {len(solution.steps)} steps -> take the record's own steps"
            )
        return list(labels)

    def _labels(self, task: Task) -> list[int | None]:
        return self.truth(task.solution)


class NoisyJudge(_OneByOne):
    """The true labels with errors that are independent given the truth, drawn anew for each vote from a hash of seed,
    solution, step and vote, so that they do not hang on the order.

    Either `kappa`: each label is left with probability kappa, and else drawn by the share of right steps, which keeps
    that share and makes Cohen's kappa with the truth exactly this. Or `precision` and `recall` of the class "right".

    Args:
        kappa: 0 to 1.
        precision, recall: 0 to 1.
        share: of right steps in the truth, which both need.
        seed: of the draws.
        votes: how often each solution is asked about.
        column, world: where the truth is, as `OracleJudge`.

    Raises:
        RewardError: numbers that cannot be, or that no judge can have together.
    """

    def __init__(
        self,
        kappa: float | None = None,
        precision: float | None = None,
        recall: float | None = None,
        share: float = 0.5,
        seed: int = 0,
        votes: int = 1,
        column: str | None = None,
        world: str | None = None,
    ) -> None:
        self.oracle = OracleJudge(column, world)
        if (kappa is None) == (precision is None and recall is None) or (precision is None) != (recall is None):
            raise RewardError("noisy judge: give either kappa, or precision and recall")
        for name, value in (("kappa", kappa), ("precision", precision), ("recall", recall), ("share", share)):
            if value is not None and (isinstance(value, bool) or not 0 <= value <= 1):
                raise RewardError(f"noisy judge: {name}={value!r} -> give a number from 0 to 1")
        if kappa is not None:
            self.right_called_right = kappa + (1 - kappa) * share
            self.wrong_called_right = (1 - kappa) * share
        else:
            assert precision is not None and recall is not None
            if not precision or not 0 < share < 1:
                raise RewardError(
                    f"noisy judge: precision={precision!r} and share={share!r} -> both above 0, share < 1"
                )
            self.right_called_right = recall
            self.wrong_called_right = recall * share * (1 - precision) / (precision * (1 - share))
            if self.wrong_called_right > 1:
                raise RewardError(
                    f"noisy judge: with {share:g} of the steps right no judge has precision {precision:g} at recall"
                    f" {recall:g} -> raise precision"
                )
        self.seed = seed
        self.votes = votes

    def settings(self) -> dict[str, Any]:
        """What changes the labels."""
        return {
            **self.oracle.settings(),
            "judge": "noisy",
            "right_called_right": self.right_called_right,
            "wrong_called_right": self.wrong_called_right,
            "seed": self.seed,
            "votes": self.votes,
        }

    def _labels(self, task: Task) -> list[int | None]:
        found: list[int | None] = []
        for step, label in enumerate(self.oracle.truth(task.solution)):
            chance = self.right_called_right if label else self.wrong_called_right
            word = f"{self.seed}/{task.vote}/{step}/{task.solution.id}"
            draw = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56
            found.append(None if label is None else int(draw < chance))
        return found


class FunctionJudge(_OneByOne):
    """A user's function from a solution's record (with `steps`) to a label (0, 1 or None) a step.

    Args:
        name: what the judge is called.
        function: the function; further arguments are passed to it.
    """

    def __init__(self, name: str, function: Callable[..., Sequence[int | None]], /, **arguments: Any) -> None:
        self.name = name
        self.function = function
        self.arguments = arguments

    def settings(self) -> dict[str, Any]:
        """What changes the labels, as far as it can be seen: the file itself is part of the stage's key."""
        return {"judge": self.name, "prompt_hash": None, "args": self.arguments}

    def _labels(self, task: Task) -> list[int | None]:
        solution = task.solution
        record: Mapping[str, Any] = {**solution.row, "steps": spans_of(solution.steps)}
        try:
            return list(self.function(record, **self.arguments))
        except Exception as problem:  # the user's code may raise anything; the solution is set aside with the reason
            raise DataError(f"judge {self.name!r} raised {type(problem).__name__}: {problem}") from problem
