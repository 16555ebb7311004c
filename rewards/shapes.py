"""What a tree looks like, as far as comparing it asks: chains turned round, columns as tuples, labels and bound letters
taken off.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasonrl.rewards.equations import labelled
from reasonrl.rewards.mathlang.tree import Matrix, Named, Node, Op, Rel, Seq, Sym, renamed, symbols, walk
from reasonrl.rewards.regions import Region

LISTS = ("", "or", "and")
TUPLES = ("()", "[]")


def without_name(gold: Node, answer: Node) -> tuple[Node, Node]:
    """Words before a value name it; they are not compared."""
    return (
        gold.value if isinstance(gold, Named) else gold,
        answer.value if isinstance(answer, Named) else answer,
    )


def worded(values: dict[str, Node]) -> bool:
    """Whether any name is words."""
    return any(name.startswith("text ") for name in values)


def may_be_region(node: Node) -> bool:
    """Whether a tree is worth reading as a set of reals: brackets alone are compared as brackets."""
    if isinstance(node, Rel):
        return node.signs != ("=",)
    if isinstance(node, Op):
        return node.name in ("cup", "cap", "setminus", "builder")
    if isinstance(node, Seq) and node.kind in LISTS:
        return any(isinstance(item, Rel) and item.signs != ("=",) for item in node.items)
    return node in (Sym("set:R"), Sym("R"))


def is_value(node: Node, found: Region) -> bool:
    """Whether an equation names nothing: it is no set."""
    return isinstance(node, Rel) and node.signs == ("=",) and not found.letter


def turned(node: Rel) -> Rel | None:
    """A chain read from its other end."""
    signs = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne", "approx": "approx"}
    if any(sign not in signs for sign in node.signs):
        return None
    return Rel(tuple(signs[sign] for sign in reversed(node.signs)), tuple(reversed(node.sides)))


def comparable(gold: Rel, answer: Rel) -> bool:
    """Whether two relations have one sign, or one the turned sign of the other."""
    if gold.signs == answer.signs:
        return gold.signs[0] in ("=", "<", ">", "le", "ge", "ne")
    return {gold.signs[0], answer.signs[0]} in ({"<", ">"}, {"le", "ge"})


def values(gold: Sequence[Node], answer: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Items without their labels where one side has none, or where a label stands before the first item alone."""
    ours, theirs = [labelled(item) for item in gold], [labelled(item) for item in answer]
    bare_gold, bare_answer = (
        all(item.label is None and not isinstance(item.value, Rel) for item in side) for side in (ours, theirs)
    )
    first_only = (
        sum(item.label is not None for item in side) == 1 and side[0].label is not None for side in (ours, theirs)
    )
    gold_first, answer_first = first_only
    drop = bare_gold or bare_answer or gold_first or answer_first
    return (
        [item.value for item in ours] if drop else list(gold),
        [item.value for item in theirs] if drop else list(answer),
    )


def as_tuple(node: Node) -> Seq | None:
    """A column or row as a tuple."""
    if isinstance(node, Seq):
        return node if node.kind in TUPLES else None
    if isinstance(node, Matrix) and not node.det:
        if len(node.rows) == 1:
            return Seq("()", node.rows[0])
        if all(len(row) == 1 for row in node.rows):
            return Seq("()", tuple(row[0] for row in node.rows))
    return None


def as_matrix(node: Node) -> Matrix | None:
    """A matrix, also one written as a list of rows: `[[1, 2], [3, 4]]`."""
    if isinstance(node, Matrix):
        return node
    if not isinstance(node, Seq) or node.kind != "[]" or len(node.items) < 2:
        return None
    rows = tuple(row.items for row in node.items if isinstance(row, Seq) and row.kind == "[]")
    return Matrix(rows, False) if len(rows) == len(node.items) and len({len(row) for row in rows}) == 1 else None


def lone_argument(label: Op, value: Node, other: Node) -> dict[str, str]:
    """`f(n) = 2n` against `2x`: the argument's name is free if it is the only letter that differs."""
    arguments = [arg.name for arg in label.args[1:] if isinstance(arg, Sym)]
    extra = sorted(symbols(other) - symbols(value))
    missing = sorted(symbols(value) - symbols(other))
    if len(arguments) == 1 and missing == arguments and len(extra) == 1:
        return {arguments[0]: extra[0]}
    return {}


def without_bound_names(node: Op) -> Op:
    """A set by a condition with its bound letters numbered."""
    head, *conditions = node.args
    letters = [part.name for part in walk(head) if isinstance(part, Sym) and part.name in symbols(head)]
    for condition in conditions:
        if isinstance(condition, Rel) and condition.signs == ("in",) and isinstance(condition.sides[0], Sym):
            letters.append(condition.sides[0].name)
    bound = {name: f"bound:{place}" for place, name in enumerate(dict.fromkeys(letters))}
    return Op(node.name, tuple(renamed(arg, bound) for arg in node.args))


def with_conditions(items: Sequence[Node]) -> Node | None:
    """The value of `x/(x+1), x \\ne -1`: what stands before conditions on its own letters."""
    first, *rest = items
    if isinstance(first, Rel) and set(first.signs) != {"="}:
        return None
    known = symbols(first)
    conditions = [item for item in rest if isinstance(item, Rel) and set(item.signs) <= _CONDITIONS]
    if known and len(conditions) == len(rest) and all(symbols(item) <= known for item in conditions):
        return first
    return None


_CONDITIONS = frozenset(["ne", "<", ">", "le", "ge", "in"])


def called(gold: Node, answer: Node) -> Node:
    """An answer `A(8, -2)` as the point and `C(n, 2)` as the binomial coefficient, where the gold is one."""
    if not isinstance(answer, Op) or answer.name != "mul" or len(answer.args) != 2:
        return answer
    name, inner = answer.args
    if not isinstance(name, Sym) or not isinstance(inner, Seq) or inner.kind != "()" or len(inner.items) != 2:
        return answer
    if isinstance(gold, Op) and gold.name == "binom" and name.name == "C":
        return Op("binom", inner.items)
    return inner if isinstance(gold, Seq) and gold.kind == "()" and name.name.isupper() else answer
