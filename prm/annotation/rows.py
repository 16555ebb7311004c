"""From rows of any source to solutions with steps and a verdict, some at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from reasonrl.data_tools.files import BadRow, PlacedRow
from reasonrl.data_tools.layout import canonical_row
from reasonrl.errors import DataError
from reasonrl.prm.judges.base import Solution
from reasonrl.prm.steps import Step, partition_fault, spans_of, steps_from_spans
from reasonrl.rewards.grading import grade

Segmenter = Callable[[str], list[Step]]
_TEXT = ("text", "response", "solution")


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be labelled: its id (its place, where it has none), and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Passed:
    """A row that stays without labels because nobody is asked about it.

    Attributes:
        solution: the row; its steps are not used.
        why: `right`, `unchecked` (nobody knows whether its answer is right) or `truncated`.
    """

    solution: Solution
    why: str

    @property
    def id(self) -> str:
        """Of the row."""
        return self.solution.id


PASSED = ("right", "unchecked", "truncated")
Item = Solution | Unusable | Passed


@dataclass
class Reading:
    """How rows become solutions. One object reads one source once.

    Attributes:
        columns: our name -> theirs, as in `load_rows`; `solution` names the solution's text.
        segmenter: gives steps to a text.
        again: segment also what has steps.
        policy: rules of comparison by which a final answer without a verdict is checked; None leaves it open.
        only: `all`, or `wrong`: rows whose final answer is not known to be wrong pass through.
        truncated: `label`, or `leave`: rows with `finish_reason: length` pass through.
    """

    segmenter: Segmenter
    columns: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    policy: str | None = "default"
    only: Literal["all", "wrong"] = "all"
    truncated: Literal["label", "leave"] = "label"
    _met: set[bytes] = field(default_factory=set, repr=False)

    def items(self, rows: Iterable[PlacedRow]) -> list[Item]:
        """These rows as solutions, in order; final answers without a verdict are checked together."""
        found: list[Item] = [self._item(place, raw) for place, raw in rows]
        open_ones = [
            (number, item)
            for number, item in enumerate(found)
            if self.policy is not None and isinstance(item, Solution) and item.correct is None and item.answer
        ]
        if open_ones and self.policy is not None:
            graded = grade([(item.answer or "", item.text) for _, item in open_ones], self.policy)
            for (number, item), verdict in zip(open_ones, graded.verdicts, strict=True):
                if verdict.score is not None:
                    found[number] = replace(item, correct=verdict.correct)
        return [self._passed(item) for item in found]

    def _passed(self, item: Item) -> Item:
        if not isinstance(item, Solution):
            return item
        if self.only == "wrong" and item.correct is not False:
            return Passed(item, "right" if item.correct else "unchecked")
        cut = self.truncated == "leave" and item.row.get("finish_reason") == "length"
        return Passed(item, "truncated") if cut else item

    def pass_over(self, rows: Iterable[PlacedRow]) -> None:
        """Note the ids of rows that another process or an earlier run labels."""
        for place, raw in rows:
            self._identified(place, raw)

    def _identified(
        self, place: str, raw: Mapping[str, Any] | BadRow
    ) -> Unusable | tuple[str, str, str, Mapping[str, Any]]:
        """Id, problem, text and row; or why it cannot be used."""
        row = raw if isinstance(raw, BadRow) else canonical_row(raw, self.columns, ("problem",))
        if isinstance(row, BadRow):
            return Unusable(place, row.reason)
        named = ("solution",) if "solution" in self.columns else _TEXT
        text = next((row[name] for name in named if isinstance(row.get(name), str) and row[name]), "")
        problem = row.get("problem") or json.dumps(row.get("prompt"), ensure_ascii=False)
        own = row.get("id")
        name = str(own) if own is not None else _hash(problem, text)
        if not text:
            return Unusable(name, f"there is no text to label (columns looked at: {', '.join(named)})")
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if key in self._met:
            return Unusable(name, "the id stands twice: only the first row is labelled")
        self._met.add(key)
        return name, problem, text, row

    def _item(self, place: str, raw: Mapping[str, Any] | BadRow) -> Item:
        known = self._identified(place, raw)
        if isinstance(known, Unusable):
            return known
        name, problem, text, row = known
        correct = row.get("correct")
        if correct is not None and not isinstance(correct, bool) and correct not in (0, 1):
            return Unusable(name, f"correct is {str(correct)[:40]!r}, but must be true, false or null")
        if self.only == "wrong" and correct:
            return Passed(_solution(name, problem, row, text, [], True), "right")  # it needs no steps
        try:
            steps = self._steps(text, row.get("steps"))
        except DataError as problem_found:
            return Unusable(name, str(problem_found))
        return _solution(name, problem, row, text, steps, None if correct is None else bool(correct))

    def _steps(self, text: str, given: Any) -> list[Step]:
        if given is None or self.again:
            return self.segmenter(text)
        steps = steps_from_spans(given)
        if fault := partition_fault(text, steps):
            raise DataError(f"steps: {fault}")
        return steps


def chunks(rows: Iterable[PlacedRow], size: int) -> Iterator[list[PlacedRow]]:
    """The rows in lists of `size`, the last perhaps shorter."""
    source = iter(rows)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


def digest_of(item: Item) -> str:
    """16 hexadecimal digits of all that a judge's labels of an item depend on."""
    if isinstance(item, Unusable):
        return _hash(item.id, item.reason)
    if isinstance(item, Passed):
        return _hash(item.id, item.solution.text, item.why)
    return _hash(item.id, item.problem, item.answer, item.text, spans_of(item.steps), item.correct)


def digest_of_rows(rows: Iterable[PlacedRow]) -> str:
    """16 hexadecimal digits of rows as they were read, wherever they stand."""
    digest = hashlib.sha256()
    for _, raw in rows:
        plain = {"unreadable": raw.reason} if isinstance(raw, BadRow) else dict(raw)
        digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _solution(
    name: str, problem: str, row: Mapping[str, Any], text: str, steps: Iterable[Step], correct: bool | None
) -> Solution:
    answer = row.get("answer")
    return Solution(name, problem, None if answer is None else str(answer), text, tuple(steps), correct, row)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
