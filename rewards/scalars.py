"""Comparing single values: numbers with percent signs, units and degrees, rounded decimals, ratios, expressions."""

from __future__ import annotations

from fractions import Fraction

from reasonrl.rewards.mathlang.equality import same_value, value_of
from reasonrl.rewards.mathlang.exact import NotExact, exact
from reasonrl.rewards.mathlang.literals import literal
from reasonrl.rewards.mathlang.tree import Measure, Node, Num, Op, Sym, walk
from reasonrl.rewards.mathlang.words import changes_number, conversion, known
from reasonrl.rewards.policy import Policy

_ANY_UNIT = frozenset(["am", "pm", "a m", "p m"])


def same_scalar(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """Whether two single values are the same under a policy; None if that cannot be told."""
    gold, answer = _unit_of_letters(gold, answer), _unit_of_letters(answer, gold)
    if _is_ratio(gold) or _is_ratio(answer):
        return _same_ratio(gold, answer, policy)
    if _has_base(gold) or _has_base(answer):
        return _same_base(gold, answer, policy)
    left, left_unit = (gold.value, gold.unit) if isinstance(gold, Measure) else (gold, "")
    right, right_unit = (answer.value, answer.unit) if isinstance(answer, Measure) else (answer, "")
    if not policy.unevaluated and plain(left) and left_standing(right):
        return False
    if left_unit != right_unit and changes_number(right_unit):
        return False
    if "%" in (left_unit, right_unit):
        return _same_percent(left, left_unit, right, right_unit, policy)
    if "deg" in (left_unit, right_unit) and left_unit != right_unit:
        return _same_angle(left, left_unit, right, right_unit, policy)
    if left_unit != right_unit:
        if left_unit and right_unit:
            factor = conversion(right_unit, left_unit) if policy.convertible_units else None
            if factor is not None:
                return _same_number(left, Op("mul", (Num(factor, None, 1), right)), policy, True)
            if not policy.optional_unit or known(left_unit) or known(right_unit):
                return False
        elif not policy.optional_unit:
            return False
    return _same_number(left, right, policy, bool(left_unit))


def _same_number(gold: Node, answer: Node, policy: Policy, measured: bool = False) -> bool | None:
    same = same_value(gold, answer)
    if same:
        return True
    return True if _rounded(gold, answer, policy, measured) else same


def _same_percent(left: Node, left_unit: str, right: Node, right_unit: str, policy: Policy) -> bool | None:
    """Signs on both sides cancel; a sign on one side is a hundredth or, if the policy overlooks it, nothing."""
    if left_unit == right_unit:
        return _same_number(left, right, policy, True)
    if left_unit not in ("", "%") or right_unit not in ("", "%"):
        return False
    hundred = Num(Fraction(100), None, 3)
    gold = left if left_unit else Op("mul", (left, hundred))
    answer = right if right_unit else Op("mul", (right, hundred))
    same = same_value(gold, answer)
    if same:
        return True
    if left_unit and _rounded(gold, answer, policy, True):
        return True
    if (
        right_unit
        and (decimal := literal(right)) is not None
        and policy.rounding
        and _rounds(gold, decimal, policy.rounding)
    ):
        return True
    if policy.optional_percent and _same_number(left, right, policy, bool(left_unit)):
        return True
    return same


def _same_angle(left: Node, left_unit: str, right: Node, right_unit: str, policy: Policy) -> bool | None:
    if policy.optional_unit and "" in (left_unit, right_unit) and same_value(left, right):
        return True
    if left_unit not in ("", "deg", "rad") or right_unit not in ("", "deg", "rad"):
        return False
    gold = Op("deg", (left,)) if left_unit == "deg" else left
    answer = Op("deg", (right,)) if right_unit == "deg" else right
    same = same_value(gold, answer)
    if same or not policy.optional_unit:
        return same
    return True if _rounded(left, right, policy, True) else same


# -- decimals ------------------------------------------------------------------------------------------------


def _rounded(gold: Node, answer: Node, policy: Policy, measured: bool) -> bool:
    """Whether one side is a decimal that stands for the other under the policy's rules of rounding."""
    if policy.rounding is None and policy.gold_rounding is None:
        return False
    gold_decimal, answer_decimal = _decimal(gold), _decimal(answer)
    if answer_decimal is not None and policy.rounding is not None:
        rounded = _may_be_rounded(gold, gold_decimal, answer_decimal)
        if rounded and _rounds(gold, answer_decimal, policy.rounding):
            return True
    if gold_decimal is not None and policy.gold_rounding is not None:
        least = policy.gold_rounding - (1 if measured and policy.gold_rounding > 2 else 0)
        finer = answer_decimal is None or (answer_decimal.decimals or 0) > (gold_decimal.decimals or 0)
        if finer and _rounds(answer, gold_decimal, least):
            return True
    if policy.tolerance and (gold_decimal is not None or answer_decimal is not None):
        left, right = value_of(gold), value_of(answer)
        if left is not None and right is not None and left.denominator > 1:
            return abs(left - right) <= abs(left) * Fraction(policy.tolerance)
    return False


def _decimal(node: Node) -> Num | None:
    """The decimal a tree is written as (with digits behind the point, or times a power of ten); None if it is no
    decimal.
    """
    number = literal(node)
    if number is not None:
        return number if number.decimals else None
    if isinstance(node, Op) and node.name == "mul" and len(node.args) == 2:
        mantissa, power = literal(node.args[0]), node.args[1]
        if mantissa is None or not mantissa.decimals or not isinstance(power, Op) or power.name != "pow":
            return None
        try:
            base, exponent, value = exact(power.args[0]), exact(power.args[1]), exact(node)
        except NotExact:
            return None
        if base == 10 and exponent.denominator == 1:
            return Num(value, mantissa.decimals - int(exponent), mantissa.digits)
    return None


def _may_be_rounded(gold: Node, gold_decimal: Num | None, answer: Num) -> bool:
    """An exact gold may be rounded unless it is whole; a decimal gold only where it has more digits than the answer."""
    if gold_decimal is not None:
        return (gold_decimal.decimals or 0) > (answer.decimals or 0)
    number = literal(gold)
    if number is not None:
        return number.value.denominator != 1
    value = value_of(gold)
    return value is not None and value.denominator != 1


def _rounds(exact_side: Node, decimal: Num, least: int) -> bool:
    """Whether a decimal of so many digits rounds a value; with one more than four digits it may also cut it off."""
    if decimal.decimals is None or decimal.digits < least:
        return False
    value = value_of(exact_side)
    if value is None:
        return False
    unit = Fraction(10) ** -decimal.decimals
    difference = abs(value - decimal.value)
    if 2 * difference <= unit:
        return True
    return decimal.digits >= 5 and difference < unit and abs(decimal.value) < abs(value)


# -- arithmetic left standing --------------------------------------------------------------------------------


def plain(node: Node) -> bool:
    """Whether a tree is a number as answers write it: a literal, or a fraction of two."""
    if isinstance(node, Op) and node.name == "neg":
        node = node.args[0]
    if isinstance(node, Op) and node.name == "div":
        return all(literal(arg) is not None for arg in node.args)
    return isinstance(node, Num)


def left_standing(node: Node) -> bool:
    """Whether a tree is a sum or product of plain numbers that nobody worked out, a sum of powers, a remainder, or the
    largest of some numbers; scientific notation is none, nor is a power by itself.
    """
    if not isinstance(node, Op) or node.name not in (*_ARITHMETIC, *_COMPUTED):
        return False
    names = {part.name for part in walk(node) if isinstance(part, Op)}
    if not names & {"add", "mul", *_COMPUTED} or not all(isinstance(part, Op | Num) for part in walk(node)):
        return False
    powers = [part for part in walk(node) if isinstance(part, Op) and part.name == "pow"]
    if powers and (not names & {"add", *_COMPUTED} or not all(_whole(part.args[1]) for part in powers)):
        return False
    return names <= {*_ARITHMETIC, *_COMPUTED, "pow"}


_ARITHMETIC = ("add", "mul", "div", "neg")
_COMPUTED = ("remainder", "max", "min")


def _whole(node: Node) -> bool:
    number = literal(node)
    return number is not None and number.value.denominator == 1


# -- ratios, bases, units that look like letters -------------------------------------------------------------


def _is_ratio(node: Node) -> bool:
    value = node.value if isinstance(node, Measure) else node
    return isinstance(value, Op) and value.name == "ratio"


def _same_ratio(gold: Node, answer: Node, policy: Policy) -> bool | None:
    gold_unit, answer_unit = (side.unit if isinstance(side, Measure) else "" for side in (gold, answer))
    left = gold.value if isinstance(gold, Measure) else gold
    right = answer.value if isinstance(answer, Measure) else answer
    if gold_unit != answer_unit and (not policy.optional_unit or (gold_unit and answer_unit)):
        return False
    if isinstance(left, Op) and isinstance(right, Op) and left.name == right.name == "ratio":
        if len(left.args) != len(right.args):
            return False
        if gold_unit or answer_unit or (_clock(left) and _clock(right)):
            return all(same_value(one, other) for one, other in zip(left.args, right.args, strict=True))
        first, other_first = left.args[0], right.args[0]
        return all(
            same_value(Op("mul", (first, other)), Op("mul", (other_first, one)))
            for one, other in zip(left.args[1:], right.args[1:], strict=True)
        )
    if not policy.ratio_as_value:
        return False
    value, ratio = (left, right) if isinstance(right, Op) and right.name == "ratio" else (right, left)
    if not isinstance(ratio, Op) or len(ratio.args) != 2:
        return False
    if not isinstance(value, Op | Num | Sym):
        return False
    return same_value(value, Op("div", ratio.args))


def _clock(node: Op) -> bool:
    """`12:30`: the minutes have two digits."""
    second = literal(node.args[1]) if len(node.args) == 2 else None
    return (
        second is not None
        and second.decimals is None
        and (second.digits >= 2 or second.value == 0)
        and second.value < 60
    )


def _has_base(node: Node) -> bool:
    value = node.value if isinstance(node, Measure) else node
    value = value.args[0] if isinstance(value, Op) and value.name == "neg" else value
    return isinstance(value, Op) and value.name == "base"


def _same_base(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """`1011_2`: the digits and the base; the base may be missing on one side where units may."""
    left, right = _digits(gold), _digits(answer)
    if left is None or right is None:
        return False
    if left[1] is None and right[1] != 10:
        return False  # a decimal number is another one in another base
    if left[1] is not None and right[1] is not None and left[1] != right[1]:
        return False
    if (left[1] is None or right[1] is None) and not policy.optional_unit:
        return False
    return left[0] == right[0]


def _digits(node: Node) -> tuple[Fraction, Fraction | None] | None:
    sign = 1
    if isinstance(node, Op) and node.name == "neg":
        node, sign = node.args[0], -1
    if isinstance(node, Op) and node.name == "base":
        digits, base = literal(node.args[0]), literal(node.args[1])
        return (sign * digits.value, base.value) if digits is not None and base is not None else None
    number = literal(node)
    return (sign * number.value, None) if number is not None else None


def _unit_of_letters(node: Node, other: Node) -> Node:
    """`5 m` where the other side has a unit: the letters behind the number are that unit."""
    if not isinstance(other, Measure) or not isinstance(node, Op) or node.name != "mul":
        return node
    letters = [arg.name for arg in node.args if isinstance(arg, Sym)]
    numbers = [arg for arg in node.args if not isinstance(arg, Sym)]
    if numbers and letters and "".join(letters).lower() == other.unit and node.args[: len(numbers)] == tuple(numbers):
        value = numbers[0] if len(numbers) == 1 else Op("mul", tuple(numbers))
        return Measure(value, other.unit)
    return node
