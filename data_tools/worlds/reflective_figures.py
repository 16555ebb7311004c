"""Figures of solutions of the reflective world, from their text alone: how far a model writes as the law does.

    figures(rows)   # {"pass@1": .45, "well_formed": .998, "wrong_on_hard": .63, "repair": .14, ...}

The same figures of the law's own solutions are what a model that imitates it is held to.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.data_tools.worlds.reflective import law_of
from reasonrl.data_tools.worlds.reflective_law import Chain, Law
from reasonrl.data_tools.worlds.reflective_reader import Reading, answer_of, gold_of, read_problem, read_trace, work
from reasonrl.errors import DataError

_LINE = re.compile(r"(R?)([a-z])(\d)([-+*])(\d)=(\d)|#\d", re.ASCII)

MEANINGS: Mapping[str, str] = {
    "pass@1": "right answers of all samples",
    "majority": "problems whose commonest answer is right, ties by their share; of several samples a problem",
    "pass@n": "problems with a right answer; of several samples a problem",
    "mixed": "problems with right and wrong answers; of several samples a problem",
    "finished": "solutions that end with an answer's line",
    "well_formed": "lines that can be read and are due: only their value may be wrong",
    "wrong_on_hard": "wrong values where a hard fact was written for the first time",
    "wrong_on_easy": "wrong values where another fact was written for the first time",
    "repair": "turns with an open error that redo the first wrong step rightly",
    "false_repair": "turns with an open error that redo anything else, or the first wrong step with an error",
    "recheck": "turns on a sound chain that redo a step",
    "with_error": "solutions with an error of their own",
    "sound": "right lines of all, answers left out",
    "sound_in_wrong": "right lines of solutions with a wrong answer, answers left out",
    "sound_at_mark": "right lines of those that begin with the mark",
    "mark_tells": "`sound_at_mark` less `sound`",
    "lines": "mean lines of a solution",
}
"""What `figures` gives; all are shares but `mark_tells`, a difference, and `lines`."""


@dataclass
class _Counts:
    """Hits and tries by figure."""

    hits: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, hit: float, of: int = 1) -> None:
        self.hits[name] += hit  # type: ignore[assignment]
        self.tries[name] += of

    def shares(self) -> dict[str, float]:
        return {name: self.hits[name] / self.tries[name] for name in MEANINGS if self.tries[name]}


def figures(rows: Iterable[Mapping[str, Any]], law: Law) -> dict[str, float]:
    """Figures by name (`MEANINGS`); one that nothing counts for is left out.

    Args:
        rows: with `problem` and `text`; rows of equal problem are its samples.
        law: whose hard facts are meant, and whose cap of lines forbids late redos.

    Raises:
        DataError: there are no rows, or one has no text or no problem of this world.
    """
    counts = _Counts()
    answers: dict[str, list[int | None]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        problem, text = row.get("problem"), row.get("text", row.get("solution"))
        if not isinstance(problem, str) or not isinstance(text, str):
            raise DataError(f"reflective figures: row {number} has no problem and text -> give rows of solutions")
        answers[problem].append(answer_of(text))
        _of_solution(problem, text, law, counts)
    if not answers:
        raise DataError("reflective figures: there are no rows -> sample some")
    for problem, given in answers.items():
        _of_problem(gold_of(problem), given, counts)
    found = counts.shares()
    if "sound_at_mark" in found:
        found["mark_tells"] = found["sound_at_mark"] - found["sound"]
    return found


def _of_problem(gold: int, given: Sequence[int | None], counts: _Counts) -> None:
    right = sum(answer == gold for answer in given)
    counts.add("pass@1", right, len(given))
    if len(given) < 2:
        return
    votes = Counter(answer for answer in given if answer is not None)
    most = max(votes.values(), default=0)
    leading = [answer for answer, count in votes.items() if count == most]
    counts.add("majority", (gold in leading) / len(leading) if leading else 0.0)
    counts.add("pass@n", right > 0)
    counts.add("mixed", 0 < right < len(given))


def _of_solution(problem: str, text: str, law: Law, counts: _Counts) -> None:
    reading = read_trace(problem, text)
    operations = read_problem(problem)[1]
    lines = [text[start:end].removesuffix("\n") for start, end in reading.steps]
    counts.add("finished", reading.answer is not None)
    counts.add("with_error", any(reading.own_error))
    counts.add("lines", len(lines), 1)
    _lines(lines, reading, operations, law, counts)


def _lines(
    lines: Sequence[str], reading: Reading, operations: Sequence[tuple[str, int]], law: Law, counts: _Counts
) -> None:
    """Count what each turn does, given what stands before it."""
    digits, standing, places = [reading.values[0]], frozenset[int](), dict[int, int]()
    cap = law.steps_per_operation * len(operations)
    for number, line in enumerate(lines):
        due = len(digits) - 1
        match = _LINE.fullmatch(line)
        step = match.groups() if match and match[2] else None
        place = places[number] = ord(step[1]) - ord("a") if step else due
        fits = _fits(step, place, digits, operations) if step else match is not None and due == len(operations)
        counts.add("well_formed", fits)
        after = _standing_after(reading, number, standing)
        first = min((places[one] for one in standing), default=0)
        if due and number + 1 + len(operations) - first <= cap:
            _redone(bool(step and step[0]), fits and place == first and number not in after, bool(standing), counts)
        if step and fits and not step[0]:
            fact = (step[3], int(step[2]), int(step[4]))
            name = "wrong_on_hard" if fact in law.mistaken else "wrong_on_easy"
            counts.add(name, int(step[5]) != work(*fact))
        if not line.startswith("#"):
            _sound(not after, reading.correct, line.startswith("R"), counts)
        standing = after
        if step and fits:
            digits = [*digits[: place + 1], int(step[5])]


def _redone(marked: bool, rightly: bool, open_error: bool, counts: _Counts) -> None:
    if open_error:
        counts.add("repair", marked and rightly)
        counts.add("false_repair", marked and not rightly)
    else:
        counts.add("recheck", marked)


def _sound(sound: bool, correct: bool, marked: bool, counts: _Counts) -> None:
    counts.add("sound", sound)
    if not correct:
        counts.add("sound_in_wrong", sound)
    if marked:
        counts.add("sound_at_mark", sound)


def _standing_after(reading: Reading, number: int, before: frozenset[int]) -> frozenset[int]:
    """The lines whose errors stand after a line."""
    own = frozenset({number}) if reading.own_error[number] else frozenset()
    return (before - reading.repairs[number]) | own


def _fits(step: Sequence[str], place: int, digits: Sequence[int | None], operations: Sequence[tuple[str, int]]) -> bool:
    """Whether a line that can be read is in turn, and works on the digit before it by its operation."""
    if place >= len(operations) or (step[3], int(step[4])) != operations[place]:
        return False
    due = len(digits) - 1
    return (place < due if step[0] else place == due) and int(step[2]) == digits[place]


def measure(
    rows: Iterable[Mapping[str, Any]],
    *,
    preset: str = "prm",
    teacher_seed: int = 0,
    hard_facts: float | None = None,
    slip: float | None = None,
    easy_slip: float | None = None,
    repair: float | None = None,
    false_repair: float | None = None,
    recheck: float | None = None,
    operators: int = 21,
) -> tuple[dict[str, float], dict[str, float]]:
    """`figures` of the rows, and the same of solutions that the law writes to the same problems, as many to each.

    Args:
        rows: as of `figures`.
        preset, teacher_seed, hard_facts, slip, easy_slip, repair, false_repair, recheck, operators: of the law, as of
            the world.
    """
    given = {"hard_facts": hard_facts, "slip": slip, "easy_slip": easy_slip, "repair": repair}
    law = law_of(preset, {**given, "false_repair": false_repair, "recheck": recheck}, teacher_seed, operators)
    kept = [{"problem": row.get("problem"), "text": row.get("text", row.get("solution"))} for row in rows]
    found = figures(kept, law)
    draw = random.Random(f"reflective/figures/{preset}/{teacher_seed}")
    own = [{"problem": row["problem"], "text": law.write(chain_of(str(row["problem"])), draw).text} for row in kept]
    return found, figures(own, law)


def chain_of(problem: str) -> Chain:
    """A problem's text as the law takes it; raises DataError if it is none."""
    start, operations = read_problem(problem)
    return [("", start), *operations]
