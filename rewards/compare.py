"""Comparing a gold with an answer: text, exact numbers, letters, lists and tuples, then computer algebra. Pure but for
that last step.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from reasonrl.rewards.cost import too_costly
from reasonrl.rewards.normalize import compact, unwrap
from reasonrl.rewards.numbers import Quantity, parse_quantity, rounds_to
from reasonrl.rewards.symbolic import symbolically_equal


@dataclass(frozen=True)
class Policy:
    """What counts as the same answer.

    Attributes:
        optional_percent: a percent sign on one side alone is overlooked: `10%` and `10`.
        optional_unit: a unit on one side alone is overlooked: `5 cm` and `5`.
        rounding: a decimal of at least three significant digits that rounds an exact gold is accepted: `0.333` for
            `1/3`.
        unordered_lists: lists without brackets are sets: `1, 2` and `2, 1`. Tuples are always ordered, sets in braces
            never.
    """

    optional_percent: bool
    optional_unit: bool
    rounding: bool
    unordered_lists: bool


POLICIES: dict[str, Policy] = {
    "default": Policy(optional_percent=True, optional_unit=True, rounding=True, unordered_lists=True),
    "strict": Policy(optional_percent=False, optional_unit=False, rounding=False, unordered_lists=False),
}
"""The named policies of `verify`."""


@dataclass(frozen=True)
class Compared:
    """Equal or not, and by what."""

    equal: bool
    reason: str


_LETTER_GOLD = re.compile(r"\(?([A-Z])\)?")
_LETTER_ANSWER = re.compile(r"\(?([A-Z])\)?(?:[.):,\s].*)?", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][A-Za-z\s'\-]*[A-Za-z]")
_LEFT_SIDE = re.compile(
    r"\(?[A-Za-z\\][A-Za-z\\_{}'0-9]*(?:\s*,\s*[A-Za-z])*\)?(?:\s*\([A-Za-z](?:\s*,\s*[A-Za-z])*\))?"
)
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "ln",
        "exp",
        "sqrt",
        "max",
        "min",
        "gcd",
        "lcm",
        "det",
        "deg",
        "mod",
        "frac",
        "left",
        "right",
        "text",
        "begin",
        "end",
    ]
)
_SEPARATOR = re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|;|,")
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}"}


def compare(gold: str, answer: str, policy: Policy) -> Compared:
    """Whether a normalised answer is a normalised gold.

    Raises:
        OutOfTime, NoMainThread: from the step of computer algebra.
    """
    if compact(gold) == compact(answer):
        return Compared(True, "same text")
    gold, answer = _without_left_sides(gold, answer)
    if compact(gold) == compact(answer):
        return Compared(True, "same text")
    for step in (_by_letter, _by_number, _by_words, _by_parts):
        decided: Compared | None = step(gold, answer, policy)
        if decided is not None:
            return decided
    return _by_algebra(gold, answer, policy)


def _without_left_sides(gold: str, answer: str) -> tuple[str, str]:
    """`x = 5` against `5`, `f(x) = 2x` against `2x`, `x = 5` against `x = 5.0`: the left sides go unless they name
    different things.
    """
    gold_left, gold_right = _sides(gold)
    answer_left, answer_right = _sides(answer)
    if gold_left and answer_left and compact(gold_left) != compact(answer_left):
        return gold, answer
    return gold_right, answer_right


def _sides(text: str) -> tuple[str, str]:
    for sign in ("=", "\\in "):
        left, found, right = text.partition(sign)
        if (
            found
            and sign not in right
            and len(left) <= 30
            and _balanced(left)
            and _LEFT_SIDE.fullmatch(left.strip())
            and right.strip()
        ):
            if "," in right and "=" in sign and not right.strip().startswith(("(", "[", "\\{")):
                continue  # `x = 1, 2` is a list; its items lose their left sides one by one
            return left.strip(), unwrap(right.strip())
    return "", text


def _by_letter(gold: str, answer: str, policy: Policy) -> Compared | None:
    letter = _LETTER_GOLD.fullmatch(gold)
    if letter is None:
        return None
    chosen = _LETTER_ANSWER.fullmatch(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer).strip())
    if chosen is None:
        return None
    return Compared(chosen.group(1) == letter.group(1), "choice letter")


def _by_number(gold: str, answer: str, policy: Policy) -> Compared | None:
    left, right = parse_quantity(gold), parse_quantity(answer)
    if left is None or right is None:
        return None
    if right.computed and not left.computed:
        return Compared(False, "unevaluated arithmetic is no answer")
    if left.unit != right.unit and (not policy.optional_unit or (left.unit and right.unit)):
        return Compared(False, f"unit {right.unit or 'none'} instead of {left.unit or 'none'}")
    return Compared(_same_number(left, right, policy), "exact numbers")


def _same_number(gold: Quantity, answer: Quantity, policy: Policy) -> bool:
    if gold.percent != answer.percent and not policy.optional_percent:
        scale = 100 if gold.percent else 1
        return gold.value * (1 if gold.percent else 100) == answer.value * scale
    if gold.value == answer.value:
        return True
    exact = gold.decimals is None and gold.value.denominator > 1
    return (
        policy.rounding
        and exact
        and answer.decimals is not None
        and answer.significant >= 3
        and gold.percent == answer.percent
        and answer.value in rounds_to(gold.value, answer.decimals)
    )


def _by_words(gold: str, answer: str, policy: Policy) -> Compared | None:
    plain_gold, plain_answer = (re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip() for text in (gold, answer))
    if _WORDS.fullmatch(plain_gold) and plain_gold.lower() not in _FUNCTIONS and len(plain_gold) > 2:
        return Compared(plain_gold.casefold().split() == plain_answer.casefold().split(), "words")
    return None


def _by_parts(gold: str, answer: str, policy: Policy) -> Compared | None:
    """Tuples, intervals, sets, unions and bare lists, item by item."""
    gold_kind, gold_items = _parts(gold)
    answer_kind, answer_items = _parts(answer)
    if len(gold_items) < 2 and len(answer_items) < 2 and (gold_kind, answer_kind) == ("", ""):
        return None
    if re.search(r"\\ldots|\\begin|\\pm|\\mp|<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z])", gold + answer):
        return None
    kinds = {gold_kind, answer_kind}
    same_kind = gold_kind == answer_kind or (kinds == {"", "{}"} and (policy.unordered_lists or len(gold_items) == 1))
    if not same_kind:
        one_item = len(gold_items) == len(answer_items) == 1 and kinds <= {"", "()", "[]"}
        return (
            None
            if one_item or "U" in kinds
            else Compared(False, f"a {_NAMES[answer_kind]} instead of a {_NAMES[gold_kind]}")
        )
    if len(gold_items) != len(answer_items):
        return Compared(False, f"{len(answer_items)} items instead of {len(gold_items)}")
    if len(gold_items) == 1 and gold_kind == "":
        return None
    unordered = gold_kind in ("{}", "U") or answer_kind == "{}" or (gold_kind == "" and policy.unordered_lists)

    def same(left: str, right: str) -> bool:
        return compare(left, right, policy).equal

    return Compared(
        _matched(gold_items, answer_items, same) if unordered else all(map(same, gold_items, answer_items)),
        "item by item",
    )


_NAMES = {
    "": "list",
    "()": "tuple or interval",
    "[]": "closed interval or list",
    "(]": "interval",
    "[)": "interval",
    "{}": "set",
    "U": "union",
}


def _parts(text: str) -> tuple[str, list[str]]:
    r"""The kind of brackets around a text (`U` for a union) and what its commas separate."""
    pieces = _split(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(pieces) > 1:
        return "U", pieces
    for opening in _BRACKETS:
        if text.startswith(opening):
            closing = next((end for end in ("\\}", ")", "]") if text.endswith(end)), None)
            inside = text[len(opening) : -len(closing)] if closing else ""
            if closing and inside and _balanced(inside) and (opening == "\\{") == (closing == "\\}"):
                return (opening + closing).replace("\\", ""), _split(inside, _SEPARATOR)
    return "", _split(text, _SEPARATOR)


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces between separators that stand outside every bracket; a number's thousands marks separate nothing."""
    if separator is _SEPARATOR and parse_quantity(text) is not None:
        return [text]
    depths, depth = [], 0
    for symbol in text:
        depth += symbol in "({["
        depths.append(depth)
        depth -= symbol in ")}]"
    pieces, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0 or (match.group().startswith("\\") and depths[match.start()] == 0):
            pieces.append(text[start : match.start()])
            start = match.end()
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()] or [text]


def _balanced(text: str) -> bool:
    depth = 0
    for symbol in text:
        depth += (symbol in "({[") - (symbol in ")}]")
        if depth < 0:
            return False
    return depth == 0


_MAX_UNORDERED = 40


def _matched(gold: list[str], answer: list[str], same: Callable[[str, str], bool]) -> bool:
    """Whether the items pair off; the first fit is taken, which is right because equality is (nearly) transitive."""
    if len(gold) > _MAX_UNORDERED:
        return sorted(map(compact, gold)) == sorted(map(compact, answer))
    left = list(answer)
    for item in gold:
        exact = next((place for place, other in enumerate(left) if compact(other) == compact(item)), None)
        place = (
            exact if exact is not None else next((place for place, other in enumerate(left) if same(item, other)), None)
        )
        if place is None:
            return False
        del left[place]
    return True


def _by_algebra(gold: str, answer: str, policy: Policy) -> Compared:
    for side, text in (("gold", gold), ("answer", answer)):
        if (why := too_costly(text)) is not None:
            return Compared(False, f"texts differ, and the {side} is too costly to evaluate: {why}")
        if (word := _prose(text)) is not None:
            return Compared(False, f"texts differ, and the {side} is no formula ({word})")
    if ("=" in gold) != ("=" in answer) or max(gold.count("="), answer.count("=")) > 1:
        return Compared(False, "texts differ, and only one side is an equation, or one is a chain")
    decimal = parse_quantity(answer) if policy.rounding else None
    return Compared(symbolically_equal(_for_parser(gold), _for_parser(answer), decimal), "computer algebra")


def _prose(text: str) -> str | None:
    bare = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    for word in re.findall(r"[A-Za-z]{3,}", bare):
        if word.lower() not in _FUNCTIONS:
            return word
    if "\\ldots" in text or re.search(r"\\text\s*\{", text):
        return "text"
    return None


def _for_parser(text: str) -> str:
    # math-verify takes a lone last letter for a unit: `-5 + 6 t` would become 1, and `6 + 9c` 15.
    if "\\" in text:
        return re.sub(r"(?<=\d)\s+(?=[A-Za-z])", "", text)
    return re.sub(r"(?<=\d)\s*(?=[A-DF-Za-df-z](?![A-Za-z]))", "*", text)
