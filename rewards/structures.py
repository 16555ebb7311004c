"""Comparing two read answers by what they are: lists, tuples, sets, regions, matrices, equations, values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from reasonrl.rewards.equations import (
    argument_names,
    is_label,
    is_quantity,
    labelled,
    rename_arguments,
    same_equation,
    same_label,
    solves,
)
from reasonrl.rewards.families import families, same_families
from reasonrl.rewards.lists import expanded, flattened, matched, named_values
from reasonrl.rewards.mathlang.equality import value_of
from reasonrl.rewards.mathlang.tree import (
    Matrix,
    Named,
    Node,
    Op,
    Reading,
    Rel,
    Seq,
    Sym,
    Text,
    children,
    symbols,
    walk,
)
from reasonrl.rewards.policy import Policy
from reasonrl.rewards.regions import region, same_region
from reasonrl.rewards.scalars import same_scalar
from reasonrl.rewards.shapes import (
    LISTS,
    TUPLES,
    as_matrix,
    as_tuple,
    called,
    comparable,
    is_value,
    lone_argument,
    may_be_region,
    turned,
    values,
    with_conditions,
    without_bound_names,
    without_name,
    worded,
)
from reasonrl.rewards.synonyms import same_words

_SHORT_REMARK = 6


def same_reading(gold: Reading, answer: Reading, policy: Policy) -> bool | None:
    """Whether two read answers are the same; None if that cannot be told."""
    if not _remarks_agree(gold.remark, answer.remark):
        return False
    node = _with_bound_letters(gold, answer)
    same = Comparer(policy).same(gold.node, node)
    if same or not (_has_parameter(gold) or _has_parameter(answer)):
        return same
    ours, theirs = families(gold), families(answer)
    return same_families(ours, theirs) if ours is not None and theirs is not None else same


def _has_parameter(reading: Reading) -> bool:
    """Whether an answer declares an integer parameter or a modulus."""
    return bool(reading.bound) or any(isinstance(part, Op) and part.name == "mod" for part in walk(reading.node))


def _remarks_agree(gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """Whether two remarks may say the same: one is missing, their numbers agree, and long ones have the same words."""
    if not gold or not answer or gold == answer:
        return True
    numbers = [[word for word in remark if word[0].isdigit()] for remark in (gold, answer)]
    return numbers[0] == numbers[1] and min(len(gold), len(answer)) <= _SHORT_REMARK


def _with_bound_letters(gold: Reading, answer: Reading) -> Node:
    """The answer with the letters that are free to be renamed named as in the gold: declared parameters, and the
    constant C, which may be a small letter.
    """
    ours, theirs = symbols(labelled(gold.node).value), symbols(labelled(answer.node).value)
    if ours == theirs:
        return answer.node
    only_ours, only_theirs = sorted(ours - theirs), sorted(theirs - ours)
    if len(only_ours) != len(only_theirs) or not only_ours:
        return answer.node
    declared = set(only_ours) & gold.bound or set(only_theirs) & answer.bound
    if declared and len(only_ours) == 1:
        return rename_arguments(answer.node, {only_theirs[0]: only_ours[0]})
    constants = {name.lower(): name for name in only_ours if name.partition("_")[0] in ("c", "C")}
    if len(constants) == len(only_ours) and all(name.lower() in constants for name in only_theirs):
        return rename_arguments(answer.node, {name: constants[name.lower()] for name in only_theirs})
    return answer.node


class Comparer:
    """Compares trees under one policy; None from a method means that it cannot be told."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def same(self, gold: Node, answer: Node) -> bool | None:
        """Whether the answer is the gold."""
        if gold == answer:
            return True
        if isinstance(gold, Text) or isinstance(answer, Text):
            return self._texts(gold, answer)
        gold, answer = without_name(gold, answer)
        answer = called(gold, answer)
        signed = [isinstance(node, Rel) and flattened(node) is not None for node in (gold, answer)]
        if any(signed):  # `y = \\pm 2x` is two equations
            return self._lists(gold, answer)[1]
        for step in (self._named_lists, self._regions, self._relations, self._lists, self._matrices, self._sequences):
            decided, result = step(gold, answer)
            if decided:
                return result
        if isinstance(gold, Matrix | Rel | Named) or isinstance(answer, Matrix | Rel | Named):
            return False
        if isinstance(gold, Op) and isinstance(answer, Op) and gold.name == answer.name == "builder":
            return self._all(without_bound_names(gold).args, without_bound_names(answer).args)
        return same_scalar(gold, answer, self.policy)

    def _texts(self, gold: Node, answer: Node) -> bool | None:
        if isinstance(gold, Text) and isinstance(answer, Text):
            return same_words(gold.words, answer.words)
        first, second = region(gold), region(answer)
        if first is not None and second is not None:
            return same_region(first, second, self.same)
        words, other = (gold, answer) if isinstance(gold, Text) else (answer, gold)
        return isinstance(words, Text) and other == Seq("{}", ()) and same_words(words.words, "empty set")

    # -- several named values ------------------------------------------------------------------------------------

    def _named_lists(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        """`(x, y) = (1, 2)`, `x = 1, y = 2`, `{x = 1, y = 2}`: by name where both have names."""
        ours, theirs = named_values(gold), named_values(answer)
        if ours is None and theirs is None:
            return False, None
        if ours is not None and theirs is not None:
            if set(ours) == set(theirs):
                return True, self._all(list(ours.values()), [theirs[name] for name in ours])
            if not (worded(ours) or worded(theirs)):
                return False, None
        values, other = (ours, answer) if ours is not None else (theirs, gold)
        assert values is not None
        items = list(values.values()) if theirs is None or ours is None else None
        others = list(theirs.values()) if items is None and theirs is not None else None
        if items is None:
            assert ours is not None and others is not None
            return True, self._in_list(list(ours.values()), others)
        inner = labelled(other).value if isinstance(other, Rel) else other
        if isinstance(inner, Matrix):
            inner = as_tuple(inner) or inner
        if not isinstance(inner, Seq) or len(inner.items) != len(items):
            return False, None
        first, second = (items, list(inner.items)) if ours is not None else (list(inner.items), items)
        if inner.kind in TUPLES:
            return True, self._all(first, second)
        if inner.kind in LISTS and not any(isinstance(item, Rel) for item in inner.items):
            return True, self._in_list(first, second)
        return False, None

    def _in_list(self, gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
        if self._all(gold, answer):
            return True
        return matched(gold, answer, self.same) if self.policy.unordered_lists else False

    def _all(self, gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
        if len(gold) != len(answer):
            return False
        unsure = False
        for one, other in zip(gold, answer, strict=True):
            same = self.same(one, other)
            if same is False:
                return False
            unsure = unsure or same is None
        return None if unsure else True

    # -- sets of reals -------------------------------------------------------------------------------------------

    def _regions(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        if not may_be_region(gold) and not may_be_region(answer):
            return False, None
        if isinstance(gold, Rel) and isinstance(answer, Rel) and max(len(symbols(gold)), len(symbols(answer))) > 1:
            return False, None  # `x > y` and `y < x` are compared as relations
        first, second = region(gold), region(answer)
        if first is None or second is None or (first.plain and second.plain):
            return False, None
        if is_value(gold, first) or is_value(answer, second):
            return False, None
        return True, same_region(first, second, self.same)

    # -- relations -----------------------------------------------------------------------------------------------

    def _relations(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        if isinstance(gold, Rel) and isinstance(answer, Rel):
            return True, self._two_relations(gold, answer)
        if isinstance(gold, Rel):
            return self._gold_relation(gold, answer)
        if isinstance(answer, Rel):
            return self._answer_relation(gold, answer)
        return False, None

    def _two_relations(self, gold: Rel, answer: Rel) -> bool | None:
        ours, theirs = labelled(gold), labelled(answer)
        if ours.label is not None and theirs.label is not None:
            if same_label(ours.label, theirs.label):
                value = rename_arguments(theirs.value, argument_names(ours.label, theirs.label))
                return self._by_value(ours.value, value)
            if isinstance(ours.label, Sym) != isinstance(theirs.label, Sym) or len(gold.sides) != 2:
                return False
        if len(gold.sides) == len(answer.sides):
            for other in (answer, turned(answer)):
                if other is not None and other.signs == gold.signs and self._all(gold.sides, other.sides):
                    return True
        if len(gold.sides) == len(answer.sides) == 2 and comparable(gold, answer):
            if any(isinstance(side, Seq | Rel | Matrix) for side in (*gold.sides, *answer.sides)):
                return False
            return same_equation(gold, answer)
        if set(gold.signs) <= {"=", "approx"} and set(answer.signs) <= {"=", "approx"}:
            return self._by_value(ours.value, theirs.value)
        return False

    def _by_value(self, gold: Node, answer: Node) -> bool | None:
        """Two values, either of them perhaps a chain `a = b` of one value."""
        if isinstance(answer, Rel) and set(answer.signs) <= {"=", "approx"}:
            if not self._consistent(answer.sides):
                return False
            return any(self.same(gold, side) for side in answer.sides)
        if isinstance(gold, Rel) and set(gold.signs) <= {"=", "approx"}:
            return any(self.same(side, answer) for side in gold.sides)
        return self.same(gold, answer)

    def _consistent(self, sides: Sequence[Node]) -> bool:
        """Whether the sides of a chain are one value: `x = 4 = 5` claims two. Decimals may be rounded."""
        from reasonrl.rewards.policy import POLICIES

        loose = Comparer(POLICIES["lenient"])
        return all(loose.same(one, other) is not False for one, other in pairwise(sides))

    def _one_value(self, items: Sequence[Node]) -> bool:
        """Whether all items say the same without any allowance."""
        from reasonrl.rewards.policy import POLICIES

        return all(Comparer(POLICIES["strict"]).same(items[0], item) for item in items[1:])

    def _gold_relation(self, gold: Rel, answer: Node) -> tuple[bool, bool | None]:
        if set(gold.signs) <= {"=", "approx"}:
            label, value = labelled(gold)
            if label is not None:
                if isinstance(label, Op):
                    names = lone_argument(label, value, answer)
                    answer = rename_arguments(answer, {new: old for old, new in names.items()})
                return True, self._by_value(value, answer)
            if all(not symbols(side) for side in gold.sides):
                return True, any(self.same(side, answer) for side in gold.sides)
            if len(gold.sides) > 2 or "approx" in gold.signs:
                return True, any(self.same(side, answer) for side in gold.sides[1:])
            if self.policy.solved_equations and not isinstance(answer, Seq | Matrix):
                return True, solves(gold, answer)
            return True, False
        if set(gold.signs) <= {"in"} and len(gold.sides) == 2 and is_label(gold.sides[0]):
            return True, self.same(gold.sides[1], answer)
        return self._ordering(gold, answer)

    def _answer_relation(self, gold: Node, answer: Rel) -> tuple[bool, bool | None]:
        if set(answer.signs) <= {"=", "approx"}:
            label, value = labelled(answer)
            if label is not None:
                if isinstance(label, Op):
                    value = rename_arguments(value, lone_argument(label, value, gold))
                return True, self._by_value(gold, value)
            if is_quantity(answer.sides[0]) and not any(symbols(side) for side in (gold, *answer.sides[1:])):
                if isinstance(gold, Seq | Matrix) or value_of(gold) == 0:
                    return True, False  # `x + y = 0` says something else than 0
                return True, self._consistent(answer.sides[1:]) and self.same(gold, answer.sides[-1])
            if len(answer.sides) == 2 and symbols(answer.sides[0]) - symbols(gold) and "=" in answer.signs:
                return True, False  # an equation to be solved is no value
            return True, self._by_value(gold, answer)
        if set(answer.signs) <= {"in"} and len(answer.sides) == 2 and is_label(answer.sides[0]):
            interval = isinstance(inner := answer.sides[1], Seq) and inner.kind in TUPLES and len(inner.items) == 2
            if interval and isinstance(gold, Seq) and gold.kind in LISTS:
                return True, False
            return True, self.same(gold, answer.sides[1])
        return self._ordering(answer, gold)

    def _ordering(self, chain: Rel, other: Node) -> tuple[bool, bool | None]:
        """`a < b < c` against the list `a, b, c`."""
        ordered = len(chain.sides) > 2 and set(chain.signs) in ({"<"}, {">"})
        if (
            ordered
            and isinstance(other, Seq)
            and other.kind in LISTS
            and all(isinstance(side, Sym) for side in chain.sides)
        ):
            return True, chain.sides == other.items
        return True, False

    # -- lists ---------------------------------------------------------------------------------------------------

    def _lists(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        ours, theirs = flattened(gold), flattened(answer)
        if ours is None and theirs is None:
            return False, None
        if ours is None and isinstance(gold, Seq):
            return self._list_for_bracket(gold, theirs or [], gold_is_bracket=True)
        if theirs is None and isinstance(answer, Seq):
            return self._list_for_bracket(answer, ours or [], gold_is_bracket=False)
        if ours is None and isinstance(answer, Seq) and answer.kind == "or" and self._one_value(answer.items):
            return True, self._all([gold] * len(answer.items), answer.items)  # `1/2 or 50%`
        first = ours if ours is not None else [gold]
        second = theirs if theirs is not None else [answer]
        if min(len(first), len(second)) == 1 < max(len(first), len(second)) and self.policy.optional_unit:
            value = with_conditions(first if len(first) > 1 else second)
            if value is not None:
                return True, self.same(value, second[0]) if len(first) > 1 else self.same(first[0], value)
        first, second = values(first, second)
        if len(first) != len(second):
            both = [piece for item in second for piece in expanded(item, independent=True)]
            if len(both) == len(first) and len(both) != len(second):
                return True, matched(first, both, self.same)
            both = [piece for item in first for piece in expanded(item, independent=True)]
            if len(both) == len(second) and len(both) != len(first):
                return True, matched(both, second, self.same)
            return True, False
        if any(item == Sym("dots") for item in (*first, *second)) or not self.policy.unordered_lists:
            return True, self._all(first, second)
        return True, matched(first, second, self.same)

    def _list_for_bracket(self, bracket: Seq, items: Sequence[Node], gold_is_bracket: bool) -> tuple[bool, bool | None]:
        """A bare list against something in brackets: a set, or the list itself with brackets around it."""
        inner: list[Node] = flattened(Seq("", bracket.items)) or []
        gold, answer = (inner, list(items)) if gold_is_bracket else (list(items), inner)
        if bracket.kind == "{}":
            if self.policy.unordered_lists or len(items) == 1:
                return True, matched(*values(gold, answer), self.same)
            return True, self._all(*values(gold, answer))
        many = expanded(bracket, independent=True)
        if len(many) > 1:
            first, second = (many, list(items)) if gold_is_bracket else (list(items), many)
            return True, matched(first, second, self.same)
        if bracket.kind == "()" and any(isinstance(item, Seq) for item in items):
            return True, False
        allowed = self.policy.loose_brackets or not gold_is_bracket or (bracket.kind == "[]" and len(inner) != 2)
        if not allowed or (bracket.kind not in TUPLES) or self.policy.name == "strict":
            return True, False
        return True, self._all(*values(gold, answer))

    # -- brackets and matrices -----------------------------------------------------------------------------------

    def _matrices(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        if not isinstance(gold, Matrix) and not isinstance(answer, Matrix):
            return False, None
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            if gold.det != answer.det:
                return True, False
            if [len(row) for row in gold.rows] == [len(row) for row in answer.rows]:
                return True, self._all(children(gold), children(answer))
            return True, False
        grids = [as_matrix(node) for node in (gold, answer)]
        if all(grid is not None for grid in grids):
            return self._matrices(*[grid for grid in grids if grid is not None])
        first, second = as_tuple(gold), as_tuple(answer)
        if first is None or second is None:
            return True, False
        return True, self._all(first.items, second.items)

    def _sequences(self, gold: Node, answer: Node) -> tuple[bool, bool | None]:
        if not isinstance(gold, Seq) and not isinstance(answer, Seq):
            return False, None
        if isinstance(gold, Seq) and isinstance(answer, Seq):
            loose = self.policy.name != "strict" and len(gold.items) != 2
            vectors = loose and gold.kind in TUPLES and answer.kind in TUPLES
            if gold.kind != answer.kind and not vectors:
                return True, False
            if gold.kind == "{}":
                ours, theirs = (flattened(Seq("", node.items)) or [] for node in (gold, answer))
                return True, matched(ours, theirs, self.same)
            if len(gold.items) != len(answer.items):
                return True, False
            return True, self._all(gold.items, answer.items)
        bracket, other = (gold, answer) if isinstance(gold, Seq) else (answer, gold)
        assert isinstance(bracket, Seq)
        if bracket.kind == "{}" and len(bracket.items) == 1 and self.policy.unordered_lists:
            return True, self.same(bracket.items[0], other)
        return True, False
