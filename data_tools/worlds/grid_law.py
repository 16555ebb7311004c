"""Paths over a field of nine digits: problems, and the law that writes their solutions.

    372/518/904         the field, row by row; A1 is 3, B2 is 1, C3 is 4
    B2+A1-C3            a path: worked from left to right, modulo 10 or less
    B2=1;A1=3;1+3=4;C3=4;4-4=0;#0

A solution reads a cell before it uses it. Four further moves, each with a sign of its own, are its behaviours:

    ?B2=1;              a second look at the cell just read; what it says holds
    !1+3=4;             a computation done again
    <B2+A1|-C3>;        the path named in two halves, before anything is read
    ~C3=4;              the last cell read first; it is then not read in its turn
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from reasonrl.data_tools.worlds.arithmetic import apply

CELLS = tuple(f"{column}{row}" for row in "123" for column in "ABC")
SIGNS = "+-*"
MOST = len(CELLS)
"""Operands that a path may have: no cell stands in it twice."""


def draw_digits(draw: random.Random, modulus: int = 10) -> str:
    """Nine digits below `modulus`, row by row."""
    return "".join(str(draw.randrange(modulus)) for _ in CELLS)


def written(digits: str) -> str:
    """Nine digits as the text twin has them: `372/518/904`."""
    return "/".join(digits[row : row + 3] for row in (0, 3, 6))


@dataclass(frozen=True)
class Path:
    """A path over cells: `cells`, and the `signs` between them, one fewer; modulo what it is worked."""

    cells: tuple[str, ...]
    signs: tuple[str, ...]
    modulus: int = 10

    @property
    def text(self) -> str:
        """As it is asked."""
        return self.cells[0] + "".join(sign + cell for sign, cell in zip(self.signs, self.cells[1:], strict=True))

    def value(self, digits: str) -> int:
        """The right answer."""
        values = [int(digits[CELLS.index(cell)]) for cell in self.cells]
        found = values[0]
        for sign, right in zip(self.signs, values[1:], strict=True):
            found = apply(sign, found, right, self.modulus)
        return found


def draw_path(draw: random.Random, operands: int, modulus: int = 10) -> Path:
    """A random path over different cells."""
    return Path(tuple(draw.sample(CELLS, operands)), tuple(draw.choice(SIGNS) for _ in range(operands - 1)), modulus)


@dataclass(frozen=True)
class Law:
    """How solutions are written; each share is of solutions.

    Attributes:
        misread: a cell, drawn at random, is read wrongly and looked at again at once, which corrects it.
        needless: a cell that was read rightly is looked at again; never in a solution with a misread.
        recompute: a computation is done again.
        halves: the path is named in two halves first; of paths of two operands or more.
        backward: the last cell is read first; of paths of two operands or more.
    """

    misread: float = 0.0
    needless: float = 0.0
    recompute: float = 0.0
    halves: float = 0.0
    backward: float = 0.0

    def write(self, path: Path, digits: str, draw: random.Random) -> Trace:
        """A solution; its answer is right."""
        shares = [draw.random() for _ in range(4)]
        looked, twice = draw.randrange(len(path.cells)), draw.randrange(max(1, len(path.signs)))
        wrong = (int(digits[CELLS.index(path.cells[looked])]) + draw.randrange(1, path.modulus)) % path.modulus
        misread = shares[0] < self.misread
        needless = not misread and shares[0] < self.misread + self.needless
        made = _Writing(path, digits, looked if misread or needless else None, wrong if misread else None)
        several = len(path.cells) > 1
        if several and shares[1] < self.halves:
            made.name_halves()
        backward = several and shares[2] < self.backward
        if backward:
            made.read(len(path.cells) - 1, "~")
        again = twice if several and shares[3] < self.recompute else None
        made.work_through(backward, again)
        return Trace("".join([*made.parts, f"#{path.value(digits)}"]), tuple(made.masked))


@dataclass(frozen=True)
class Trace:
    """A solution: its `text`, and the spans [start, end) in characters of digits that were planted wrongly."""

    text: str
    masked: tuple[tuple[int, int], ...]


@dataclass
class _Writing:
    """A solution as it is written."""

    path: Path
    digits: str
    looked: int | None
    wrong: int | None
    parts: list[str] = field(default_factory=list)
    masked: list[tuple[int, int]] = field(default_factory=list)

    def name_halves(self) -> None:
        cells, signs = self.path.cells, ("", *self.path.signs)
        half = len(cells) // 2
        first, second = (
            "".join(sign + cell for sign, cell in zip(signs[part], cells[part], strict=True))
            for part in (slice(0, half), slice(half, None))
        )
        self.parts.append(f"<{first}|{second}>;")

    def read(self, place: int, mark: str = "") -> None:
        cell = self.path.cells[place]
        value = self.digits[CELLS.index(cell)]
        if place != self.looked:
            self.parts.append(f"{mark}{cell}={value};")
            return
        self.parts.append(f"{mark}{cell}={value if self.wrong is None else self.wrong};")
        if self.wrong is not None:
            end = sum(map(len, self.parts)) - 1
            self.masked.append((end - 1, end))
        self.parts.append(f"?{cell}={value};")

    def work_through(self, backward: bool, again: int | None) -> None:
        values: Sequence[int] = [int(self.digits[CELLS.index(cell)]) for cell in self.path.cells]
        self.read(0)
        value = values[0]
        for number, sign in enumerate(self.path.signs):
            right = values[number + 1]
            if not backward or number + 1 < len(self.path.signs):
                self.read(number + 1)
            result = apply(sign, value, right, self.path.modulus)
            step = f"{value}{sign}{right}={result};"
            self.parts.append(step)
            if number == again:
                self.parts.append(f"!{step}")
            value = result
