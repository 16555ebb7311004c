"""Whether two expressions are equal: by their residues, then by their values at several points."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from reasonrl.rewards.mathlang.exact import NotExact, exact
from reasonrl.rewards.mathlang.numeric import REAL_DRAWS, WHOLE_DRAWS, NoValue, Numbers, context, sample
from reasonrl.rewards.mathlang.residue import Residues, Undefined
from reasonrl.rewards.mathlang.tree import Node, Op, Sym, symbols, walk

_ENOUGH = 5
_LEAST = 2
_STEPS = frozenset({"floor", "ceil", "sgn", "max", "min"})
_STEP_DRAWS = 96


def same_value(left: Node, right: Node) -> bool | None:
    """Whether two expressions have the same value at every point where both have one; None if that cannot be told."""
    if left == right:
        return True
    residues = Residues()
    try:
        if residues(left) == residues(right):
            return True
        if residues.pure:
            return False
    except Undefined:
        pass
    return _by_values(left, right)


def _by_values(left: Node, right: Node) -> bool | None:
    letters = sorted(symbols(left) | symbols(right))
    has_i = any(part == Sym("i") for side in (left, right) for part in walk(side))
    has_log = any(isinstance(part, Op) and part.name == "log" for side in (left, right) for part in walk(side))
    for natural in (True, False) if has_log else (True,):
        decided = _at_points(left, right, letters, has_i, natural)
        if decided is not False:
            return decided
    return False


def _at_points(left: Node, right: Node, letters: list[str], has_i: bool, natural: bool) -> bool | None:
    if not letters:
        for complex_values in (True,) if has_i else (False, True):
            decided = _at(left, right, {}, complex_values, natural)
            if decided is not None:
                return decided
        return None
    if any(isinstance(part, Op) and part.name in _STEPS for side in (left, right) for part in walk(side)):
        return _at_many_points(left, right, letters, has_i, natural)
    stages = [(range(REAL_DRAWS), has_i), (range(REAL_DRAWS, REAL_DRAWS + WHOLE_DRAWS), has_i)]
    if not has_i:
        stages.append((range(REAL_DRAWS), True))
    for draws, complex_values in stages:
        agreed = 0
        for draw in draws:
            point = {name: sample(name, draw) for name in letters}
            decided = _at(left, right, point, complex_values, natural)
            if decided is False:
                return False
            agreed += decided is True
            if agreed >= _ENOUGH:
                return True
        if agreed >= _LEAST:
            return True
    return None


def _at_many_points(left: Node, right: Node, letters: list[str], has_i: bool, natural: bool) -> bool | None:
    """Functions of steps agree at most points whether they are equal or not: many more points, most of them whole."""
    agreed = 0
    for draw in range(_STEP_DRAWS):
        decided = _at(left, right, {name: sample(name, draw) for name in letters}, has_i, natural)
        if decided is False:
            return False
        agreed += decided is True
    return True if agreed >= _STEP_DRAWS // 4 else None


def _at(left: Node, right: Node, point: dict[str, Fraction], complex_values: bool, natural: bool) -> bool | None:
    numbers = Numbers(point, complex_values, natural)
    try:
        return agree(numbers(left), numbers(right), numbers.scale)
    except NoValue:
        return None


def agree(left: Any, right: Any, scale: Any) -> bool:
    """Whether two values are one: to forty digits of the larger, or of the largest term that a sum had."""
    difference = abs(left - right)
    if difference == 0:
        return True
    mp = context()
    if difference <= max(abs(left), abs(right)) * mp.mpf(10) ** -40:
        return True
    return bool(scale and difference <= scale * mp.mpf(10) ** -45)


def value_of(node: Node) -> Fraction | None:
    """A real constant's value: exact where it is rational, else to fifty digits; None if it has none."""
    try:
        return exact(node)
    except NotExact:
        pass
    if symbols(node):
        return None
    numbers = Numbers({}, any(part == Sym("i") for part in walk(node)))
    try:
        value = numbers(node)
    except NoValue:
        return None
    mp = context()
    if mp.im(value) != 0 or not mp.isfinite(value) or abs(value) > 10**30:
        return None
    scaled = int(mp.floor(mp.re(value) * mp.mpf(10) ** 50 + mp.mpf("0.5"))) if abs(value) < 10**8 else None
    return Fraction(scaled, 10**50) if scaled is not None else Fraction(int(mp.nint(mp.re(value) * 10**20)), 10**20)
