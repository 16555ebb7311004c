"""Equations: the side that answers, chains, labels, and two equations that say the same."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from reasonrl.rewards.mathlang.equality import agree, same_value
from reasonrl.rewards.mathlang.numeric import REAL_DRAWS, NoValue, Numbers, sample
from reasonrl.rewards.mathlang.residue import PRIME, Residues, Undefined
from reasonrl.rewards.mathlang.tree import (
    RANGED,
    Measure,
    Named,
    Node,
    Num,
    Op,
    Rel,
    Seq,
    Sym,
    Text,
    renamed,
    symbols,
    walk,
)

_SALTS = (1, 2, 3)
_FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "det", "tr"])


class Labelled(NamedTuple):
    """A value with what it is said to be: `x`, `f(t)`, `(x, y)`, words."""

    label: Node | None
    value: Node


def labelled(node: Node) -> Labelled:
    """Takes a label off: `x = 5`, `5 = x`, `f(x) = 2x`, `radius: 5`; label None if there is none."""
    if isinstance(node, Named):
        return Labelled(Text(node.name), node.value)
    if isinstance(node, Rel) and set(node.signs) <= {"=", "approx"}:
        first, rest = node.sides[0], node.sides[1:]
        if is_label(first):
            value = rest[0] if len(rest) == 1 else Rel(node.signs[1:], rest)
            if not (len(rest) == 1 and symbols(first) & symbols(rest[0]) and isinstance(first, Sym)):
                return Labelled(first, value)
        if _is_function_of_a_letter(first) and len(rest) == 1 and not symbols(rest[0]):
            return Labelled(first, rest[0])
        if len(rest) == 1 and is_label(rest[0]) and not symbols(rest[0]) & symbols(first):
            return Labelled(rest[0], first)
    return Labelled(None, node)


def _is_function_of_a_letter(node: Node) -> bool:
    """`\\sin A = 3/5`: what was asked for is the sine, not the angle."""
    return isinstance(node, Op) and node.name in _FUNCTIONS and isinstance(node.args[0], Sym)


def is_label(node: Node) -> bool:
    """Whether a side of an equation only names the other: a letter, a function of letters, a tuple of them."""
    if isinstance(node, Sym):
        return node.name not in ("pi", "e", "i", "infty", "dots")
    if isinstance(node, Seq) and node.kind == "()":
        return len(node.items) > 0 and all(is_label(item) for item in node.items)
    if not isinstance(node, Op):
        return False
    if node.name == "call":
        return all(isinstance(arg, Sym | Num | Op | Seq) for arg in node.args[1:])
    if node.name in ("abs", "cap", "cup", "norm"):
        return all(_is_figure(arg) for arg in node.args)
    if node.name == "div":  # dy/dx
        return all(_is_differential(arg) for arg in node.args)
    return node.name == "large" or _is_figure(node) or _is_differential(node)


_NAMING = frozenset(["call", "floor", "ceil", "gcd", "lcm", "max", "min", "det"])
_CONSTANTS = frozenset(["pi", "e", "i", "infty", "dots"])


def is_quantity(node: Node) -> bool:
    """Whether the left side of an equation only says what was asked for: `m + n`, `f(2) + f(3)`, `AB^2`, `\\gcd(a, b)`;
    `2x`, `x + 3` and `x^2` are equations to be solved.
    """
    if isinstance(node, Measure) and node.unit == "deg":
        return is_label(node.value)  # the degree of a polynomial
    if isinstance(node, Op) and node.name in _NAMING:
        return bool(symbols(node)) or node.name == "call"
    if isinstance(node, Op) and node.name == "pow" and isinstance(node.args[0], Sym):
        return _is_figure(node.args[0]) and len(node.args[0].name) > 1
    return len(_quantities(node)) > 1


def _quantities(node: Node) -> set[Node]:
    """The different letters and functions of letters in an expression."""
    if isinstance(node, Sym):
        return set() if node.name in _CONSTANTS else {node}
    if not isinstance(node, Op):
        return set()
    if node.name in _NAMING:
        return {node}
    return set().union(*(_quantities(arg) for arg in node.args))


def _is_figure(node: Node) -> bool:
    """`AB`, `ABC`: capital letters in a row name a figure; so do vectors, commands and sets with names."""
    if isinstance(node, Sym):
        return node.name[0].isupper() or len(node.name) > 1
    return (
        isinstance(node, Op)
        and node.name == "mul"
        and all(
            isinstance(arg, Sym) and (arg.name.isupper() or arg.name.startswith("vec:") or " " in arg.name)
            for arg in node.args
        )
    )


def _is_differential(node: Node) -> bool:
    return (
        isinstance(node, Op)
        and node.name == "mul"
        and len(node.args) == 2
        and node.args[0] == Sym("d")
        and isinstance(node.args[1], Sym)
    )


def same_label(gold: Node, answer: Node) -> bool:
    """Whether two labels name the same thing; words are free, and so is `y` for a function."""
    if gold == answer or isinstance(gold, Text) or isinstance(answer, Text):
        return True
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Sym) and isinstance(other, Sym):
            base, _, index = other.name.partition("_")
            if one.name == base and index.isdigit():
                return True  # x_1 = 2 and x = 2
        if one == Sym("y") and isinstance(other, Op):
            return True
        if isinstance(one, Sym) and isinstance(other, Op) and other.args and other.args[0] == one:
            return True  # f = … and f(x) = …
    if isinstance(gold, Op) and isinstance(answer, Op) and gold.name == answer.name == "call":
        return gold.args[0] == answer.args[0] and len(gold.args) == len(answer.args)
    return False


def argument_names(gold: Node | None, answer: Node | None) -> dict[str, str]:
    """How the answer's letters must be renamed where both sides are functions of differently named arguments."""
    if not isinstance(gold, Op) or not isinstance(answer, Op):
        return {}
    names = {}
    for one, other in zip(gold.args[1:], answer.args[1:], strict=False):
        if isinstance(one, Sym) and isinstance(other, Sym) and one != other:
            names[other.name] = one.name
    return names


def rename_arguments(node: Node, names: dict[str, str]) -> Node:
    """Renames letters unless that would let two of them fall together."""
    if not names or (set(names.values()) & (symbols(node) - set(names))):
        return node
    return renamed(node, names)


def same_equation(gold: Rel, answer: Rel) -> bool | None:
    """Whether two equations (or inequalities of one direction) differ by a constant factor alone."""
    left = Op("add", (gold.sides[0], Op("neg", (gold.sides[1],))))
    right = Op("add", (answer.sides[0], Op("neg", (answer.sides[1],))))
    if gold.signs != answer.signs:
        right = Op("neg", (right,))
    if symbols(left) != symbols(right) or not symbols(left):
        return False
    only_positive = gold.signs[0] not in ("=", "ne")
    ratios: list[int | None] = []
    tops: set[int] = set()
    for salt in _SALTS:
        residues = Residues(salt)
        try:
            top, bottom = residues(left), residues(right)
            ratios.append(top * pow(bottom, -1, PRIME) % PRIME if top and bottom else None)
        except Undefined:
            return None
        if not residues.pure:
            return _same_ratio_of_values(left, right, only_positive)
        tops.add(top)
    if None in ratios or len(set(ratios)) != 1 or len(tops) == 1:
        return False  # not proportional, or not dependent on any letter
    return _same_ratio_of_values(left, right, True) if only_positive else True


def _same_ratio_of_values(left: Node, right: Node, only_positive: bool) -> bool | None:
    letters = sorted(symbols(left) | symbols(right))
    complex_values = any(part == Sym("i") for side in (left, right) for part in walk(side))
    ratio = first = None
    agreed, varies = 0, False
    for draw in range(REAL_DRAWS):
        numbers = Numbers({name: sample(name, draw) for name in letters}, complex_values)
        try:
            top, bottom = numbers(left), numbers(right)
        except NoValue:
            continue
        if top == 0 or bottom == 0:
            continue
        here = top / bottom
        if ratio is not None and not agree(ratio, here, 0):
            return False
        varies = varies or (first is not None and not agree(first, top, 0))
        first = top if first is None else first
        if only_positive and numbers.mp.re(here) < 0:
            return False
        ratio, agreed = here, agreed + 1
        if agreed >= 4 and varies:
            return True
    return varies if agreed >= 2 else None


def solves(equation: Rel, expression: Node) -> bool:
    """Whether an expression is what one letter of an equation is equal to: the equation is linear in that letter and
    the expression does not contain it.
    """
    if equation.signs != ("=",) or not symbols(expression):
        return False
    difference = Op("add", (equation.sides[0], Op("neg", (equation.sides[1],))))
    letters = symbols(difference)
    if not symbols(expression) <= letters:
        return False
    for letter in sorted(letters - symbols(expression)):
        zero = Num(Fraction(0), None, 1)
        at_expression = replaced(difference, letter, expression)
        if same_value(at_expression, zero) is not True:
            continue
        at = [replaced(difference, letter, Num(Fraction(value), None, 1)) for value in (0, 1, 2)]
        bend = Op("add", (at[0], at[2], Op("neg", (at[1],)), Op("neg", (at[1],))))
        if same_value(bend, zero) is True and same_value(at[0], at[1]) is False:
            return True
    return False


def replaced(node: Node, letter: str, value: Node) -> Node:
    """A tree with a letter replaced by a tree."""
    if isinstance(node, Sym):
        return value if node.name == letter else node
    if isinstance(node, Op):
        if node.name in RANGED and node.args[0] == Sym(letter):
            return node
        return Op(node.name, tuple(replaced(arg, letter, value) for arg in node.args))
    return node
