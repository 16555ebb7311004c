"""The tree of a mathematical answer: immutable, comparable, made of plain values."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple


class Num(NamedTuple):
    """A literal number.

    Attributes:
        value: exact.
        decimals: digits after the point, None if it was written without one.
        digits: significant digits as written (leading zeros do not count).
    """

    value: Fraction
    decimals: int | None
    digits: int


class Sym(NamedTuple):
    """A letter with what hangs on it (`x_1`, `f'`, `vec:v`), a constant (`pi`), or a command nobody knows."""

    name: str


class Op(NamedTuple):
    """An operation or a function on trees: `add`, `mul`, `div`, `neg`, `pow`, `root`, `fact`, `pm`, `sin`, `call`, …"""

    name: str
    args: tuple[Node, ...]


class Seq(NamedTuple):
    """Items in brackets: `()`, `[]`, `[)`, `(]`, `{}`, or `` for a bare list, `or`, `and` for a list in words."""

    kind: str
    items: tuple[Node, ...]


class Rel(NamedTuple):
    """A chain of relations: `a < b <= c` has two signs and three sides."""

    signs: tuple[str, ...]
    sides: tuple[Node, ...]


class Matrix(NamedTuple):
    """Rows of entries, all of one length; `det` for one between bars."""

    rows: tuple[tuple[Node, ...], ...]
    det: bool


class Measure(NamedTuple):
    """A value with a unit, a percent sign (`%`) or a degree sign (`deg`)."""

    value: Node
    unit: str


class Named(NamedTuple):
    """A value with a name in words before it: `Alice: 18`, `radius = 5`."""

    name: str
    value: Node


class Text(NamedTuple):
    """Words."""

    words: str


Node = Num | Sym | Op | Seq | Rel | Matrix | Measure | Named | Text


class Reading(NamedTuple):
    """A text as mathematics.

    Attributes:
        node: what it says.
        bound: letters that a remark declares to be arbitrary (`where k is an integer`).
        remark: the words and numbers of a remark behind the answer.
    """

    node: Node
    bound: frozenset[str]
    remark: tuple[str, ...] = ()


def children(node: Node) -> tuple[Node, ...]:
    """The trees directly below a tree."""
    if isinstance(node, Op):
        return node.args
    if isinstance(node, Seq):
        return node.items
    if isinstance(node, Rel):
        return node.sides
    if isinstance(node, Matrix):
        return tuple(entry for row in node.rows for entry in row)
    if isinstance(node, Measure | Named):
        return (node.value,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """A tree and everything below it."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        stack.extend(children(here))


def depth(node: Node) -> int:
    """Levels of a tree."""
    level = 0
    here: tuple[Node, ...] = (node,)
    while here:
        level += 1
        here = tuple(child for parent in here for child in children(parent))
    return level


RANGED = frozenset({"sum", "prod"})
"""Operations whose first argument is a letter bound in the last: index, start, end, body."""

CONSTANTS = frozenset({"pi", "e", "i", "infty"})


def symbols(node: Node) -> frozenset[str]:
    """Names of the letters of a tree; pi, e, i, infinity, dots and number sets are none."""
    found = set()
    stack = [node]
    while stack:
        here = stack.pop()
        if isinstance(here, Sym):
            if here.name not in CONSTANTS and not here.name.startswith(("set:", "dots")):
                found.add(here.name)
        elif isinstance(here, Op) and here.name in RANGED:
            found |= symbols(here.args[1]) | symbols(here.args[2]) | (symbols(here.args[3]) - symbols(here.args[0]))
        else:
            stack.extend(children(here))
    return frozenset(found)


def renamed(node: Node, names: dict[str, str]) -> Node:
    """A tree with letters replaced."""
    if isinstance(node, Sym):
        return Sym(names[node.name]) if node.name in names else node
    if isinstance(node, Op):
        if node.name in RANGED and symbols(node.args[0]) & (set(names) | set(names.values())):
            return node
        return Op(node.name, tuple(renamed(arg, names) for arg in node.args))
    if isinstance(node, Seq):
        return Seq(node.kind, tuple(renamed(item, names) for item in node.items))
    if isinstance(node, Rel):
        return Rel(node.signs, tuple(renamed(side, names) for side in node.sides))
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(renamed(entry, names) for entry in row) for row in node.rows), node.det)
    if isinstance(node, Measure):
        return Measure(renamed(node.value, names), node.unit)
    if isinstance(node, Named):
        return Named(node.name, renamed(node.value, names))
    return node
