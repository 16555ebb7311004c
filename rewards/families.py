r"""Families of numbers with an integer parameter: `4k + 2`, `n \equiv 2 \pmod 4`, `\frac{\pi}{3} + 2k\pi`, and words
such as "congruent to 2 or 3 modulo 4".
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from reasonrl.rewards.equations import labelled, replaced
from reasonrl.rewards.lists import flattened, matched
from reasonrl.rewards.mathlang.equality import same_value, value_of
from reasonrl.rewards.mathlang.exact import NotExact, exact
from reasonrl.rewards.mathlang.tree import Node, Num, Op, Reading, Rel, symbols

_CONGRUENT = re.compile(r"\bcongruent to\s+((?:\d+|,|\s|or|and)+?)\s+\(?(?:mod|modulo)\s+(\d+)")
_PARAMETERS = frozenset(["k", "n", "m", "l", "t", "j", "r", "s", "z"])


class Family(NamedTuple):
    """All `start + step * integer`."""

    start: Node
    step: Node


def families(reading: Reading) -> tuple[Family, ...] | None:
    """The families that an answer lists; None if it lists anything else."""
    items = flattened(reading.node) or [reading.node]
    found = [_family(item, reading.bound) for item in items]
    modulus = next((family for family in reversed(found) if family is not None), None)
    if modulus is None:
        return None
    # `n = 2, 3 (mod 4)`: the last one names the modulus of all.
    if isinstance(items[-1], Op) and items[-1].name == "mod":
        found = [family or _bare(item, modulus) for family, item in zip(found, items, strict=True)]
    return tuple(family for family in found if family) if None not in found else None


def families_in_words(text: str) -> tuple[Family, ...] | None:
    """The families that "congruent to 2 or 3 modulo 4" names; None if a text says no such thing."""
    match = _CONGRUENT.search(text.lower()[:400])
    if match is None:
        return None
    step = Num(Fraction(int(match.group(2)[:9])), None, 1)
    return tuple(Family(Num(Fraction(int(digits[:9])), None, 1), step) for digits in re.findall(r"\d+", match.group(1)))


def same_families(gold: tuple[Family, ...], answer: tuple[Family, ...]) -> bool:
    """Whether two lists of families pair off."""
    return bool(matched(gold, answer, _same))


def _same(one: Family, other: Family) -> bool:
    for sign in ("", "neg"):
        step = Op("neg", (other.step,)) if sign else other.step
        if same_value(one.step, step):
            apart = value_of(Op("div", (Op("add", (one.start, Op("neg", (other.start,)))), one.step)))
            return apart is not None and abs(apart - round(apart)) < Fraction(1, 10**30)
    return False


def _family(node: Node, bound: frozenset[str]) -> Family | None:
    if isinstance(node, Rel) and node.signs == ("equiv",) and len(node.sides) == 2:
        node = node.sides[1]
    if isinstance(node, Op) and node.name == "mod":
        return Family(node.args[0], node.args[1]) if not symbols(node) else None
    value = labelled(node).value
    letters = symbols(value)
    if len(letters) != 1 or not letters <= (bound | _PARAMETERS) or not isinstance(value, Op):
        return None
    (letter,) = letters
    at = [replaced(value, letter, Num(Fraction(place), None, 1)) for place in (0, 1, 2)]
    step = Op("add", (at[1], Op("neg", (at[0],))))
    bend = Op("add", (at[2], at[0], Op("neg", (at[1],)), Op("neg", (at[1],))))
    if same_value(bend, Num(Fraction(0), None, 1)) is not True or same_value(at[0], at[1]) is not False:
        return None
    return Family(at[0], step)


def _bare(node: Node, modulus: Family) -> Family | None:
    node = node.sides[1] if isinstance(node, Rel) and node.signs == ("equiv",) else node
    try:
        exact(node)
    except NotExact:
        return None
    return Family(node, modulus.step)
