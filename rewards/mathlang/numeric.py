"""Values in sixty digits at points of our choosing, with every magnitude bounded before it is computed.

Real arithmetic first: a square root or a logarithm of a negative number is not defined there, an odd root is the real
one. Complex arithmetic with principal branches where the tree has an i, or where no real point is left.
"""

from __future__ import annotations

import importlib
import threading
from fractions import Fraction
from functools import cache
from typing import Any
from zlib import crc32

from reasonrl.rewards.mathlang.exact import NotExact, exact
from reasonrl.rewards.mathlang.tree import Node, Num, Op, Sym

DIGITS = 60
_LARGEST_EXPONENT = 1e6
_LARGEST_ANGLE = 1e12
_MAX_TERMS = 200
_MAX_WORK = 6_000


class NoValue(Exception):
    """A tree without a value at this point: not defined there, too large, or of a kind that has none."""


_local = threading.local()


def context() -> Any:
    """This thread's own mpmath context of DIGITS digits."""
    if not hasattr(_local, "context"):
        _local.context = importlib.import_module("mpmath").ctx_mp.MPContext()
        _local.context.dps = DIGITS
    return _local.context


class Numbers:
    """Evaluates trees at one point.

    Args:
        point: letters and their values (exact).
        complex_values: complex arithmetic.
        natural_log: `log` without a base is the natural one; else that to base ten.

    Attributes:
        scale: the largest term of any sum so far, by which the noise of a cancellation is judged.
    """

    def __init__(self, point: dict[str, Fraction], complex_values: bool, natural_log: bool = True) -> None:
        self.mp = context()
        self.complex = complex_values
        self.natural_log = natural_log
        self.point = {name: self._fraction(value) for name, value in point.items()}
        self.scale = 0
        self.work = 0

    def _fraction(self, value: Fraction) -> Any:
        return self.mp.mpf(value.numerator) / value.denominator

    def __call__(self, node: Node) -> Any:
        """The value, an mpf or an mpc.

        Raises:
            NoValue: there is none.
        """
        self.work += 1
        if self.work > _MAX_WORK:
            raise NoValue("too much work")
        if isinstance(node, Num):
            return self._fraction(node.value)
        if isinstance(node, Sym):
            return self._symbol(node.name)
        if not isinstance(node, Op):
            raise NoValue("not a number")
        rule = _RULES.get(node.name)
        if rule is None:
            raise NoValue(f"{node.name} has no value here")
        try:
            return rule(self, node.args)
        except (NotExact, ZeroDivisionError, ValueError, OverflowError, TypeError, self.mp.NoConvergence) as error:
            raise NoValue(f"{node.name} is not defined") from error

    def _symbol(self, name: str) -> Any:
        if name in self.point:
            return self.point[name]
        if name == "pi":
            return +self.mp.pi
        if name == "e":
            return +self.mp.e
        if name == "i" and self.complex:
            return self.mp.mpc(0, 1)
        raise NoValue(f"{name} has no value")

    # -- arithmetic ---------------------------------------------------------------------------------------------

    def add(self, args: tuple[Node, ...]) -> Any:
        total = self.mp.mpf(0)
        for arg in args:
            value = self(arg)
            size = abs(value)
            if size > self.scale:
                self.scale = size
            total += value
        return total

    def mul(self, args: tuple[Node, ...]) -> Any:
        product = self.mp.mpf(1)
        for arg in args:
            product *= self(arg)
        return product

    def div(self, args: tuple[Node, ...]) -> Any:
        top, bottom = self(args[0]), self(args[1])
        if bottom == 0 or abs(bottom) < self.scale * self.mp.mpf(10) ** -(DIGITS - 10):
            raise NoValue("division by zero")
        return top / bottom

    def neg(self, args: tuple[Node, ...]) -> Any:
        return -self(args[0])

    def power(self, args: tuple[Node, ...]) -> Any:
        base = self(args[0])
        try:
            exponent: Fraction | None = exact(args[1])
        except NotExact:
            exponent = None
        return self._raise(base, exponent, None if exponent is not None else self(args[1]))

    def root(self, args: tuple[Node, ...]) -> Any:
        base = self(args[0])
        try:
            index = exact(args[1])
        except NotExact:
            return self._raise(base, None, 1 / self(args[1]))
        if index == 0:
            raise NoValue("a root of index zero")
        return self._raise(base, 1 / index, None)

    def _raise(self, base: Any, exact_exponent: Fraction | None, value: Any) -> Any:
        mp = self.mp
        exponent = value if exact_exponent is None else self._fraction(exact_exponent)
        whole = exact_exponent is not None and exact_exponent.denominator == 1
        if not whole and value is not None and mp.isint(value):
            whole = True
        if base == 0:
            if mp.re(exponent) > 0:
                return mp.mpf(0)
            raise NoValue("a power of zero")
        if abs(exponent) * (1 + abs(mp.log(abs(base)))) > _LARGEST_EXPONENT:
            raise NoValue("too large")
        if self.complex or mp.im(base) != 0 or mp.im(exponent) != 0:
            return mp.power(base, int(mp.re(exponent)) if whole else exponent)
        if whole:
            return mp.power(base, int(exponent))
        if base > 0:
            if exact_exponent == Fraction(1, 2):
                return mp.sqrt(base)
            return mp.power(base, exponent)
        if exact_exponent is not None and exact_exponent.denominator % 2:
            size = mp.power(-base, exponent)
            return -size if exact_exponent.numerator % 2 else size
        raise NoValue("a power of a negative number")

    # -- functions ----------------------------------------------------------------------------------------------

    def angle(self, arg: Node) -> Any:
        value = self(arg)
        if abs(value) > _LARGEST_ANGLE or abs(self.mp.im(value)) > _LARGEST_EXPONENT:
            raise NoValue("too large")
        return value

    def log(self, args: tuple[Node, ...]) -> Any:
        value = self(args[0])
        if value == 0 or (not self.complex and value < 0):
            raise NoValue("a logarithm")
        return self.mp.log(value)

    def free_log(self, args: tuple[Node, ...]) -> Any:
        return self.log(args) if self.natural_log else self.log(args) / self.mp.log(10)

    def log_base(self, args: tuple[Node, ...]) -> Any:
        bottom = self.log((args[0],))
        if bottom == 0:
            raise NoValue("a logarithm to base one")
        return self.log((args[1],)) / bottom

    def unit_interval(self, arg: Node) -> Any:
        value = self(arg)
        if not self.complex and abs(value) > 1:
            raise NoValue("outside [-1, 1]")
        return value

    def absolute(self, args: tuple[Node, ...]) -> Any:
        return abs(self(args[0]))

    def gamma(self, args: tuple[Node, ...]) -> Any:
        value = self(args[0])
        if self.complex or not 0 <= value < 2_000:
            raise NoValue("a factorial")
        return self.mp.gamma(value + 1)

    def binomial(self, args: tuple[Node, ...]) -> Any:
        top, bottom = self(args[0]), self(args[1])
        if self.complex or not 0 <= bottom <= top < 2_000:
            raise NoValue("a binomial coefficient")
        return self.mp.binomial(top, bottom)

    def whole(self, arg: Node, rule: str) -> Any:
        value = self(arg)
        if self.complex or abs(value) > _LARGEST_ANGLE:
            raise NoValue(rule)
        return getattr(self.mp, rule)(value)

    def call(self, args: tuple[Node, ...]) -> Any:
        """An unknown function: some fixed smooth one, chosen by its name and the number of its arguments."""
        seed = crc32(f"{args[0]} {len(args)}".encode("utf-8", "surrogatepass"))
        total = self.mp.mpf(seed % 89 + 3) / 7
        for place, arg in enumerate(args[1:], 1):
            value = self.angle(arg)
            total += self.mp.cos(value * (self.mp.mpf(seed % 101 + 11) / 53) + place) * (place + 1)
            total += value * value / (seed % 13 + 2)
        return total

    def ranged(self, args: tuple[Node, ...], product: bool) -> Any:
        index, low, high, body = args
        try:
            start, stop = exact(low), exact(high)
        except NotExact as error:
            raise NoValue("a sum without ends") from error
        if start.denominator != 1 or stop.denominator != 1 or stop - start > _MAX_TERMS or not isinstance(index, Sym):
            raise NoValue("a sum of that length")
        total = self.mp.mpf(1 if product else 0)
        outer = self.point
        for value in range(int(start), int(stop) + 1):
            self.point = outer | {index.name: self.mp.mpf(value)}
            total = total * self(body) if product else total + self(body)
        self.point = outer
        return total

    def extreme(self, args: tuple[Node, ...], largest: bool) -> Any:
        values = [self(arg) for arg in args]
        if self.complex or not values:
            raise NoValue("an extreme")
        return max(values) if largest else min(values)


def _plain(name: str) -> Any:
    return lambda self, args: getattr(self.mp, name)(self.angle(args[0]))


def _one_over(name: str) -> Any:
    def rule(self: Numbers, args: tuple[Node, ...]) -> Any:
        value = getattr(self.mp, name)(self.angle(args[0]))
        if abs(value) < self.mp.mpf(10) ** -(DIGITS - 10):
            raise NoValue("a pole")
        return 1 / value

    return rule


def _tangent(self: Numbers, args: tuple[Node, ...], cotangent: bool = False) -> Any:
    angle = self.angle(args[0])
    top, bottom = self.mp.sin(angle), self.mp.cos(angle)
    if cotangent:
        top, bottom = bottom, top
    if abs(bottom) < self.mp.mpf(10) ** -(DIGITS - 10):
        raise NoValue("a pole")
    return top / bottom


def _hyperbolic(name: str) -> Any:
    def rule(self: Numbers, args: tuple[Node, ...]) -> Any:
        value = self(args[0])
        if abs(value) > _LARGEST_EXPONENT:
            raise NoValue("too large")
        return getattr(self.mp, name)(value)

    return rule


_RULES: dict[str, Any] = {
    "add": Numbers.add,
    "mul": Numbers.mul,
    "div": Numbers.div,
    "neg": Numbers.neg,
    "pow": Numbers.power,
    "root": Numbers.root,
    "ln": Numbers.log,
    "log": Numbers.free_log,
    "logb": Numbers.log_base,
    "abs": Numbers.absolute,
    "norm": Numbers.absolute,
    "fact": Numbers.gamma,
    "binom": Numbers.binomial,
    "call": Numbers.call,
    "sin": _plain("sin"),
    "cos": _plain("cos"),
    "tan": _tangent,
    "cot": lambda self, args: _tangent(self, args, True),
    "sec": _one_over("cos"),
    "csc": _one_over("sin"),
    "arcsin": lambda self, args: self.mp.asin(self.unit_interval(args[0])),
    "arccos": lambda self, args: self.mp.acos(self.unit_interval(args[0])),
    "arctan": lambda self, args: self.mp.atan(self(args[0])),
    "arccot": lambda self, args: self.mp.pi / 2 - self.mp.atan(self(args[0])),
    "arcsec": lambda self, args: self.mp.acos(self.unit_interval(Op("div", (Num(Fraction(1), None, 1), args[0])))),
    "arccsc": lambda self, args: self.mp.asin(self.unit_interval(Op("div", (Num(Fraction(1), None, 1), args[0])))),
    "sinh": _hyperbolic("sinh"),
    "cosh": _hyperbolic("cosh"),
    "tanh": _hyperbolic("tanh"),
    "coth": _hyperbolic("coth"),
    "sech": _hyperbolic("sech"),
    "csch": _hyperbolic("csch"),
    "arcsinh": lambda self, args: self.mp.asinh(self(args[0])),
    "arccosh": lambda self, args: (
        self.mp.acosh(self(args[0])) if self.complex or self(args[0]) >= 1 else 1 / self.mp.mpf(0)
    ),
    "arctanh": lambda self, args: self.mp.atanh(self.unit_interval(args[0])),
    "deg": lambda self, args: self(args[0]) * self.mp.pi / 180,
    "percent": lambda self, args: self(args[0]) / 100,
    "remainder": lambda self, args: self._fraction(exact(Op("remainder", args))),
    "ratio": lambda self, args: self.div(args) if len(args) == 2 else 1 / self.mp.mpf(0),
    "floor": lambda self, args: self.whole(args[0], "floor"),
    "ceil": lambda self, args: self.whole(args[0], "ceil"),
    "sgn": lambda self, args: self.mp.sign(self(args[0])),
    "sum": lambda self, args: self.ranged(args, False),
    "prod": lambda self, args: self.ranged(args, True),
    "max": lambda self, args: self.extreme(args, True),
    "min": lambda self, args: self.extreme(args, False),
    "Re": lambda self, args: self.mp.re(self(args[0])),
    "Im": lambda self, args: self.mp.im(self(args[0])),
}


@cache
def sample(name: str, draw: int) -> Fraction:
    """The value of a letter in a draw: always the same, in a range that the draw sets."""
    share = Fraction(
        pow(crc32(f"{name} {draw}".encode("utf-8", "surrogatepass")) + 7_919, 5, 2_147_483_647), 2_147_483_647
    )
    low, high = _RANGES[draw % len(_RANGES)]
    value = low + (high - low) * share
    return value if draw < len(_RANGES) else Fraction(int(value * 4 + 1))


_RANGES = ((Fraction(1, 10), Fraction(9, 10)), (Fraction(11, 10), Fraction(29, 10)), (Fraction(-2), Fraction(2)))
_RANGES += ((Fraction(3), Fraction(8)), (Fraction(-1), Fraction(-1, 10)), (Fraction(12), Fraction(40)))  # type: ignore[assignment]
_RANGES += ((Fraction(-9), Fraction(-2)), (Fraction(2, 100), Fraction(5, 10)))  # type: ignore[assignment]
REAL_DRAWS = len(_RANGES)
WHOLE_DRAWS = 6
