r"""Answers: lists, sets, intervals, relations, matrices, labels, units and remarks around expressions."""

from __future__ import annotations

import re

from reasonrl.rewards.mathlang.clean import clean
from reasonrl.rewards.mathlang.commands import CommandParser
from reasonrl.rewards.mathlang.expressions import RELATIONS
from reasonrl.rewards.mathlang.lexer import Token, Unreadable, tokens
from reasonrl.rewards.mathlang.literals import lifted, scaled
from reasonrl.rewards.mathlang.tables import names
from reasonrl.rewards.mathlang.tree import (
    Matrix,
    Measure,
    Named,
    Node,
    Num,
    Op,
    Reading,
    Rel,
    Seq,
    Sym,
    Text,
    depth,
    symbols,
)
from reasonrl.rewards.mathlang.words import NO_UNIT, REMARKS, SCALES, conversion, unit_name

MAX_LENGTH = 4_000
MAX_LEVELS = 100

_MATRICES = names("matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix array smallmatrix")
_SYSTEMS = names("cases dcases rcases aligned align gathered")
_ABOUT = names("approximately about roughly around approx exactly nearly")
_PARAMETER_SETS = names("set:Z set:N set:R set:Q set:C Z N R Z_+ N_+ N_0 set:N_0")
_MAX_UNIT_WORDS = 10
_SAYING = frozenset({"num", "word", "unit"})
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def read(text: str) -> Reading:
    """A text as mathematics.

    Raises:
        Unreadable: it is none that this language knows, it is longer than MAX_LENGTH, or nested too deeply.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"longer than {MAX_LENGTH} characters")
    found = tokens(clean(text))
    try:
        reading = AnswerParser(found).answer()
    except RecursionError:  # the caller stands near the end of the stack already
        raise Unreadable("nested too deeply") from None
    # A chain such as `1/2/3/…` or `x!!!…` is read by a loop, yet makes a level for every sign.
    if len(found) > MAX_LEVELS and depth(reading.node) > MAX_LEVELS:
        raise Unreadable(f"more than {MAX_LEVELS} levels")
    return reading


class AnswerParser(CommandParser):
    """The whole answer."""

    def __init__(self, found: list[Token]) -> None:
        super().__init__(found)
        self.remark: tuple[str, ...] = ()

    def answer(self) -> Reading:
        """Everything there is.

        Raises:
            Unreadable: something was left over, or nothing was there.
        """
        items, kind = self.list_until(())
        if self.place != len(self.tokens):
            raise Unreadable(f"{self.tokens[self.place].value!r} is left over")
        items = self._without_parameters(items)
        if not items:
            raise Unreadable("nothing to read")
        node = items[0] if len(items) == 1 else Seq(kind, tuple(items))
        return Reading(node, frozenset(self.bound), self.remark)

    def _without_parameters(self, items: list[Node]) -> list[Node]:
        """Takes `k in Z` off a list: it declares a letter."""
        kept: list[Node] = []
        for item in items:
            if (
                isinstance(item, Rel)
                and item.signs == ("in",)
                and isinstance(item.sides[0], Sym)
                and isinstance(item.sides[1], Sym)
                and item.sides[1].name in _PARAMETER_SETS
                and len(items) > 1
                and any(item.sides[0].name in symbols(other) for other in items if other is not item)
            ):
                self.bound.add(item.sides[0].name)
            else:
                kept.append(item)
        return kept

    # -- lists --------------------------------------------------------------------------------------------------

    def list_until(self, closing: tuple[str, ...]) -> tuple[list[Node], str]:
        """Items between commas, semicolons, `and` and `or`; the kind is the word that joined them."""
        items: list[Node] = []
        kind = ""
        self.deeper()
        while True:
            while self._separator():
                word = self.tokens[self.place].value
                kind = word if word in ("and", "or") else kind
                self.place += 1
            token = self.peek()
            if token is None or (token.kind == "sym" and token.value in closing):
                break
            if not closing and items and self._remark():
                break
            items.append(self.item())
            if not closing and self._remark():
                break
            if not self._separator():
                break
        self.depth -= 1
        return items, kind

    def _separator(self) -> bool:
        token = self.peek()
        return token is not None and (token.kind == "sep" or (token.kind == "sym" and token.value in (",", ";")))

    def _remark(self) -> bool:
        """Skips a remark such as `where k is an integer` at the end of an answer, noting the letters it declares."""
        token = self.peek()
        if token is None or token.kind not in ("word", "unit"):
            return False
        first = token.value.split()[0].lower().strip(",.:(")
        if first not in REMARKS:
            return False
        for later in self.tokens[self.place :]:
            if later.kind == "let" and later.value not in ("a", "Z", "N", "R"):
                self.bound.add(later.value)
            elif later.kind in ("word", "unit"):
                self.bound.update(letter for letter in _LETTER.findall(later.value) if letter not in "aAI")
        rest = self.tokens[self.place :]
        self.remark = tuple(word for later in rest for word in later.value.lower().split() if later.kind in _SAYING)
        self.place = len(self.tokens)
        return True

    def bracketed(self, closing: tuple[str, ...]) -> tuple[list[Node], str]:
        items, _ = self.list_until(closing)
        token = self.peek()
        if token is None or token.kind not in ("sym", "cmd") or token.value not in closing:
            raise Unreadable("an open bracket")
        self.place += 1
        return items, token.value

    def braces(self) -> Node:
        token = self.peek()
        if token is not None and token.kind == "begin":
            self.place += 1
            system = self.environment(token.value)
            self.take("\\}")
            if isinstance(system, Matrix) and all(len(row) == 1 for row in system.rows):
                return Seq("and", tuple(row[0] for row in system.rows))  # `\left\{ … \right.`
            return system
        built = self._built()
        return built if built is not None else super().braces()

    def _built(self) -> Node | None:
        """A set by a condition: `\\{x | …\\}`, `\\{x \\in R : …\\}`, `\\{(x, y) | …\\}`."""
        start = self.place
        depth = 0
        for place in range(start, len(self.tokens)):
            token = self.tokens[place]
            if token.kind != "sym":
                continue
            depth += (token.value in ("(", "[", "{", "\\{")) - (token.value in (")", "]", "}", "\\}"))
            if depth < 0 or (token.value == "\\{" and place >= start):
                return None  # also a set inside the head, which would be read again at every level
            if depth == 0 and place > start and token.value in ("|", ":"):
                inner = self._sub(start, place)
                if inner is None:
                    return None
                self.place = place + 1
                items, _ = self.bracketed(("\\}",))
                return Op("builder", (inner, *items))
        return None

    def _sub(self, start: int, end: int) -> Node | None:
        inner = type(self)(self.tokens[start:end])
        inner.depth = self.depth
        try:
            node = inner.item()
        except Unreadable:
            return None
        return node if inner.place == len(inner.tokens) else None

    # -- items --------------------------------------------------------------------------------------------------

    def item(self) -> Node:
        self.deeper()
        node = self._named_or_text() or self.relation()
        self.depth -= 1
        return node

    def _named_or_text(self) -> Node | None:
        token = self.peek()
        if token is None or token.kind not in ("word", "unit"):
            return None
        if token.value.lower() in _ABOUT:
            self.place += 1
            return None
        ahead = 0
        words = []
        while (following := self.peek(ahead)) is not None and following.kind in ("word", "unit"):
            words.append(following.value)
            ahead += 1
        after = self.value(ahead)
        if after in (":", "=") and self.peek(ahead + 1) is not None:
            self.place += ahead + 1
            return Named(" ".join(words).lower().strip(" :="), self.relation())
        last = self.peek(ahead)
        text = " ".join(words)
        if last is None or last.kind == "sep" or last.value in (",", ";", ")", "}", "\\}", "]"):
            self.place += ahead
            return Named(text.rstrip(": ="), Text("")) if text.endswith(":=") else Text(text.lower().strip(" .:"))
        if text.rstrip().endswith((":", "=")):
            self.place += ahead
            return Named(text.lower().strip(" :="), self.relation())
        raise Unreadable("prose")

    def relation(self) -> Node:
        if self.value() in ("=", "approx", "in"):
            self.place += 1  # `= 5`, `≈ 1.4`
        sides = [self.set_expression()]
        signs: list[str] = []
        while True:
            name = self.value()
            if name in ("=", "<", ">") or name in RELATIONS:
                self.place += 1
                if name in ("<", ">") and self.take("="):
                    name = "le" if name == "<" else "ge"
                if name == "approx" and self.value() == "=":
                    self.place += 1
                signs.append(name)
                sides.append(self.set_expression())
            elif name == "not":
                self.place += 1
                name = self.value()
                self.place += 1
                signs.append({"=": "ne", "in": "notin"}.get(name, "not" + name))
                sides.append(self.set_expression())
            else:
                break
        if not signs:
            return sides[0]
        return Rel(tuple(signs), tuple(sides))

    def set_expression(self) -> Node:
        left = self.measured()
        while (name := self.value()) in ("cup", "cap", "setminus", "mod", "pmod", "bmod", ":"):
            if name == ":" and not self._ratio_follows():
                break
            self.place += 1
            if name in ("mod", "bmod", "pmod"):
                left = Op(
                    "remainder" if name == "bmod" else "mod",
                    (left, self.argument() if self.value() == "{" else self.sum()),
                )
                continue
            right = self.measured()
            if name == ":" and isinstance(right, Measure):
                left = Measure(Op("ratio", (left, right.value)), right.unit)  # 10:30 am
            elif isinstance(left, Op) and left.name == ("ratio" if name == ":" else name):
                left = Op(left.name, (*left.args, right))
            else:
                left = Op("ratio" if name == ":" else name, (left, right))
        return left

    def _ratio_follows(self) -> bool:
        token = self.peek(1)
        return token is not None and token.kind in ("num", "let", "cmd", "sym")

    def measured(self) -> Node:
        """A sum with its unit, if it has one."""
        node = self.sum()
        if self.value() == "choose":
            self.place += 1
            return Op("binom", (node, self.sum()))
        node = lifted(node)
        words: list[str] = []
        while (token := self.peek()) is not None:
            if token.kind == "unit" or (token.kind == "word" and words):
                if token.value.split()[0].lower().strip(",.(") in REMARKS - {"in"} and not (
                    token.value == "in" and not words
                ):
                    break
                if not words and token.value.lower() in SCALES:
                    node = scaled(node, SCALES[token.value.lower()])
                else:
                    words.append(token.value)
                self.place += 1
            elif token.kind == "word" and token.value in ("th", "st", "nd", "rd"):
                self.place += 1
            elif words and self.value() == "^" and (power := self.peek(1)) is not None and self._unit_power(power):
                words.append("^ " + self._power_of_unit())
            elif (
                words
                and self.value() == "/"
                and (unit := self.peek(1)) is not None
                and unit.kind in ("unit", "word", "let")
            ):
                words.append("/ " + unit.value)
                self.place += 2
            elif words and self.value() == "(" and self._decoration():
                continue
            elif words and token.kind == "num":
                node = self._second_part(node, unit_name(" ".join(words)))
            else:
                break
        if words and (len(words) > _MAX_UNIT_WORDS or NO_UNIT & set(" ".join(words).lower().replace("(", " ").split())):
            raise Unreadable("prose behind a value")
        return Measure(node, unit_name(" ".join(words))) if words and unit_name(" ".join(words)) else node

    def _second_part(self, node: Node, unit: str) -> Node:
        """`4 hours 30 minutes`, in hours."""
        part, second = self.peek(), self.peek(1)
        assert part is not None
        factor = conversion(unit_name(second.value), unit) if second is not None and second.kind == "unit" else None
        if factor is None or part.num is None:
            raise Unreadable("two quantities side by side")
        self.place += 2
        if isinstance(node, Num):
            return Num(node.value + part.num.value * factor, None, node.digits)
        return Op("add", (node, Num(part.num.value * factor, None, 1)))

    def _unit_power(self, power: Token) -> bool:
        return power.kind == "num" or (
            power.value == "{" and (inner := self.peek(2)) is not None and inner.kind == "num"
        )

    def _power_of_unit(self) -> str:
        self.place += 1
        return "".join(token.value for token in self.script())

    def _decoration(self) -> bool:
        """Skips a short remark in brackets behind a unit: `240 yuan (A)`."""
        for ahead in range(1, 5):
            if self.value(ahead) == ")":
                self.place += ahead + 1
                return True
        return False

    # -- environments -------------------------------------------------------------------------------------------

    def environment(self, name: str) -> Node:
        name = name.rstrip("*")
        if name not in _MATRICES and name not in _SYSTEMS:
            raise Unreadable(f"the environment {name}")
        if name == "array" and self.value() == "{":
            self.script()
        full = self._rows()
        if name in _SYSTEMS and all(len(row) == 1 for row in full):
            return Seq("and", tuple(row[0] for row in full))
        if len({len(row) for row in full}) != 1:
            raise Unreadable("rows of several lengths")
        return Matrix(tuple(full), name in ("vmatrix", "Vmatrix"))

    def _rows(self) -> list[tuple[Node, ...]]:
        rows: list[list[Node]] = [[]]
        self.deeper()
        while True:
            token = self.peek()
            if token is None:
                raise Unreadable("an open environment")
            if token.kind == "end":
                self.place += 1
                break
            if token.kind == "row":
                self.place += 1
                rows.append([])
            elif token.value in ("&", "hline"):
                self.place += 1
            elif self._separator():
                self.place += 1  # `x^2, & x > 0`
            else:
                rows[-1].append(self.relation())
        self.depth -= 1
        full = [tuple(row) for row in rows if row]
        if not full:
            raise Unreadable("an empty environment")
        return full
