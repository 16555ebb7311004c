"""The law by which solutions of the reflective world are written: errors that are systematic, repairs that are honest
or not, and the writer's own books of what is wrong.

A problem is a start digit and operations that carry letters, `7 a+5 b*3 c-6`, worked from left to right modulo 10. The
operations +1 to +9, -1 to -9, *3, *7 and *9 are bijections of the digits, so no single error heals itself. A solution
has one step a line and ends with its answer; a line that starts with R redoes a step, and the chain goes on after it:

    a7+5=1
    b1*3=3
    Ra7+5=2
    b2*3=6
    c6-6=0
    #0
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from reasonrl.data_tools.worlds.arithmetic import apply
from reasonrl.data_tools.worlds.reflective_reader import read_trace

MODULUS = 10
MARK = "R"
LETTERS = string.ascii_lowercase
OPERATIONS = [*(("+", d) for d in range(1, 10)), *(("-", d) for d in range(1, 10)), ("*", 3), ("*", 7), ("*", 9)]
FACTS = [(sign, left, right) for sign, right in OPERATIONS for left in range(MODULUS)]
"""The 210 facts that a step can need: sign, left, right."""


def operators_of(operators: int) -> list[tuple[str, int]]:
    """The first so many of the 21 operations, in a shuffled order: more of them hold those of fewer."""
    if operators == len(OPERATIONS):
        return list(OPERATIONS)
    shuffled = list(OPERATIONS)
    random.Random("reflective/operations").shuffle(shuffled)
    return shuffled[:operators]


MOVES = (
    "step",
    "slip",
    "propagation",
    "slip_again",
    "recheck",
    "repair",
    "repair_later",
    "redo_later",
    "repeat",
    "answer_right",
    "answer_lucky",
    "answer_wrong",
)
"""What a line does. On a sound chain: `step`, `slip` (its first error), `recheck` (a needless redo). While an error is
open: `propagation` (right arithmetic on a wrong value), `slip_again` (one more error), `repair` (redoes the first wrong
step rightly), `repair_later` (redoes a later wrong step rightly, the first one stands), `redo_later` (redoes a later
step that was right arithmetic), `repeat` (redoes the first wrong step with its error). The answer is `answer_right`, or
`answer_lucky` where errors stand that cancel, or `answer_wrong`.
"""

Chain = Sequence[tuple[str, int]]
"""A problem: ("", start digit), then (sign, operand) of each operation."""


@dataclass(frozen=True)
class Trace:
    """A solution with the truth about it, from the writer's books.

    Attributes:
        problem: the problem's text.
        text: the solution.
        steps: [K] (start, end) of every line in characters; its line break belongs to it.
        labels: [K] 1 (right) or 0 (wrong), by error propagation and cessation; the last by the answer.
        own_error: [K] whether the step makes an error of its own.
        repairs: [K] the earlier steps whose errors no longer stand after it: what it rewrites, and all that came after.
        moves: [K] what each step does, one of `MOVES`.
        answer: the digit it ends with.
        correct: whether that is the problem's answer.
    """

    problem: str
    text: str
    steps: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    own_error: tuple[bool, ...]
    repairs: tuple[frozenset[int], ...]
    moves: tuple[str, ...]
    answer: int
    correct: bool


def text_of(chain: Chain) -> str:
    """The problem's text."""
    named = (f"{letter}{sign}{operand}" for letter, (sign, operand) in zip(LETTERS, chain[1:], strict=False))
    return " ".join([str(chain[0][1]), *named])


def draw_chain(draw: random.Random, operations: int, among: Sequence[tuple[str, int]] = OPERATIONS) -> Chain:
    """A problem of this many operations, of those named."""
    return [("", draw.randrange(MODULUS)), *(draw.choice(among) for _ in range(operations))]


def value_of(chain: Chain) -> int:
    """The answer."""
    value = chain[0][1]
    for sign, operand in chain[1:]:
        value = apply(sign, value, operand, MODULUS)
    return value


class Law:
    """A writer of solutions with fixed misconceptions and a will to check its work that is only partly of use.

    Args:
        hard_facts: share of the facts that are hard: one fixed wrong value each, which the seed decides.
        slip: probability that a hard fact is written with its wrong value.
        repair: while an error is open, probability at each turn of redoing the first wrong step rightly.
        false_repair: likewise, of redoing a later step rightly (which mends nothing that matters), or, where none has
            been written yet, of repeating the error.
        recheck: on a sound chain, probability at each turn of redoing a step that was right, rightly.
        easy_slip: probability that a fact that is not hard is written with some wrong value.
        teacher_seed: decides which facts are hard and what they are mistaken for.
        steps_per_operation: cap of a solution's lines, the answer among them, in lines an operation. A redo after which
            the chain could not be finished within it is not begun.
        operators: of how many of the 21 operations problems are made; the hard facts are a share of theirs.
    """

    def __init__(
        self,
        hard_facts: float,
        slip: float,
        repair: float,
        false_repair: float,
        recheck: float,
        easy_slip: float = 0.02,
        teacher_seed: int = 0,
        steps_per_operation: int = 3,
        operators: int = len(OPERATIONS),
    ) -> None:
        self.slip, self.easy_slip = slip, easy_slip
        self.repair, self.false_repair, self.recheck = repair, false_repair, recheck
        self.steps_per_operation = steps_per_operation
        draw = random.Random(f"reflective/facts/{teacher_seed}")
        facts = [(sign, left, right) for sign, right in operators_of(operators) for left in range(MODULUS)]
        draw.shuffle(facts)
        self.mistaken = {
            fact: (apply(*fact, MODULUS) + draw.randrange(1, MODULUS)) % MODULUS
            for fact in facts[: round(hard_facts * len(facts))]
        }

    def write(self, chain: Chain, draw: random.Random) -> Trace:
        """A solution from its beginning, with the truth about it."""
        writer = _Writer(self, chain, draw)
        written = [writer.turn()]
        while not writer.finished:
            written.append(writer.turn())
        lines = [one.line for one in written]
        return Trace(
            problem=text_of(chain),
            text="\n".join(lines),
            steps=spans_of(lines),
            labels=tuple(one.label for one in written),
            own_error=tuple(one.own_error for one in written),
            repairs=tuple(one.repairs for one in written),
            moves=tuple(one.move for one in written),
            answer=int(lines[-1][1:]),
            correct=bool(written[-1].label),
        )

    def complete(self, chain: Chain, prefix: str, draw: random.Random) -> str:
        """The rest of a solution that starts with `prefix`: whole lines, of this law or of a model. It is empty if the
        prefix holds its answer already. Answers of such completions are what Monte-Carlo labels count.
        """
        return self.completions(chain, prefix, draw, 1)[0]

    def completions(self, chain: Chain, prefix: str, draw: random.Random, n: int) -> list[str]:
        """`complete`, n times one after the other; the prefix is read once."""
        start = self._resume(chain, prefix, draw)
        found: list[str] = []
        for _ in range(n):
            writer, lines = start.copy(), []
            while not writer.finished:
                lines.append(writer.turn().line)
            found.append(_joined(prefix, lines))
        return found

    def next_line(self, chain: Chain, prefix: str, draw: random.Random) -> str:
        """The next line after `prefix`, as `complete` would begin: a candidate of a step-by-step search."""
        writer = self._resume(chain, prefix, draw)
        return "" if writer.finished else _joined(prefix, [writer.turn().line])

    def _resume(self, chain: Chain, prefix: str, draw: random.Random) -> _Writer:
        read = read_trace(text_of(chain), prefix)
        writer = _Writer(self, chain, draw)
        writer.values = list(read.values)
        writer.open = dict.fromkeys(read.wrong_operations, -1)
        writer.number = len(read.steps)
        writer.finished = read.answer is not None
        return writer


def _joined(prefix: str, lines: Sequence[str]) -> str:
    gap = "\n" if lines and prefix and not prefix.endswith("\n") else ""
    return gap + "\n".join(lines)


@dataclass(frozen=True)
class _Line:
    line: str
    move: str
    label: int
    own_error: bool = False
    repairs: frozenset[int] = frozenset()


class _Writer:
    """One solution in the making.

    Attributes:
        values: the digit after each operation, the start first.
        open: operation whose standing line is wrong by itself -> number of that line.
        number: lines written.
        finished: whether the answer stands.
    """

    def __init__(self, law: Law, chain: Chain, draw: random.Random) -> None:
        self.law, self.chain, self.draw = law, chain, draw
        self.values: list[int | None] = [chain[0][1]]
        self.open: dict[int, int] = {}
        self.number = 0
        self.finished = False

    def copy(self) -> _Writer:
        """Another writer that stands where this one does."""
        other = _Writer(self.law, self.chain, self.draw)
        other.values, other.open = list(self.values), dict(self.open)
        other.number, other.finished = self.number, self.finished
        return other

    def turn(self) -> _Line:
        """Write the next line."""
        redo, done, length = self._redo(), len(self.values) - 1, len(self.chain) - 1
        if redo is not None and self.number + 1 + length - redo[0] <= self.law.steps_per_operation * length:
            written = self._rewrite(*redo)
        elif done < length:
            before = bool(self.open)
            self._put(done, self._remembered(done))
            slipped = done in self.open
            move = ("slip_again" if before else "slip") if slipped else "propagation" if before else "step"
            written = _Line(self._line(done), move, int(not self.open), slipped)
        else:
            right = self.values[-1] == value_of(self.chain)
            move = ("answer_lucky" if self.open else "answer_right") if right else "answer_wrong"
            written = _Line(f"#{self.values[-1]}", move, int(right))
            self.finished = True
        self.number += 1
        return written

    def _redo(self) -> tuple[int, str] | None:
        """The operation to redo and the move that it is, if this turn is one."""
        chance, law = self.draw.random(), self.law
        if not self.open:
            done = len(self.values) - 1
            return (self.draw.randrange(done), "recheck") if done and chance < law.recheck else None
        first = min(self.open)
        if chance < law.repair:
            return first, "repair"
        if chance < law.repair + law.false_repair:
            later = [place for place in range(first + 1, len(self.values) - 1) if self.values[place] is not None]
            if not later:
                return first, "repeat"
            place = self.draw.choice(later)
            return place, "repair_later" if place in self.open else "redo_later"
        return None

    def _rewrite(self, place: int, move: str) -> _Line:
        standing = self.values[place + 1]
        gone = frozenset(line for other, line in self.open.items() if other >= place)
        self.open = {other: line for other, line in self.open.items() if other < place}
        del self.values[place + 1 :]
        repeated = move == "repeat" and standing is not None
        self._put(place, standing if repeated else self._right(place))
        return _Line(f"{MARK}{self._line(place)}", move, int(not self.open), place in self.open, gone)

    def _put(self, place: int, value: int | None) -> None:
        self.values.append(value)
        if value != self._right(place):
            self.open[place] = self.number

    def _right(self, place: int) -> int:
        """What the operation makes of the value that stands before it."""
        sign, operand = self.chain[place + 1]
        return apply(sign, self._before(place), operand, MODULUS)

    def _before(self, place: int) -> int:
        """The digit that the operation works on; what a skipped line left out is never worked on."""
        before = self.values[place]
        assert before is not None, f"no digit stands before operation {place}"
        return before

    def _remembered(self, place: int) -> int:
        """What the law's memory makes of it: a hard fact may slip to its wrong value, any other to some wrong value."""
        right = self._right(place)
        wrong = self.law.mistaken.get((self.chain[place + 1][0], self._before(place), self.chain[place + 1][1]))
        if wrong is not None:
            return wrong if self.draw.random() < self.law.slip else right
        if self.draw.random() < self.law.easy_slip:
            return (right + self.draw.randrange(1, MODULUS)) % MODULUS
        return right

    def _line(self, place: int) -> str:
        sign, operand = self.chain[place + 1]
        return f"{LETTERS[place]}{self.values[place]}{sign}{operand}={self.values[place + 1]}"


def spans_of(lines: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(start, end) of every line in the text that they make; each but the last holds its line break."""
    spans: list[tuple[int, int]] = []
    start = 0
    for number, line in enumerate(lines, start=1):
        end = start + len(line) + (number < len(lines))
        spans.append((start, end))
        start = end
    return tuple(spans)
