"""A reader of the reflective world that sees the text alone.

It recomputes every line from the digits before it and follows what each value was derived from. A line is wrong if an
error stands in the derivation of its value. The reader shares no code with the writer (`reflective_law.py`), and it
reads what models write, which may be malformed:

- A line that cannot be read, names an operation that is not due, or has an operation, operand or value of its own
  making is an error. So is one that goes back without the mark, and one that works on a digit that nobody wrote.
- An error ends when its operation is rewritten rightly, or one before it is, since the chain goes on from there. One
  that wrote no value (an unreadable line) ends with the next line that does what is due.
- The last line follows the answer: it is right if it is `#` and the problem's answer, and wrong otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reasonrl.errors import DataError

_PROBLEM = re.compile(r"\d( [a-z][-+*]\d)+", re.ASCII)
_STEP = re.compile(r"(R?)([a-z])(\d)([-+*])(\d)=(\d)", re.ASCII)
_ANSWER = re.compile(r"#(\d)", re.ASCII)


@dataclass(frozen=True)
class Reading:
    """What the text says.

    Attributes:
        steps: [K] (start, end) of every line in characters; its line break belongs to it.
        labels: [K] 1 (right) or 0 (wrong), by error propagation and cessation; the last by the answer.
        own_error: [K] whether the step makes an error of its own.
        repairs: [K] the earlier steps whose errors no longer stand after it.
        answer: the digit of the last line if that is an answer, else None.
        correct: whether that is the problem's answer.
        values: the digit that stands after each operation, the start first; None where a skipped line wrote none.
        wrong_operations: operations, counted from 0, whose standing line is wrong by itself.
    """

    steps: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    own_error: tuple[bool, ...]
    repairs: tuple[frozenset[int], ...]
    answer: int | None
    correct: bool
    values: tuple[int | None, ...]
    wrong_operations: tuple[int, ...]


@dataclass(frozen=True)
class _Value:
    """A digit in the chain and the lines whose errors are in its derivation."""

    digit: int | None
    errors: frozenset[int] = frozenset()


def read_problem(problem: str) -> tuple[int, list[tuple[str, int]]]:
    """The start digit and the operations (sign, operand) of a problem's text; raises DataError if it is none."""
    start, *named = problem.split(" ")
    letters = "".join(one[:1] for one in named)
    if not _PROBLEM.fullmatch(problem) or letters != "abcdefghijklmnopqrstuvwxyz"[: len(named)]:
        raise DataError(f"reflective: {problem!r} is no problem of this world, such as '7 a+5 b*3'")
    return int(start), [(one[1], int(one[2])) for one in named]


def work(sign: str, left: int, right: int) -> int:
    """One operation modulo 10."""
    if sign == "*":
        return sum([left] * right) % 10
    return (left + right if sign == "+" else left + 10 - right) % 10


def gold_of(problem: str) -> int:
    """The problem's answer."""
    value, operations = read_problem(problem)
    for sign, operand in operations:
        value = work(sign, value, operand)
    return value


def answer_of(text: str) -> int | None:
    """The digit of the last line if that is an answer, else None."""
    found = _ANSWER.fullmatch(text.removesuffix("\n").rpartition("\n")[2])
    return int(found[1]) if found else None


def read_trace(problem: str, text: str) -> Reading:
    """Read a solution, finished or not.

    Raises:
        DataError: the problem is none of this world.
    """
    start, operations = read_problem(problem)
    chain = [_Value(start)]
    unread: frozenset[int] = frozenset()
    before: frozenset[int] = frozenset()
    steps: list[tuple[int, int]] = []
    own: list[bool] = []
    repairs: list[frozenset[int]] = []
    labels: list[int] = []
    place = 0
    for number, line in enumerate(_lines(text)):
        steps.append((place, place + len(line)))
        place += len(line)
        longer = _follow(chain, operations, line.removesuffix("\n"), number, bool(unread))
        if longer is None:
            unread |= {number}
        else:
            chain = longer
            unread = unread if number in chain[-1].errors else frozenset()
        standing = chain[-1].errors | unread
        own.append(number in standing)
        repairs.append(before - standing)
        labels.append(int(not standing))
        before = standing
    answer = answer_of(text)
    correct = answer is not None and answer == gold_of(problem)
    if labels:
        labels[-1] = int(correct)
    digits = tuple(value.digit for value in chain[: len(operations) + 1])
    wrong = tuple(place - 1 for place in range(1, len(digits)) if chain[place].errors - chain[place - 1].errors)
    return Reading(tuple(steps), tuple(labels), tuple(own), tuple(repairs), answer, correct, digits, wrong)


def _lines(text: str) -> list[str]:
    """Lines with their breaks; only the line feed breaks a line."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def _follow(
    chain: list[_Value], operations: list[tuple[str, int]], line: str, number: int, rewriting: bool
) -> list[_Value] | None:
    """The chain after a line; None if the line wrote no value.

    Args:
        chain: the start and what stands after each operation so far, and after those the answer if it was given.
        operations: of the problem.
        line: without its break.
        number: of the line, which names its error.
        rewriting: whether an unreadable line stands for the operation that is due, which a mark then may redo.
    """
    due, error = len(chain) - 1, frozenset({number})
    answer = _ANSWER.fullmatch(line)
    if answer and due == len(operations):
        right = int(answer[1]) == chain[-1].digit
        return [*chain, _Value(int(answer[1]), chain[-1].errors | (frozenset() if right else error))]
    step = _STEP.fullmatch(line)
    if not step or due > len(operations):
        return None
    mark, letter, left, sign, operand, result = step.groups()
    place = ord(letter) - ord("a")
    if place >= len(operations):
        return None
    # Operations that were skipped have no value, and the error of the line that skipped them.
    skipped = [_Value(None, chain[-1].errors | error)] * max(0, place - due)
    kept = [*chain[: place + 1], *skipped]
    in_turn = place < due or (place == due and rewriting) if mark else place == due
    right = (
        in_turn
        and int(left) == kept[-1].digit
        and (sign, int(operand)) == operations[place]
        and int(result) == work(sign, int(left), int(operand))
    )
    return [*kept, _Value(int(result), kept[-1].errors | (frozenset() if right else error))]
