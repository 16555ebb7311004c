"""Solutions of the grid world read from their text alone, and figures of many of them.

read_trace("372518904", "B2+A1", "B2=1;?B2=1;A1=3;1+3=4;#4").looks    # ((True, True),)
measure(rows)                                                          # ({"pass@1": .62, "looks": .31, …}, the law's)
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.data_tools.worlds.grid import check_modulus, law_of
from reasonrl.data_tools.worlds.grid_law import Path
from reasonrl.errors import DataError

_QUESTION = re.compile(r"[ABC][123](?:[-+*][ABC][123])*", re.ASCII)
_READ = re.compile(r"(\??|~)([ABC][123])=(\d)", re.ASCII)
_STEP = re.compile(r"(!?)(\d)([-+*])(\d)=(\d)", re.ASCII)
_HALVES = re.compile(r"<([^|<>]+)\|([^|<>]+)>")
_FORM = re.compile("|".join(f"(?:{kind.pattern})" for kind in (_READ, _STEP, _HALVES)), re.ASCII)
_ANSWER = re.compile(r"#(\d)\Z", re.ASCII)

MEANINGS: Mapping[str, str] = {
    "pass@1": "right answers of all samples",
    "mixed": "problems with right and wrong answers; of several samples a problem",
    "finished": "samples that end with an answer",
    "in_form": "samples all of whose parts have the form of one, and that end with an answer",
    "well_formed": "samples whose every part is due and goes on from those before it: only digits can be wrong",
    "read_right": "cells that are read rightly, second looks left out",
    "work_right": "computations that are right for the digits they are given",
    "looks": "samples with a second look at a cell",
    "looks_at_wrong": "second looks among cells that were read wrongly",
    "looks_at_right": "second looks among cells that were read rightly",
    "mends": "second looks at cells read wrongly that read them rightly",
    "spoils": "second looks at cells read rightly that read them wrongly",
    "recomputes": "samples that do a computation again",
    "halves": "samples that name the path in two halves",
    "backward": "samples that read the last cell first",
    "characters": "mean length",
    "look_gain": "right answers with a second look less those without, at equal numbers of operands",
}
"""What `measure` gives; all are shares but `characters`, and `look_gain`, a difference."""


@dataclass
class Reading:
    """What a text says.

    Attributes:
        answer: its digit; None without one at the end.
        in_form, well_formed: as `MEANINGS` has them.
        reads: of every first reading of a cell, whether it is right.
        looks: of every second look, whether the reading before it was right, and whether it is.
        steps: of every computation, whether it is right.
        recomputes, halves, backward: whether the text does so.
    """

    answer: int | None = None
    in_form: bool = True
    well_formed: bool = True
    reads: list[bool] = field(default_factory=list)
    looks: list[tuple[bool, bool]] = field(default_factory=list)
    steps: list[bool] = field(default_factory=list)
    recomputes: bool = False
    halves: bool = False
    backward: bool = False


class _Reader:
    """Goes through the parts of a text; whatever is not due makes it malformed."""

    def __init__(self, digits: str, question: str, modulus: int) -> None:
        self.digits, self.question, self.modulus = digits, question, modulus
        self.signs = question[2::3]
        self.cells = [question[start : start + 2] for start in range(0, len(question), 3)]
        self.known: dict[str, int] = {}  # cells in order of their reading -> the digit that holds
        self.last: str | None = None  # the cell that the part before reads
        self.value: int | None = None
        self.done = 0  # computations
        self.step: tuple[str, ...] | None = None  # the computation that the part before does
        self.found = Reading()

    def truth(self, cell: str) -> int:
        row, column = int(cell[1]) - 1, "ABC".index(cell[0])
        return int(self.digits[3 * row + column])

    def take(self, part: str) -> bool:
        """Whether a part was due."""
        if match := _READ.fullmatch(part):
            return self.read(match[1], match[2], int(match[3]))
        if match := _STEP.fullmatch(part):
            return self.compute(bool(match[1]), match.groups()[1:4], int(match[5]))
        if match := _HALVES.fullmatch(part):
            self.found.halves = True
            return match[1] + match[2] == self.question and not self.known
        return False

    def read(self, mark: str, cell: str, digit: int) -> bool:
        right = digit == self.truth(cell)
        if mark == "?":
            due = cell == self.last
            before = self.known.get(cell)
            if before is not None:
                self.found.looks.append((before == self.truth(cell), right))
        else:
            self.found.reads.append(right)
            ahead = [one for one in self.cells if one not in self.known]
            if mark == "~":
                self.found.backward = True
                due = not self.known and cell == self.cells[-1] and len(self.cells) > 1
            else:
                due = bool(ahead) and cell == ahead[0] and self.turn(cell)
        self.known[cell] = digit
        self.last, self.step = cell, None
        return due

    def turn(self, cell: str) -> bool:
        """Whether a cell is the one to be read, and no computation is overdue."""
        return self.cells.index(cell) <= self.done + 1

    def compute(self, again: bool, given: Sequence[str], digit: int) -> bool:
        left, sign, right = int(given[0]), given[1], int(given[2])
        truth = {"+": left + right, "-": left - right, "*": left * right}[sign] % self.modulus
        self.found.steps.append(digit == truth)
        if again:
            self.found.recomputes = True
            due = self.step == tuple(given)
        else:
            due = self.is_next(left, sign, right)
            self.done += 1
        self.value, self.last, self.step = digit, None, tuple(given)
        return due

    def is_next(self, left: int, sign: str, right: int) -> bool:
        if self.done >= len(self.signs) or sign != self.signs[self.done]:
            return False
        before = self.known.get(self.cells[0]) if self.done == 0 else self.value
        return left == before and right == self.known.get(self.cells[self.done + 1])


def read_trace(digits: str, question: str, text: str, modulus: int = 10) -> Reading:
    """What a text says about the path of a question over a field, worked modulo `modulus`.

    Raises:
        DataError: the field is not nine digits, or the question no path.
    """
    if not re.fullmatch(r"\d{9}", digits, re.ASCII) or not _QUESTION.fullmatch(question):
        raise DataError(f"grid: {digits!r} and {question!r} are no field of nine digits and no path -> rows of `path`")
    reader = _Reader(digits, question, modulus)
    *parts, end = text.split(";")
    reader.found.in_form = all(map(_FORM.fullmatch, parts)) and bool(_ANSWER.fullmatch(end))
    for part in parts:
        due = reader.take(part)
        reader.found.well_formed &= due
    answer = _ANSWER.fullmatch(end)
    found = reader.found
    found.answer = int(answer[1]) if answer else None
    whole = reader.done == len(reader.signs) and set(reader.known) >= set(reader.cells)
    held = reader.value if reader.signs else reader.known.get(reader.cells[0])
    found.well_formed &= whole and answer is not None and found.answer == held
    return found


def measure(
    rows: Iterable[Mapping[str, Any]],
    *,
    misread: float = 0.0,
    needless: float = 0.0,
    recompute: float = 0.0,
    halves: float = 0.0,
    backward: float = 0.0,
    modulus: int = 10,
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of solutions, and the same of as many that the law writes to the same problems.

    Args:
        rows: with `field`, `question`, `answer` and `text` (or `solution`).
        misread, needless, recompute, halves, backward: of the law, as of the world.
        modulus: of the rows' world.

    Raises:
        DataError: there are no rows, or one is no path of this world.
    """
    check_modulus(modulus)
    law = law_of(misread=misread, needless=needless, recompute=recompute, halves=halves, backward=backward)
    given = [
        (str(row.get("field")), str(row.get("question")), str(row.get("text", row.get("solution")))) for row in rows
    ]
    if not given:
        raise DataError("grid figures: there are no rows -> sample some")
    found = _figures(given, modulus)
    draw = random.Random("grid/figures")
    own = [
        (digits, question, law.write(path_of(question, modulus), digits, draw).text) for digits, question, _ in given
    ]
    return found, _figures(own, modulus)


def path_of(question: str, modulus: int = 10) -> Path:
    """The path that a question asks for; it must be one."""
    cells = tuple(question[start : start + 2] for start in range(0, len(question), 3))
    return Path(cells, tuple(question[2::3]), modulus)


def _figures(given: Sequence[tuple[str, str, str]], modulus: int) -> dict[str, float]:
    hits: Counter[str] = Counter()
    tries: Counter[str] = Counter()
    by_problem: dict[str, list[bool]] = defaultdict(list)
    by_length: dict[int, list[tuple[bool, bool]]] = defaultdict(list)

    def count(name: str, hit: float, of: int = 1) -> None:
        hits[name] += hit  # type: ignore[assignment]
        tries[name] += of

    for digits, question, text in given:
        found = read_trace(digits, question, text, modulus)
        right = found.answer == path_of(question, modulus).value(digits)
        by_problem[f"{digits}/{question}"].append(right)
        by_length[len(question)].append((bool(found.looks), right))
        count("pass@1", right)
        count("finished", found.answer is not None)
        count("in_form", found.in_form)
        count("well_formed", found.well_formed)
        count("looks", bool(found.looks))
        count("recomputes", found.recomputes)
        count("halves", found.halves)
        count("backward", found.backward)
        count("characters", len(text))
        count("read_right", sum(found.reads), len(found.reads))
        count("work_right", sum(found.steps), len(found.steps))
        for was, now in found.looks:
            count("spoils" if was else "mends", now != was)
        for was, times in ((True, found.reads.count(True)), (False, found.reads.count(False))):
            looked = sum(before == was for before, _ in found.looks)
            count("looks_at_right" if was else "looks_at_wrong", looked, times)
    for answers in by_problem.values():
        if len(answers) > 1:
            count("mixed", any(answers) and not all(answers))
    shares = {name: hits[name] / tries[name] for name in MEANINGS if tries[name]}
    gain = _look_gain(list(by_length.values()))
    return shares if gain is None else {**shares, "look_gain": gain}


def _look_gain(groups: Sequence[Sequence[tuple[bool, bool]]]) -> float | None:
    """The difference at equal lengths, weighted by samples with a look; None if no length has both."""
    total, weight = 0.0, 0
    for group in groups:
        withs = [right for looked, right in group if looked]
        without = [right for looked, right in group if not looked]
        if withs and without:
            total += len(withs) * (sum(withs) / len(withs) - sum(without) / len(without))
            weight += len(withs)
    return total / weight if weight else None
