"""Why two read answers are not the same, in a few words: for people, decided after the verdict."""

from __future__ import annotations

from reasonrl.rewards.lists import flattened
from reasonrl.rewards.mathlang.tree import Matrix, Measure, Node, Num, Op, Reading, Rel, Seq, Text
from reasonrl.rewards.policy import Policy
from reasonrl.rewards.scalars import left_standing, plain

_NAMES = {"()": "tuple or interval", "[]": "closed interval or list", "(]": "interval", "[)": "interval", "{}": "set"}


def reason(gold: Reading, answer: Reading, same: bool, policy: Policy) -> str:
    """What decided: the kind of comparison if they are the same, the difference if not."""
    left, right = gold.node, answer.node
    if isinstance(left, Num) and isinstance(right, Num):
        return "exact numbers"
    if same:
        return "same value"
    if isinstance(left, Text) or isinstance(right, Text):
        return "words"
    left_value, right_value = (node.value if isinstance(node, Measure) else node for node in (left, right))
    if not policy.unevaluated and plain(left_value) and left_standing(right_value):
        return "unevaluated arithmetic is no answer"
    left_unit, right_unit = (node.unit if isinstance(node, Measure) else "" for node in (left, right))
    if left_unit != right_unit:
        return f"{right_unit or 'no unit'} instead of {left_unit or 'no unit'}, or another value"
    kinds = _kind(left), _kind(right)
    if kinds[0] != kinds[1]:
        return f"a {kinds[1]} instead of a {kinds[0]}"
    sizes = _size(left), _size(right)
    if sizes[0] != sizes[1]:
        return f"{sizes[1]} items instead of {sizes[0]}"
    return "different value"


def _kind(node: Node) -> str:
    if flattened(node) is not None:
        return "list"
    if isinstance(node, Seq):
        return _NAMES[node.kind]
    if isinstance(node, Rel):
        return "relation"
    if isinstance(node, Matrix):
        return "matrix"
    if isinstance(node, Op) and node.name in ("cup", "cap", "builder", "setminus"):
        return "set"
    return "value"


def _size(node: Node) -> int:
    items = flattened(node)
    if items is not None:
        return len(items)
    return len(node.items) if isinstance(node, Seq) else 1
