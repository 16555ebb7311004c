"""Exact rational values, with a bound on the size of every intermediate number."""

from __future__ import annotations

import math
from fractions import Fraction

from reasonrl.rewards.mathlang.tree import Node, Num, Op

MAX_BITS = 20_000
MAX_FACTORIAL = 1_500


class NotExact(Exception):
    """A tree that has no rational value, or one too large to be held."""


def exact(node: Node) -> Fraction:
    """The rational value of a tree.

    Raises:
        NotExact: it has none, it is not defined, or it has more than MAX_BITS bits.
    """
    if isinstance(node, Num):
        return node.value
    if not isinstance(node, Op):
        raise NotExact
    name = node.name
    if name == "add":
        return _bounded(sum((exact(arg) for arg in node.args), Fraction(0)))
    if name == "mul":
        product = Fraction(1)
        for arg in node.args:
            product = _bounded(product * exact(arg))
        return product
    if name == "div":
        bottom = exact(node.args[1])
        if bottom == 0:
            raise NotExact
        return _bounded(exact(node.args[0]) / bottom)
    if name == "neg":
        return -exact(node.args[0])
    if name == "pow":
        return power(exact(node.args[0]), exact(node.args[1]))
    if name == "root":
        index = exact(node.args[1])
        if index == 0:
            raise NotExact
        return power(exact(node.args[0]), 1 / index)
    if name == "fact":
        return Fraction(math.factorial(_small(exact(node.args[0]))))
    if name == "binom":
        return _bounded(Fraction(math.comb(_small(exact(node.args[0])), _small(exact(node.args[1])))))
    if name == "remainder":
        return _remainder(node.args[0], exact(node.args[1]))
    if name == "abs":
        return abs(exact(node.args[0]))
    if name == "percent":
        return exact(node.args[0]) / 100
    if name in ("floor", "ceil"):
        value = exact(node.args[0])
        return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
    raise NotExact


def _remainder(node: Node, divisor: Fraction) -> Fraction:
    """`7^{100} \\bmod 10`, the power never written out."""
    if divisor.denominator != 1 or not 0 < divisor < 1 << 64:
        raise NotExact
    if isinstance(node, Op) and node.name == "pow":
        base, exponent = exact(node.args[0]), exact(node.args[1])
        if base.denominator == exponent.denominator == 1 and exponent >= 0:
            return Fraction(pow(int(base), int(exponent), int(divisor)))
    value = exact(node)
    if value.denominator != 1:
        raise NotExact
    return value % divisor


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """A power with a rational value of bounded size.

    Raises:
        NotExact: it is irrational, undefined or too large.
    """
    if exponent.denominator == 1:
        times = int(exponent)
        bits = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
        if base in (0, 1, -1):
            if base == 0 and times <= 0:
                raise NotExact
            return base if times % 2 or base != -1 else Fraction(1)
        if abs(times) > MAX_BITS or bits * abs(times) > MAX_BITS:
            raise NotExact
        return base**times
    index = exponent.denominator
    if index > 64 or base < 0:
        raise NotExact
    top, bottom = _whole_root(base.numerator, index), _whole_root(base.denominator, index)
    return power(Fraction(top, bottom), Fraction(exponent.numerator))


def _whole_root(number: int, index: int) -> int:
    if number.bit_length() > 4_000:
        raise NotExact
    if index == 2:
        root = math.isqrt(number)
    else:
        low, high = 0, 1 << (number.bit_length() // index + 1)
        while low < high:
            middle = (low + high + 1) // 2
            if middle**index <= number:
                low = middle
            else:
                high = middle - 1
        root = low
    if root**index != number:
        raise NotExact
    return root


def _small(value: Fraction) -> int:
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise NotExact
    return int(value)


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NotExact
    return value
