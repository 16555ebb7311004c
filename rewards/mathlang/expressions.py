r"""Expressions: recursive descent over tokens, linear in their number, with a bound on the depth."""

from __future__ import annotations

from fractions import Fraction

from reasonrl.rewards.mathlang.lexer import Token, Unreadable, joined, number
from reasonrl.rewards.mathlang.tables import names
from reasonrl.rewards.mathlang.tree import Node, Num, Op, Sym

_MINUS_ONE = Op("neg", (Num(Fraction(1), None, 1),))
MAX_DEPTH = 150
"""Calls of rules inside one another; a bracket in a bracket is five of them."""

RELATIONS = names(
    """le ge ne approx in notin subset subseteq supset supseteq to equiv sim cong propto perp parallel Rightarrow
    Leftrightarrow ni ll gg prec succ models vdash leftarrow Leftarrow notsubset nsubseteq"""
)
ENDERS = RELATIONS | names("cup cap setminus pm mp choose mod pmod bmod \\")


class ExpressionParser:
    """Reads sums, products and powers; `items` and `relation` come from the parser of answers."""

    def __init__(self, found: list[Token]) -> None:
        self.tokens = found
        self.place = 0
        self.depth = 0
        self.bars = 0
        self.bound: set[str] = set()

    # -- tokens -------------------------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def value(self, ahead: int = 0) -> str:
        """The next token's content if it is a sign or a command, else the empty string."""
        token = self.peek(ahead)
        return token.value if token is not None and token.kind in ("sym", "cmd") else ""

    def take(self, value: str) -> bool:
        if self.value() == value:
            self.place += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.take(value):
            raise Unreadable(f"{value!r} was expected")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    # -- what the parser of answers gives -----------------------------------------------------------------------

    def bracketed(self, closing: tuple[str, ...]) -> tuple[list[Node], str]:
        """The items up to a closing sign, and that sign."""
        raise NotImplementedError

    def environment(self, name: str) -> Node:
        """What stands between `\\begin` and `\\end`."""
        raise NotImplementedError

    # -- sums and products --------------------------------------------------------------------------------------

    def sum(self) -> Node:
        self.deeper()
        terms: list[Node] = []
        sign = self.sign()
        first = self.term()
        terms.append(signed(sign, first))
        while (name := self.value()) in ("+", "-", "pm", "mp"):
            if name in ("pm", "mp"):
                self.place += 1
                terms.append(Op(name, (self.term(),)))
            else:
                terms.append(signed(self.sign(), self.term()))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Op("add", tuple(terms))

    def sign(self) -> str:
        """Signs in a row, as one: `--` is plus."""
        sign = "+"
        while (name := self.value()) in ("+", "-", "pm", "mp"):
            self.place += 1
            if name in ("pm", "mp"):
                return name if sign == "+" else ("mp" if name == "pm" else "pm")
            sign = sign if name == "+" else ("-" if sign == "+" else "+")
        return sign

    def term(self) -> Node:
        mixed = self._mixed()
        left = Op("deg", (mixed,)) if mixed is not None and self.take("degree") else mixed or self.factor()
        factors = [left]
        while True:
            name = self.value()
            if name == "*":
                self.place += 1
                factors.append(signed(self.sign(), self.factor()))
            elif name == "/":
                self.place += 1
                top = factors[0] if len(factors) == 1 else Op("mul", tuple(factors))
                factors = [Op("div", (top, signed(self.sign(), self.factor())))]
            elif name == "(" and not isinstance(factors[-1], Sym) and self.condition():
                continue
            elif self.starts_factor():
                token = self.peek()
                if token is not None and token.kind == "num" and isinstance(factors[-1], Num):
                    raise Unreadable("two numbers side by side")
                factors.append(self.factor())
            else:
                return factors[0] if len(factors) == 1 else Op("mul", tuple(factors))

    def starts_factor(self) -> bool:
        token = self.peek()
        if token is None or token.kind in ("word", "unit", "sep", "end", "row"):
            return False
        if token.kind in ("num", "let", "begin"):
            return True
        name = token.value
        if token.kind == "cmd":
            return name not in ENDERS and name != "degree" and name not in ("rfloor", "rceil", "rangle")
        return name in ("(", "[", "{", "\\{") or (name == "|" and self.bars == 0)

    def _mixed(self) -> Node | None:
        """A mixed number: a whole number, then a proper fraction of whole numbers."""
        whole = self.peek()
        if whole is None or whole.num is None or whole.num.decimals is not None or whole.num.value.denominator != 1:
            return None
        top = bottom = None
        after = 0
        second = self.peek(1)
        if second is not None and second.kind == "num" and self.value(2) == "/":
            third, fourth = self.peek(3), self.value(4)
            if third is not None and third.num is not None and fourth not in ("^", "!"):
                top, bottom, after = second.num, third.num, 4
        elif self.value(1) == "frac":
            top, bottom, after = self._plain_fraction(2)
        if top is None or bottom is None or top.decimals is not None or bottom.decimals is not None:
            return None
        if not 0 < top.value < bottom.value or top.value.denominator != 1 or bottom.value.denominator != 1:
            if second is not None and second.kind == "num":
                raise Unreadable("two numbers side by side")
            return None
        self.place += after
        return Num(whole.num.value + top.value / bottom.value, None, 0)

    def _plain_fraction(self, ahead: int) -> tuple[Num | None, Num | None, int]:
        found: list[Num] = []
        while len(found) < 2:
            token = self.peek(ahead)
            if token is not None and token.value == "{" and self.value(ahead + 2) == "}":
                inner = self.peek(ahead + 1)
                if inner is None or inner.num is None:
                    return None, None, 0
                found.append(inner.num)
                ahead += 3
            elif (
                token is not None
                and token.kind == "num"
                and len(token.value) == 2 - len(found)
                and token.value.isdigit()
            ):
                found.extend(number(digit) for digit in token.value)
                ahead += 1
            else:
                return None, None, 0
        return found[0], found[1], ahead

    # -- powers and what hangs on a factor ----------------------------------------------------------------------

    def factor(self) -> Node:
        self.deeper()
        node = self.primary()
        while True:
            name = self.value()
            if name == "!":
                self.place += 1
                node = Op("fact2" if self.take("!") else "fact", (node,))
            elif name == "^":
                self.place += 1
                node = self._raised(node)
            elif name == "%":
                self.place += 1
                node = Op("percent", (node,))
            elif name == "degree":
                self.place += 1
                node = Op("deg", (node,))
            elif name == "_":
                node = self._subscripted(node)
            elif name == "'":
                self.place += 1
                node = Sym(node.name + "'") if isinstance(node, Sym) else Op("prime", (node,))
            else:
                self.depth -= 1
                return node

    def _raised(self, base: Node) -> Node:
        if self.take("circ") or self.take("degree"):
            return Op("deg", (base,))
        if self.value() == "{":
            inner = self.value(1)
            if inner in ("circ", "degree") and self.value(2) == "}":
                self.place += 3
                return Op("deg", (base,))
            word = self.peek(1)
            if (
                word is not None
                and word.kind == "word"
                and self.value(2) == "}"
                and word.value in ("th", "st", "nd", "rd")
            ):
                self.place += 3
                return base
            ordinal = "".join(token.value for token in self.tokens[self.place + 1 : self.place + 3])
            if ordinal in ("th", "st", "nd", "rd") and self.value(3) == "}" and isinstance(base, Num):
                self.place += 4
                return base
            primes = 0
            while self.value(1 + primes) in ("prime", "'"):
                primes += 1
            if primes and self.value(1 + primes) == "}":
                self.place += primes + 2
                return self.primed(base, primes)
        if self.take("prime"):
            return self.primed(base, 1)
        word = self.peek()
        if word is not None and word.kind == "word" and word.value in ("th", "st", "nd", "rd"):
            self.place += 1
            return base
        exponent = self.exponent()
        if isinstance(base, Sym) and base.name in ("f", "g", "h") and self.value() == "(" and exponent == _MINUS_ONE:
            return self.applied(base.name + "^-1")
        if isinstance(base, Sym) and base.name.startswith("C_") and isinstance(exponent, Num):
            top = base.name[2:]
            if top.isdigit() and len(top) < 7 and int(top) > 2 and int(top) >= exponent.value >= 0:
                return Op("binom", (number(top), exponent))  # C_{10}^{3}
        return Op("pow", (base, exponent))

    def primed(self, base: Node, primes: int) -> Node:
        """A derivative: a letter keeps its strokes in its name, and is a function where a bracket follows."""
        if not isinstance(base, Sym):
            return Op("prime", (base,))
        name = base.name + "'" * primes
        return self.applied(name) if self.value() == "(" else Sym(name)

    def applied(self, name: str) -> Node:
        """A function by name, before its bracket."""
        raise NotImplementedError

    def exponent(self) -> Node:
        sign = self.sign()
        if self.value() == "{":
            return signed(sign, self.group())
        self.deeper()
        node = self.primary()
        while self.take("^"):
            node = self._raised(node)
        if self.value() == "!" and sign == "+" and isinstance(node, Num):
            pass  # 2^3! is (2^3)! to nobody and 2^{3!} to few; the sign is read by the factor
        self.depth -= 1
        return signed(sign, node)

    def _subscripted(self, node: Node) -> Node:
        self.place += 1
        found = self.script()
        name = joined(found).rstrip(".")
        if isinstance(node, Sym):
            return Sym(f"{node.name}_{name}")
        if isinstance(node, Num) and name.isdigit() and node.decimals is None:
            return Op("base", (node, Num(Fraction(int(name)), None, len(name))))
        raise Unreadable("a subscript on an expression")

    def script(self) -> list[Token]:
        """The tokens of a sub- or superscript; braces are taken off."""
        if self.value() != "{":
            token = self.peek()
            if token is None:
                raise Unreadable("a subscript was expected")
            self.place += 1
            return [token]
        start, depth = self.place, 0
        while (token := self.peek()) is not None:
            self.place += 1
            if token.kind == "sym":
                depth += (token.value == "{") - (token.value == "}")
                if depth == 0:
                    return self.tokens[start + 1 : self.place - 1]
        raise Unreadable("an open brace")

    def condition(self) -> bool:
        """Skips a condition in brackets behind a value, `(k \\in Z)` or `(x > 0)`; False if none follows."""
        raise NotImplementedError

    # -- what the parser of commands gives ------------------------------------------------------------------------

    def primary(self) -> Node:
        """One factor without what hangs on it: a number, a letter, a bracket, a command with its arguments."""
        raise NotImplementedError

    def group(self) -> Node:
        """A group in braces."""
        raise NotImplementedError

    def braces(self) -> Node:
        """A set, after its opening brace."""
        raise NotImplementedError


def signed(sign: str, node: Node) -> Node:
    """A tree with a sign before it."""
    if sign == "+":
        return node
    if sign == "-":
        return Op("neg", (node,))
    return Op(sign, (node,))
