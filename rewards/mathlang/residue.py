r"""The value of a tree modulo a prime of 64 bits, at letters chosen by their names.

A rational function is equal to another if and (but for one case in 10^18) only if the residues are. What is no rational
function (a root, a sine, a huge factorial, an integral, a matrix) turns into a number made of its name and the residues
of its arguments: equal residues then still prove that two trees are the same, different ones prove nothing. Nothing
here grows: every power is taken modulo the prime.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from zlib import crc32

from reasonrl.rewards.mathlang.exact import NotExact, exact, power
from reasonrl.rewards.mathlang.tree import Matrix, Measure, Named, Node, Num, Op, Rel, Seq, Sym, Text

PRIME = 18_446_744_073_709_551_557
_I = pow(next(g for g in range(2, 50) if pow(g, (PRIME - 1) // 2, PRIME) == PRIME - 1), (PRIME - 1) // 4, PRIME)
_FACTORIALS = 3_000


class Undefined(Exception):
    """A division by zero."""


class Residues:
    """Evaluates trees; `pure` says afterwards whether everything so far was a rational function.

    Args:
        salt: another salt takes other values of the letters.
    """

    def __init__(self, salt: int = 0) -> None:
        self.salt = salt
        self.pure = True
        self.bound: dict[str, int] = {}

    def __call__(self, node: Node) -> int:
        """The residue.

        Raises:
            Undefined: a division by zero.
        """
        if isinstance(node, Num):
            return _fraction(node.value)
        if isinstance(node, Sym):
            return self._symbol(node.name)
        if isinstance(node, Op):
            return self._operation(node.name, node.args)
        self.pure = False
        if isinstance(node, Seq):
            return self.mixed(f"seq{node.kind}", node.items)
        if isinstance(node, Rel):
            return self.mixed("rel" + ",".join(node.signs), node.sides)
        if isinstance(node, Matrix):
            return self.mixed(f"matrix{len(node.rows)}{node.det}", tuple(entry for row in node.rows for entry in row))
        if isinstance(node, Measure):
            return self.mixed(f"measure {node.unit}", (node.value,))
        if isinstance(node, Named):
            return self.mixed(f"named {node.name}", (node.value,))
        assert isinstance(node, Text)
        return _named(f"text {node.words}", 0)

    def _symbol(self, name: str) -> int:
        if name == "i":
            return _I
        if name in self.bound:
            return self.bound[name]
        if name == "infty":
            self.pure = False
        return _named(name, self.salt)

    def _operation(self, name: str, args: tuple[Node, ...]) -> int:
        if name == "add":
            return sum([self(arg) for arg in args]) % PRIME
        if name == "mul":
            product = 1
            for arg in args:
                product = product * self(arg) % PRIME
            return product
        if name == "div":
            return self(args[0]) * _inverse(self(args[1])) % PRIME
        if name == "neg":
            return -self(args[0]) % PRIME
        if name == "pow":
            return self._power(args[0], args[1])
        if name == "root":
            return self._power(args[0], Op("div", (Num(Fraction(1), None, 1), args[1])))
        if name == "percent":
            return self(args[0]) * _inverse(100) % PRIME
        if name == "fact":
            return self._factorial(args[0])
        if name == "sum" or name == "prod":
            return self._ranged(name, args)
        self.pure = False
        if name == "abs":  # |a - b| and |b - a|
            inner = self(args[0])
            return self._mix("abs", [min(inner, PRIME - inner)])
        return self.mixed(name, args)

    def mixed(self, name: str, args: tuple[Node, ...]) -> int:
        return self._mix(name, [self(arg) for arg in args])

    def _mix(self, name: str, values: list[int]) -> int:
        mixed = crc32(name.encode("utf-8", "surrogatepass")) + 977
        for value in values:
            mixed = pow(mixed * 0x9E3779B97F4A7C15 + value + 0x7F4A7C15, 5, PRIME)
        return mixed

    def _power(self, base: Node, exponent: Node) -> int:
        try:
            times = exact(exponent)
        except NotExact:
            times = None
        if times is not None and times.denominator == 1:
            value = self(base)
            if times < 0:
                return pow(_inverse(value), -int(times), PRIME)
            if value == 0 and times == 0:
                raise Undefined
            return pow(value, int(times), PRIME)
        self.pure = False
        if times is not None:
            try:  # 4^{1/2}
                return _fraction(power(exact(base), times))
            except NotExact:
                return self._mix("pow", [self(base), _fraction(times)])
        return self._mix("pow", [self(base), self(exponent)])

    def _factorial(self, arg: Node) -> int:
        try:
            value = exact(arg)
        except NotExact:
            self.pure = False
            return self.mixed("fact", (arg,))
        if value.denominator != 1 or not 0 <= value <= _FACTORIALS:
            self.pure = False
            return self.mixed("fact", (arg,))
        product = 1
        for factor in range(2, int(value) + 1):
            product = product * factor % PRIME
        return product

    def _ranged(self, name: str, args: tuple[Node, ...]) -> int:
        index, low, high, body = args
        assert isinstance(index, Sym)
        self.pure = False
        ends = [self(low), self(high)]
        shadowed = self.bound.get(index.name)
        self.bound[index.name] = _named(f"index {len(self.bound)}", self.salt)
        value = self(body)
        if shadowed is None:
            del self.bound[index.name]
        else:
            self.bound[index.name] = shadowed
        return self._mix(name, [*ends, value])


@lru_cache(maxsize=4_096)
def _named(name: str, salt: int) -> int:
    return pow(
        crc32(name.encode("utf-8", "surrogatepass")) * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03 + 12_345, 7, PRIME
    )


def _inverse(value: int) -> int:
    if value == 0:
        raise Undefined
    return pow(value, -1, PRIME)


def _fraction(value: Fraction) -> int:
    if value.denominator == 1:
        return value.numerator % PRIME
    return value.numerator * _inverse(value.denominator % PRIME) % PRIME
