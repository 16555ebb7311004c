r"""Primaries: numbers, letters, brackets, and commands with their arguments."""

from __future__ import annotations

from fractions import Fraction

from reasonrl.rewards.mathlang.expressions import ENDERS, ExpressionParser, signed
from reasonrl.rewards.mathlang.lexer import Token, Unreadable, joined, number
from reasonrl.rewards.mathlang.tables import names
from reasonrl.rewards.mathlang.tree import Node, Num, Op, Seq, Sym

TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
PLAIN_FUNCTIONS = TRIGONOMETRIC | names(
    """arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh arctanh ln log log10
    log2 exp det tr arg sgn sign erf Re Im deg dim ker rank Var Cov"""
)
NAMED_FUNCTIONS = names("max min gcd lcm floor ceil ceiling abs")
_INVERSE = {name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
_ACCENTS = names("overline bar vec hat tilde dot ddot overleftrightarrow widebar underbar overarc wideparen")
_CONDITION_SIGNS = frozenset(["in", "<", ">", "le", "ge", "ne"])
_NAMING = frozenset(["angle", "triangle", "odot", "square", "measuredangle"])
_DIFFERENTIALS = (Sym("d"), Sym("partial"))
_NO_VALUE = names("boxed fbox stackrel color textcolor xcancel begin end item hline over")


class CommandParser(ExpressionParser):
    """Reads what expressions are made of."""

    # -- primaries ----------------------------------------------------------------------------------------------

    def primary(self) -> Node:
        token = self.peek()
        if token is None:
            raise Unreadable("an expression was expected")
        self.place += 1
        if token.kind == "num":
            assert token.num is not None
            return token.num
        if token.kind == "let":
            return self._letter(token)
        if token.kind == "begin":
            return self.environment(token.value)
        if token.kind == "cmd":
            return self._command(token.value)
        if token.kind == "sym":
            return self._bracket(token.value)
        raise Unreadable(f"{token.value!r} in an expression")

    def _letter(self, token: Token) -> Node:
        name = token.value
        while self.value() == "'":
            self.place += 1
            name += "'"
        if self.value() == "(" and (
            name[0] in "fghFGH" or (name == "C" and self._two_numbers()) or self._is_application(name)
        ):
            if (opaque := self._event(name)) is not None:
                return opaque
            self.place += 1
            items, _ = self.bracketed((")",))
            if name == "C" and len(items) == 2 and all(isinstance(item, Num) for item in items):
                return Op("binom", tuple(items))
            return Op("call", (Sym(name), *items))
        return Sym(name)

    def applied(self, name: str) -> Node:
        self.expect("(")
        items, _ = self.bracketed((")",))
        return Op("call", (Sym(name), *items))

    def condition(self) -> bool:
        depth, ahead, found = 0, 0, False
        letters: list[str] = []
        while (token := self.peek(ahead)) is not None and ahead < 24:
            depth += (token.value in ("(", "[", "{", "\\{")) - (token.value in (")", "]", "}", "\\}"))
            if depth == 0:
                break
            found = found or (depth == 1 and token.value in _CONDITION_SIGNS)
            letters.extend([token.value] if token.value == "in" or token.kind == "let" else [])
            ahead += 1
        if not found or self.value(ahead) != ")":
            return False
        self.bound.update(letters[: letters.index("in")] if "in" in letters else [])
        self.place += ahead + 1
        return True

    def _is_application(self, name: str) -> bool:
        """`P(x)`, `x(t) = …`, `T(10) = …`: a letter before a bracket with one letter or number is a function where it
        is a capital, or where an equals sign follows.
        """
        inner = self.peek(1)
        if inner is None:
            return False
        if self.value(2) == ")" and inner.kind in ("let", "num"):
            return (name[0].isupper() and inner.kind == "let") or self.value(3) == "="
        if not name[0].isupper():
            return False
        ahead, depth = 0, 0
        while (token := self.peek(ahead)) is not None and ahead < 12:
            depth += (token.value == "(") - (token.value == ")")
            ahead += 1
            if depth == 0:
                return self.value(ahead) == "="
        return False

    def _event(self, name: str) -> Node | None:
        """`P(A|B)`, `P(X = 1)`: a function of a condition, named by its text."""
        depth, ahead, found = 0, 0, False
        while (token := self.peek(ahead)) is not None and ahead < 16:
            depth += (token.value == "(") - (token.value == ")")
            found = found or token.value in ("|", "=", "<", ">", "le", "ge")
            ahead += 1
            if depth == 0:
                break
        if not found or depth:
            return None
        named = Sym(f"{name} {joined(self.tokens[self.place : self.place + ahead])}")
        self.place += ahead
        return named

    def _two_numbers(self) -> bool:
        """Whether `(5, 2)` follows."""
        kinds = [token.kind for token in self.tokens[self.place + 1 : self.place + 4]]
        return kinds == ["num", "sym", "num"] and self.value(2) == "," and self.value(4) == ")"

    def group(self) -> Node:
        """A group in braces, or the one token that stands for it."""
        self.expect("{")
        items, _ = self.bracketed(("}",))
        if len(items) != 1:
            raise Unreadable("a list in braces")
        return items[0]

    def argument(self) -> Node:
        """A command's argument: a group, a digit, a letter or a command."""
        token = self.peek()
        if token is None:
            raise Unreadable("an argument was expected")
        if token.value == "{" and token.kind == "sym":
            return self.group()
        if token.kind == "num" and token.value.isdigit() and len(token.value) > 1:
            self.tokens[self.place] = Token("num", token.value[1:], number(token.value[1:]), token.start)
            return number(token.value[0])
        self.deeper()
        node = self.primary()
        self.depth -= 1
        return node

    def _bracket(self, opening: str) -> Node:
        self.deeper()
        bars, self.bars = self.bars, 0
        try:
            return self._open(opening)
        finally:
            self.bars = bars
            self.depth -= 1

    def _open(self, opening: str) -> Node:
        if opening == "|":
            self.bars = 1
            inner = self.sum()
            self.expect("|")
            return Op("abs", (inner,))
        if opening == "\\|":
            inner = self.sum()
            self.expect("\\|")
            return Op("norm", (inner,))
        if opening == "\\{":
            return self.braces()
        if opening == "{":
            items, _ = self.bracketed(("}",))
            if len(items) == 1:
                return items[0]
            return Seq("{}", tuple(items))
        if opening in ("(", "["):
            items, closing = self.bracketed((")", "]"))
            kind = opening + closing
            if len(items) == 1 and kind in ("()", "[]"):
                return items[0]
            return Seq(kind, tuple(items))
        raise Unreadable(f"{opening!r} in an expression")

    def braces(self) -> Node:
        """A set: listed, or built by a condition."""
        items, _ = self.bracketed(("\\}",))
        return Seq("{}", tuple(items))

    # -- commands -----------------------------------------------------------------------------------------------

    def _command(self, name: str) -> Node:
        if name == "frac":
            top = self.argument()
            bottom = self.argument()
            if top in _DIFFERENTIALS and isinstance(bottom, Op) and bottom.args[0] in _DIFFERENTIALS:
                raise Unreadable("a derivative to be taken")
            return Op("div", (top, bottom))
        if name in ("sqrt", "cbrt"):
            return self._root(name)
        if name in PLAIN_FUNCTIONS or name in NAMED_FUNCTIONS:
            return self._function(name)
        if name == "binom":
            if self.take("("):
                items, _ = self.bracketed((")",))
                if len(items) != 2:
                    raise Unreadable("a binomial coefficient has two arguments")
                return Op("binom", tuple(items))
            top = self.argument()
            return Op("binom", (top, self.argument()))
        if name in ("lfloor", "lceil", "langle"):
            return self._paired(name)
        if name in _ACCENTS:
            inner = self.argument()
            base = inner.name if isinstance(inner, Sym) else joined_name(inner)
            return Sym(f"{'bar' if name == 'overline' else name}:{base}")
        if name in ("sum", "prod", "int", "iint", "iiint", "oint", "lim", "limsup", "liminf", "bigcup", "bigcap"):
            return self._large(name)
        if name in ("mathbb", "Bbb"):
            inner = self.argument()
            return Sym(f"set:{joined_name(inner)}")
        if name == "emptyset":
            return Seq("{}", ())
        if name == "ldots":
            return Sym("dots")
        if name in _NO_VALUE:
            raise Unreadable(f"\\{name} in an expression")
        if name in _NAMING:
            named = ""
            while (token := self.peek()) is not None and token.kind == "let" and token.value.isupper():
                named += token.value
                self.place += 1
            return Sym(f"{name} {named}")
        if name in ENDERS:
            raise Unreadable(f"\\{name} without a left side")
        return Sym(name)

    def _root(self, name: str) -> Node:
        index: Node = Num(Fraction(3 if name == "cbrt" else 2), None, 1)
        if self.value() == "[":
            self.place += 1
            items, _ = self.bracketed(("]",))
            if len(items) != 1:
                raise Unreadable("a root's index")
            index = items[0]
        token = self.peek()
        if token is not None and token.kind == "num":
            self.place += 1
            assert token.num is not None
            return Op("root", (token.num, index))
        return Op("root", (self.argument(), index))

    def _paired(self, name: str) -> Node:
        closing = {"lfloor": "rfloor", "lceil": "rceil", "langle": "rangle"}[name]
        self.deeper()
        bars, self.bars = self.bars, 0
        items, _ = self.bracketed((closing,))
        self.bars = bars
        self.depth -= 1
        if name == "langle":
            return Seq("()", tuple(items))
        if len(items) != 1:
            raise Unreadable(f"a list in \\{name}")
        return Op("floor" if name == "lfloor" else "ceil", tuple(items))

    def _function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        for _ in range(2):
            if self.value() == "_" and base is None:
                self.place += 1
                base = self.argument()
            elif self.value() == "^" and power is None:
                self.place += 1
                power = self.exponent()
        if (
            isinstance(power, Op)
            and power.name == "neg"
            and power.args == (Num(Fraction(1), None, 1),)
            and name in _INVERSE
        ):
            name, power = _INVERSE[name], None
        if name in ("abs", "floor", "ceil", "ceiling", "max", "min", "gcd", "lcm"):
            if not self.take("("):
                if name in ("max", "min", "gcd", "lcm"):
                    return Sym(name)
                raise Unreadable(f"{name} without brackets")
            items, _ = self.bracketed((")",))
            node: Node = Op("ceil" if name == "ceiling" else name, tuple(items))
        else:
            self.deeper()
            argument = self._function_argument(name)
            self.depth -= 1
            node = _applied(name, base, argument)
        return node if power is None else Op("pow", (node, power))

    def _function_argument(self, name: str) -> Node:
        """`\\sin(x) y` is sin(x) times y; `\\sin 2 \\pi x` takes the whole run; sums, functions and `*` end it."""
        if self.value() == "{":
            return self.group()
        if self.value() == "(":
            self.place += 1
            items, closing = self.bracketed((")",))
            if len(items) != 1:
                return Seq("(" + closing, tuple(items))
            return items[0]
        sign = self.sign()
        factors: list[Node] = []
        seen_letter = False
        while self.starts_factor() or (not factors and self.value() == "|"):
            token = self.peek()
            assert token is not None
            opens = token.value in ("(", "[", "{", "\\{")
            is_function = token.kind == "cmd" and (
                token.value in PLAIN_FUNCTIONS or token.value in ("sum", "prod", "int", "lim")
            )
            if factors and (is_function or (seen_letter and (opens or token.value in ("sqrt", "frac", "|")))):
                break
            if seen_letter and token.value == "e" and self.value(1) == "^":
                break
            factors.append(self.factor())
            seen_letter = (
                seen_letter
                or (token.kind == "let")
                or (token.kind == "cmd" and isinstance(factors[-1], Sym) and factors[-1].name != "pi")
            )
            if is_function or (token.value == "|" and len(factors) == 1):
                break
        if not factors:
            raise Unreadable(f"\\{name} of nothing")
        node = factors[0] if len(factors) == 1 else Op("mul", tuple(factors))
        if name in TRIGONOMETRIC and self.value() == "/" and factors[-1] == Sym("pi"):
            self.place += 1
            node = Op("div", (node, self.factor()))
        return signed(sign, node)

    def _large(self, name: str) -> Node:
        """A sum, a product, an integral or a limit with what it ranges over."""
        low: list[Token] = []
        high: Node | None = None
        for _ in range(2):
            if self.value() == "_":
                self.place += 1
                low = self.script()
            elif self.value() == "^":
                self.place += 1
                high = self.argument()
        self.deeper()
        body = self.term() if name not in ("int", "iint", "iiint", "oint") else self.sum()
        self.depth -= 1
        if (
            name in ("sum", "prod")
            and len(low) >= 3
            and low[0].kind == "let"
            and low[1].value == "="
            and high is not None
        ):
            inner = type(self)(low[2:])
            inner.depth = self.depth
            start = inner.sum()
            if inner.place != len(inner.tokens):
                raise Unreadable("the start of a sum")
            return Op(name, (Sym(low[0].value), start, high, body))
        below: Node = Sym("under:" + joined(low))
        return Op("large", (Sym(name), below, high if high is not None else Sym("dots"), body))


def _applied(name: str, base: Node | None, argument: Node) -> Node:
    if name == "log10":
        return Op("logb", (Num(Fraction(10), None, 2), argument))
    if name == "log2":
        return Op("logb", (Num(Fraction(2), None, 1), argument))
    if base is not None:
        if name in ("log", "ln"):
            return Op("logb", (base, argument))
        return Op("call", (Sym(f"{name}_{joined_name(base)}"), argument))
    if name == "exp":
        return Op("pow", (Sym("e"), argument))
    return Op(name, (argument,))


def joined_name(node: Node) -> str:
    """A short tree as a name: what stands under an arrow or a bar."""
    if isinstance(node, Sym):
        return node.name
    if isinstance(node, Num):
        return str(node.value)
    if isinstance(node, Op):
        return node.name[:0] + "".join(joined_name(arg) for arg in node.args)
    raise Unreadable("a name of that shape")
