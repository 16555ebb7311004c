r"""Exact numbers: integers, decimals, fractions, mixed numbers, percent, thousands marks, powers, repeating decimals,
with an optional unit.

Everything is a `fractions.Fraction`; nothing is rounded, and nothing is evaluated whose size is not bounded beforehand.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_BITS = 40_000
_MAX_FACTORIAL = 3_000
_MAX_LENGTH = 1_000

_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_MIXED = re.compile(r"([+-]?)\s*(\d+)\s*(?:\s(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\}|\s\\frac\{(\d+)\}\{(\d+)\})")
_REPEATING = re.compile(r"([+-]?)\s*(\d*)\.(\d*)\s*\\overline\s*\{(\d+)\}")
_DECIMAL = re.compile(r"([+-]?)\s*(\d*)\.(\d+)")
_UNIT_WORD = (
    r"(?:\\text\s*\{\s*[A-Za-z][^{}\\]*\}|[A-Za-z]{3,}|cm|mm|km|kg|mg|ml|ft|in|yd|hr|min|sec|kmph|mph|am|pm|USD)"
)
_UNIT = re.compile(rf"\s*((?:{_UNIT_WORD}|\s|\.|/(?=\s*[A-Za-z\\])|\^\{{?[23]\}}?)+)$")
_NOT_A_UNIT = re.compile(
    r"\b(?:or|and|pi|sqrt|sin|cos|tan|log|exp|to|not|plus|minus|times|frac|over|mod|infty)\b", re.IGNORECASE
)
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,4})(?![A-Za-z\d]))?|(\\frac|[-+*/^!(){}]))")


@dataclass(frozen=True)
class Quantity:
    """A number with what stood around it.

    Attributes:
        value: the exact number; a percent sign is not applied to it.
        unit: the unit's words in lower case, without a plural s; empty if there is none.
        percent: a percent sign followed.
        decimals: digits after the point if it is written as a decimal, else None.
        significant: significant digits of a decimal; 0 otherwise.
        computed: it is a sum, difference or product left unevaluated (a number times a power of ten is not).
    """

    value: Fraction
    unit: str = ""
    percent: bool = False
    decimals: int | None = None
    significant: int = 0
    computed: bool = False


def parse_quantity(text: str) -> Quantity | None:
    """The number that a normalised text is, the whole of it; None if it is not one, or too large to hold exactly."""
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH:
        return None
    percent = re.search(r"\s*(?:\\?%|\\text\s*\{\s*(?:percent|\\?%)\s*\}|\bpercent)$", text)
    if percent:
        text = text[: percent.start()].strip()
    unit = ""
    if text.endswith(r"^{\circ}"):
        text, unit = text[: -len(r"^{\circ}")].strip(), "degree"
    elif (
        (found := _UNIT.search(text))
        and not _NOT_A_UNIT.search(found.group(1))
        and not text[: found.start()].endswith("\\")
    ):
        unit, text = _unit_name(found.group(1)), text[: found.start()].strip()
    number = _number(text)
    if number is None:
        return None
    value, computed = number
    decimal = _DECIMAL.fullmatch(_THOUSANDS.sub(lambda run: run.group().replace(",", ""), text))
    decimals = len(decimal.group(3)) if decimal else None
    significant = len((decimal.group(2) + decimal.group(3)).lstrip("0")) if decimal else 0
    return Quantity(value, unit, percent is not None, decimals, significant, computed)


def rounds_to(exact: Fraction, decimals: int) -> set[Fraction]:
    """`exact` rounded to so many decimals, half up and half to even."""
    scaled = exact * 10**decimals
    floor, rest = divmod(scaled.numerator, scaled.denominator)
    doubled = 2 * rest - scaled.denominator
    whole = {floor, floor + 1} if doubled == 0 else {floor + (doubled > 0)}
    return {Fraction(number, 10**decimals) for number in whole}


def _number(text: str) -> tuple[Fraction, bool] | None:
    text = _THOUSANDS.sub(lambda run: run.group().replace(",", ""), text)
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, *parts = mixed.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if 0 < top < bottom:
            value = int(whole) + Fraction(top, bottom)
            return (-value if sign == "-" else value), False
        return None
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        sign, whole_part, start, period = repeating.groups()
        value = Fraction(
            int(whole_part + start + period or 0) - int(whole_part + start or 0),
            10 ** len(start) * (10 ** len(period) - 1),
        )
        return (-value if sign == "-" else value), False
    tokens = _tokens(text)
    if tokens is None:
        return None
    reader = _Reader(tokens)
    try:
        value = reader.sum()
    except (_NotANumber, ZeroDivisionError, RecursionError):
        return None
    return (value, reader.computed) if reader.done() else None


def _unit_name(text: str) -> str:
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).lower().replace(".", " ").split()
    return " ".join(word[:-1] if len(word) > 2 and word.endswith("s") else word for word in words)


class _NotANumber(Exception):
    pass


def _tokens(text: str) -> list[str | Fraction] | None:
    tokens: list[str | Fraction] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return None if text[place:].strip() else tokens
        digits, exponent, symbol = token.groups()
        if digits is not None:
            if len(digits) > 600 or (exponent and abs(int(exponent)) > 600):
                return None
            if tokens and (isinstance(tokens[-1], Fraction) or tokens[-1] in (")", "}", "!")):
                return None  # two numbers side by side are no product: `4 10/3`, `{2}3`
            value = Fraction(digits if not digits.endswith(".") else digits[:-1])
            tokens.append(value * Fraction(10) ** int(exponent or 0))
        else:
            tokens.append(symbol)
        place = token.end()
    return tokens


class _Reader:
    """Recursive descent over tokens; every result's size is checked before it is computed."""

    def __init__(self, tokens: list[str | Fraction]) -> None:
        self.tokens = tokens
        self.place = 0
        self.computed = False

    def done(self) -> bool:
        return self.place == len(self.tokens)

    def peek(self) -> str | Fraction | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self, symbol: str) -> bool:
        if self.peek() == symbol:
            self.place += 1
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise _NotANumber

    def sum(self) -> Fraction:
        value = self.product()
        while (symbol := self.peek()) in ("+", "-"):
            self.place += 1
            self.computed = True
            value = _bounded(value + self.product() if symbol == "+" else value - self.product())
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while (symbol := self.peek()) in ("*", "/"):
            self.place += 1
            if symbol == "*":
                start = self.place
                factor = self.signed()
                power_of_ten = self.tokens[start : start + 2] == [Fraction(10), "^"]
                self.computed = self.computed or not power_of_ten
                value = _bounded(value * factor)
            else:
                value = _bounded(value / self.signed())
        return value

    def signed(self) -> Fraction:
        if self.take("-"):
            return -self.signed()
        if self.take("+"):
            return self.signed()
        return self.power()

    def power(self) -> Fraction:
        base = self.atom()
        while self.take("!"):
            if base.denominator != 1 or not 0 <= base <= _MAX_FACTORIAL:
                raise _NotANumber
            base = Fraction(math.factorial(int(base)))
        if not self.take("^"):
            return base
        exponent = -self.atom() if self.take("-") else self.atom()
        if exponent.denominator != 1 or self.peek() == "^":
            raise _NotANumber
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits * abs(int(exponent)) > _MAX_BITS or abs(exponent) > _MAX_BITS:
            raise _NotANumber
        return base ** int(exponent)

    def atom(self) -> Fraction:
        token = self.peek()
        self.place += 1
        if isinstance(token, Fraction):
            return token
        if token == "(":
            value = self.sum()
            self.expect(")")
            return value
        if token == "{":
            value = self.sum()
            self.expect("}")
            return value
        if token == "\\frac":
            self.expect("{")
            top = self.sum()
            self.expect("}")
            self.expect("{")
            bottom = self.sum()
            self.expect("}")
            return _bounded(top / bottom)
        raise _NotANumber


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _NotANumber
    return value
