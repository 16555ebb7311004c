r"""Sets of real numbers: intervals, unions, inequalities, sets by a condition, and lists of them joined by "or"."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from reasonrl.rewards.mathlang.equality import value_of
from reasonrl.rewards.mathlang.tables import phrases
from reasonrl.rewards.mathlang.tree import Node, Op, Rel, Seq, Sym, Text, symbols

_INFINITY = Sym("infty")
_MINUS_INFINITY = Op("neg", (_INFINITY,))
_TURNED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}
_ALL_REALS = phrases(
    "all real numbers|all reals|real numbers|all real|the real numbers|the set of real numbers|all real values"
    "|the set of all real numbers|any real number|every real number"
)
MAX_PIECES = 40


class Piece(NamedTuple):
    """An interval; a point is one with equal ends."""

    low: Node
    low_closed: bool
    high: Node
    high_closed: bool


class Region(NamedTuple):
    """A set of reals.

    Attributes:
        letter: the letter that an inequality was about; empty if there is none or it was bound.
        pieces: its intervals, in the order written.
        plain: it was written as brackets or braces alone, which may also be a tuple or a list.
    """

    letter: str
    pieces: tuple[Piece, ...]
    plain: bool


def region(node: Node) -> Region | None:
    """The set of reals that a tree describes; None if it is none."""
    if isinstance(node, Seq):
        return _of_sequence(node)
    if isinstance(node, Rel):
        return _of_relation(node)
    if isinstance(node, Sym) and node.name in ("set:R", "R"):
        return Region("", (_everything(),), False)
    if isinstance(node, Text) and node.words in _ALL_REALS:
        return Region("", (_everything(),), False)
    if isinstance(node, Op):
        return _of_operation(node)
    return None


def _everything() -> Piece:
    return Piece(_MINUS_INFINITY, False, _INFINITY, False)


def _of_sequence(node: Seq) -> Region | None:
    if node.kind == "{}":
        if any(isinstance(item, Seq | Rel | Text) for item in node.items):
            return None
        return Region("", tuple(Piece(item, True, item, True) for item in node.items), True)
    if node.kind in ("()", "[]", "(]", "[)"):
        if len(node.items) != 2 or any(isinstance(item, Seq | Rel | Text) for item in node.items):
            return None
        return Region("", (Piece(node.items[0], node.kind[0] == "[", node.items[1], node.kind[1] == "]"),), True)
    parts = [region(item) if isinstance(item, Rel) else None for item in node.items]
    found = [part for part in parts if part is not None]
    if len(found) != len(parts) or len({part.letter for part in found}) != 1:
        return None
    if all(isinstance(item, Rel) and item.signs == ("=",) for item in node.items):
        return None
    if node.kind != "or":
        common: Region | None = found[0]
        for part in found[1:]:
            common = _intersection(common, part) if common is not None else None
        if common is not None and common.pieces:
            return common
    return Region(found[0].letter, tuple(piece for part in found for piece in part.pieces), False)


def _of_operation(node: Op) -> Region | None:
    if node.name == "builder":
        return _built(node)
    if node.name == "cup":
        parts = [region(arg) for arg in node.args]
        found = [part for part in parts if part is not None]
        if len(found) != len(parts) or len({part.letter for part in found}) > 1:
            return None
        return Region(found[0].letter, tuple(piece for part in found for piece in part.pieces), False)
    if node.name in ("cap", "setminus"):
        left, right = region(node.args[0]), region(node.args[1])
        if left is None or right is None or len(node.args) != 2:
            return None
        if node.name == "setminus":
            other = _complement(right)
            return _intersection(left, other) if other is not None else None
        return _intersection(left, right)
    return None


def _built(node: Op) -> Region | None:
    head, *conditions = node.args
    if isinstance(head, Rel) and head.signs == ("in",) and head.sides[1] in (Sym("set:R"), Sym("R")):
        head = head.sides[0]
    if not isinstance(head, Sym):
        return None
    kept = [
        item
        for item in conditions
        if not (isinstance(item, Rel) and item.signs == ("in",) and item.sides[1] == Sym("set:R"))
    ]
    if not kept:
        return None
    inner = region(kept[0] if len(kept) == 1 else Seq("and", tuple(kept)))
    return Region("", inner.pieces, False) if inner is not None and inner.letter == head.name else None


def _of_relation(node: Rel) -> Region | None:
    if node.signs in (("in",), ("notin",)) and isinstance(node.sides[0], Sym):
        inner = region(node.sides[1])
        if inner is not None and node.signs == ("notin",):
            inner = _complement(inner)
        return Region(node.sides[0].name, inner.pieces, False) if inner is not None else None
    if any(sign not in _TURNED for sign in node.signs):
        return None
    bounded = _of_absolute_value(node)
    if bounded is not None:
        return bounded
    places = [place for place, side in enumerate(node.sides) if _is_letter(side)]
    places = [place for place in places if not any(_shares(node.sides[place], other) for other in _others(node, place))]
    if len(node.sides) == 2 and len(places) == 2:
        places = places[:1]  # `x > a`: the letter on the left is meant
    if len(places) != 1 or len(node.sides) > 3:
        return None
    place = places[0]
    letter = _letter(node.sides[place])
    pieces: tuple[Piece, ...] = (_everything(),)
    if len(node.sides) == 3:
        if place != 1 or not _same_way(node.signs):
            return None
        first, second = node.signs
        low, high = (node.sides[0], node.sides[2]) if first in ("<", "le") else (node.sides[2], node.sides[0])
        low_sign, high_sign = (first, second) if first in ("<", "le") else (second, first)
        return Region(letter, (Piece(low, low_sign in ("le", "ge"), high, high_sign in ("le", "ge")),), False)
    other = node.sides[1 - place]
    sign = node.signs[0] if place == 0 else _TURNED[node.signs[0]]
    if sign in ("<", "le"):
        pieces = (Piece(_MINUS_INFINITY, False, other, sign == "le"),)
    elif sign in (">", "ge"):
        pieces = (Piece(other, sign == "ge", _INFINITY, False),)
    elif sign == "=":
        pieces = (Piece(other, True, other, True),)
    else:
        pieces = (Piece(_MINUS_INFINITY, False, other, False), Piece(other, False, _INFINITY, False))
    return Region(letter, pieces, False)


def _of_absolute_value(node: Rel) -> Region | None:
    """`|x| < a` and `|x| > a`, with a number a above zero."""
    if len(node.sides) != 2:
        return None
    (left, right), sign = node.sides, node.signs[0]
    if isinstance(right, Op) and right.name == "abs":
        left, right, sign = right, left, _TURNED[sign]
    if not isinstance(left, Op) or left.name != "abs" or not isinstance(left.args[0], Sym) or sign in ("=", "ne"):
        return None
    value = value_of(right)
    if value is None or value <= 0:
        return None
    low, closed = Op("neg", (right,)), sign in ("le", "ge")
    inside = sign in ("<", "le")
    pieces = (
        (Piece(low, closed, right, closed),)
        if inside
        else (Piece(_MINUS_INFINITY, False, low, closed), Piece(right, closed, _INFINITY, False))
    )
    return Region(left.args[0].name, pieces, False)


def _same_way(signs: tuple[str, ...]) -> bool:
    return set(signs) <= {"<", "le"} or set(signs) <= {">", "ge"}


def _is_letter(node: Node) -> bool:
    """A letter, a function of letters, or an expression in several letters, whose range is then meant."""
    if len(symbols(node)) > 1 and not isinstance(node, Seq | Rel):
        return True
    return (isinstance(node, Sym) and node.name not in ("pi", "e", "i", "infty")) or (
        isinstance(node, Op) and node.name == "call" and all(isinstance(arg, Sym) for arg in node.args)
    )


def _letter(node: Node) -> str:
    if isinstance(node, Sym):
        return node.name
    assert isinstance(node, Op)
    if node.name != "call":
        return " ".join(sorted(symbols(node)))
    return "".join(arg.name for arg in node.args if isinstance(arg, Sym))


def _others(node: Rel, place: int) -> list[Node]:
    return [side for other, side in enumerate(node.sides) if other != place]


def _shares(letter: Node, other: Node) -> bool:
    return bool(symbols(letter) & symbols(other))


# -- arithmetic of regions -----------------------------------------------------------------------------------


class _Span(NamedTuple):
    """A piece with the values of its ends; infinity is a sign alone."""

    low: tuple[int, Fraction]
    high: tuple[int, Fraction]
    piece: Piece


def _end(node: Node) -> tuple[int, Fraction] | None:
    if node == _INFINITY:
        return 1, Fraction(0)
    if node == _MINUS_INFINITY:
        return -1, Fraction(0)
    value = value_of(node)
    return (0, value) if value is not None else None


def _spans(pieces: tuple[Piece, ...]) -> list[_Span] | None:
    """The pieces sorted and merged, empty ones dropped; None if an end has no value."""
    if len(pieces) > MAX_PIECES:
        return None
    spans: list[_Span] = []
    for piece in pieces:
        low, high = _end(piece.low), _end(piece.high)
        if low is None or high is None:
            return None
        spans.append(_Span(low, high, piece))
    spans.sort(key=lambda span: (span.low, not span.piece.low_closed))
    merged: list[_Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last is not None and (
            span.low < last.high or (span.low == last.high and (span.piece.low_closed or last.piece.high_closed))
        ):
            higher = span if (span.high, span.piece.high_closed) > (last.high, last.piece.high_closed) else last
            piece = Piece(last.piece.low, last.piece.low_closed, higher.piece.high, higher.piece.high_closed)
            merged[-1] = _Span(last.low, higher.high, piece)
        else:
            merged.append(span)
    return merged


def _intersection(left: Region, right: Region) -> Region | None:
    first, second = _spans(left.pieces), _spans(right.pieces)
    if first is None or second is None:
        return None
    pieces = []
    for one in first:
        for other in second:
            lower = one if (one.low, not one.piece.low_closed) >= (other.low, not other.piece.low_closed) else other
            upper = one if (one.high, one.piece.high_closed) <= (other.high, other.piece.high_closed) else other
            closed = lower.piece.low_closed and upper.piece.high_closed
            if lower.low < upper.high or (lower.low == upper.high and closed):
                pieces.append(Piece(lower.piece.low, lower.piece.low_closed, upper.piece.high, upper.piece.high_closed))
    return Region(left.letter or right.letter, tuple(pieces), False)


def _complement(inner: Region) -> Region | None:
    spans = _spans(inner.pieces)
    if spans is None:
        return None
    pieces = []
    low, low_closed = _MINUS_INFINITY, False
    start: Node = low
    for span in spans:
        if span.piece.low != _MINUS_INFINITY:
            pieces.append(Piece(start, low_closed, span.piece.low, not span.piece.low_closed))
        start, low_closed = span.piece.high, not span.piece.high_closed
    if start != _INFINITY:
        pieces.append(Piece(start, low_closed, _INFINITY, False))
    return Region(inner.letter, tuple(pieces), False)


def same_region(gold: Region, answer: Region, same: Callable[[Node, Node], bool | None]) -> bool:
    """Whether two regions are the same set; ends are compared by `same`."""
    if gold.letter and answer.letter and gold.letter != answer.letter:
        return False
    first, second = _spans(gold.pieces), _spans(answer.pieces)
    ours = [span.piece for span in first] if first is not None else list(gold.pieces)
    theirs = [span.piece for span in second] if second is not None else list(answer.pieces)
    return len(ours) == len(theirs) and all(
        one.low_closed == other.low_closed
        and one.high_closed == other.high_closed
        and bool(same(one.low, other.low))
        and bool(same(one.high, other.high))
        for one, other in zip(ours, theirs, strict=True)
    )
