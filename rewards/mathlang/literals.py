"""Literal numbers in a tree, and signs that belong to a whole value."""

from __future__ import annotations

from fractions import Fraction

from reasonrl.rewards.mathlang.tree import Measure, Node, Num, Op


def lifted(node: Node) -> Node:
    """A percent or degree sign on the whole value becomes its unit."""
    if isinstance(node, Op):
        if node.name == "percent":
            return Measure(node.args[0], "%")
        if node.name == "deg":
            return Measure(node.args[0], "deg")
        if node.name == "neg" and isinstance(inner := lifted(node.args[0]), Measure):
            return Measure(Op("neg", (inner.value,)), inner.unit)
        if node.name == "mul" and isinstance(last := lifted(node.args[-1]), Measure) and last.unit in ("%", "deg"):
            return Measure(Op("mul", (*node.args[:-1], last.value)), last.unit)
    return node


def scaled(node: Node, power: int) -> Node:
    """`2.5 million`."""
    factor = Fraction(10**power)
    if isinstance(node, Num):
        places = None if node.decimals is None or node.decimals <= power else node.decimals - power
        return Num(node.value * factor, places, node.digits)
    return Op("mul", (node, Num(factor, None, 1)))


def literal(node: Node) -> Num | None:
    """The literal number a tree is, its sign included; None if it is something else."""
    if isinstance(node, Num):
        return node
    if isinstance(node, Op) and node.name == "neg" and isinstance(node.args[0], Num):
        inner = node.args[0]
        return Num(-inner.value, inner.decimals, inner.digits)
    return None
