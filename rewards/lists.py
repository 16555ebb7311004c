"""Lists: plus-minus written out, names before items, items paired off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeVar

from reasonrl.rewards.equations import labelled
from reasonrl.rewards.mathlang.tree import Matrix, Measure, Named, Node, Op, Rel, Seq, Sym, Text, walk

Item = TypeVar("Item")
MAX_UNORDERED = 40
_MAX_EXPANDED = 16


def flattened(node: Node) -> list[Node] | None:
    """The items of a list without brackets, plus-minus written out; None if the tree is none."""
    if isinstance(node, Seq) and node.kind in ("", "or", "and"):
        return [piece for item in node.items for piece in _one_or_two(item)]
    pieces = _one_or_two(node)
    return pieces if len(pieces) > 1 else None


def _one_or_two(node: Node) -> list[Node]:
    if isinstance(node, Seq):
        return [node]
    if isinstance(node, Rel):
        return expanded(node) if set(node.signs) == {"="} else [node]
    return expanded(node)


def expanded(node: Node, independent: bool = False) -> list[Node]:
    """A tree with plus-minus written out: both signs at once, or in a tuple, if asked, each item by itself."""
    if not any(isinstance(part, Op) and part.name in ("pm", "mp") for part in walk(node)):
        return [node]
    if isinstance(node, Seq) and independent:
        choices = [expanded(item) for item in node.items]
        total = 1
        for choice in choices:
            total *= len(choice)
        if total > _MAX_EXPANDED:
            return [node]
        return [Seq(node.kind, items) for items in product(*choices)]
    return [_with_sign(node, True), _with_sign(node, False)]


def _with_sign(node: Node, upper: bool) -> Node:
    if isinstance(node, Op):
        args = tuple(_with_sign(arg, upper) for arg in node.args)
        if node.name in ("pm", "mp"):
            return args[0] if (node.name == "pm") == upper else Op("neg", args)
        return Op(node.name, args)
    if isinstance(node, Seq):
        return Seq(node.kind, tuple(_with_sign(item, upper) for item in node.items))
    if isinstance(node, Measure):
        return Measure(_with_sign(node.value, upper), node.unit)
    if isinstance(node, Rel):
        return Rel(node.signs, tuple(_with_sign(side, upper) for side in node.sides))
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(_with_sign(entry, upper) for entry in row) for row in node.rows), node.det)
    if isinstance(node, Named):
        return Named(node.name, _with_sign(node.value, upper))
    return node


def named_values(node: Node) -> dict[str, Node] | None:
    """Names and values of `x = 1, y = 2`, `(x, y) = (1, 2)`, `x = y = 4, z = 2`; None where a name is missing or
    stands twice.
    """
    found: dict[str, Node] = {}
    items: Sequence[Node]
    if isinstance(node, Rel) and node.signs == ("=",):
        left, right = node.sides
        if (
            not (isinstance(left, Seq) and isinstance(right, Seq) and len(left.items) == len(right.items))
            or left.kind != "()"
        ):
            return None
        items = [Rel(("=",), (name, value)) for name, value in zip(left.items, right.items, strict=True)]
    elif isinstance(node, Seq) and node.kind != "or":
        items = node.items
    else:
        return None
    if len(items) < 2:
        return None
    for item in items:
        if (
            isinstance(item, Rel)
            and len(item.sides) == 3
            and item.signs == ("=", "=")
            and isinstance(item.sides[1], Sym)
        ):
            pairs = [(item.sides[0], item.sides[2]), (item.sides[1], item.sides[2])]
        else:
            label, value = labelled(item)
            if label is None:
                return None
            pairs = [(label, value)]
        for name, value in pairs:
            key = f"text {name.words}" if isinstance(name, Text) else str(name)
            if key in found:
                return None
            found[key] = value
    return found


def matched(gold: Sequence[Item], answer: Sequence[Item], same: Callable[[Item, Item], bool | None]) -> bool | None:
    """Whether the items pair off; the first fit is taken, which is right where equality is transitive."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    rest: list[Item] = []
    for item in gold:
        if item in left:
            left.remove(item)
        else:
            rest.append(item)
    if len(rest) > MAX_UNORDERED:
        return None
    unsure = False
    for item in rest:
        place = None
        for candidate, other in enumerate(left):
            found = same(item, other)
            if found:
                place = candidate
                break
            unsure = unsure or found is None
        if place is None:
            return None if unsure else False
        del left[place]
    return True
