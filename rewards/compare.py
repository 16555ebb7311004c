"""Comparing a gold with an answer: text, mathematics by type, prose, and computer algebra for what our own language
does not read. Pure but for that last step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from reasonrl.rewards.cost import may_be_worked_out, too_costly
from reasonrl.rewards.families import families, families_in_words, same_families
from reasonrl.rewards.mathlang.answers import read
from reasonrl.rewards.mathlang.lexer import Unreadable
from reasonrl.rewards.mathlang.tables import names
from reasonrl.rewards.mathlang.tree import Num, Reading, Text
from reasonrl.rewards.mathlang.words import other_money
from reasonrl.rewards.normalize import compact, normalize
from reasonrl.rewards.policy import POLICIES, Policy
from reasonrl.rewards.prose import same_prose
from reasonrl.rewards.reasons import reason
from reasonrl.rewards.structures import same_reading
from reasonrl.rewards.symbolic import symbolically_equal
from reasonrl.rewards.synonyms import NUMBER_WORDS

__all__ = ["POLICIES", "Compared", "Policy", "compare"]


@dataclass(frozen=True)
class Compared:
    """Equal or not, and by what."""

    equal: bool
    reason: str


class NeedsAlgebra(Exception):
    """Two texts that only computer algebra can compare; both passed the cost gate."""

    def __init__(self, gold: str, answer: str) -> None:
        super().__init__(gold, answer)
        self.gold = gold
        self.answer = answer


def text_key(text: str) -> str:
    """A text without dressing and spaces: empty where it says nothing."""
    return compact(normalize(text))


_SPACES = re.compile(r"[\s$]+(?!\w)|(?<!\w)[\s$]+")
"""Spaces and dollars that part nothing: `4 2` is not `42`."""


_OPTION = re.compile(r"\A(\s{0,3}\\text\s?\{\s{0,3})\([A-H]\)\s{1,3}(?=[A-Za-z]{3})")
"""The letter of an option before its words: `(E) ellipse`."""


def compare(gold: str, answer: str, policy: Policy) -> Compared:
    """Whether an answer is a gold; both as bare texts.

    Raises:
        NeedsAlgebra: our own language does not read one of the two, and the cost gate lets both pass: `by_algebra`
            decides.
    """
    if _SPACES.sub("", gold) == _SPACES.sub("", answer):
        return Compared(True, "same text")
    if (not policy.convertible_units or "$" in gold + answer) and other_money(gold, answer):
        return Compared(False, "another currency")
    if not _OPTION.match(gold):
        answer = _OPTION.sub(r"\1", answer)
    left, right = _reading(gold), _reading(answer)
    if left is not None and right is not None:
        same = same_reading(left, right, policy)
        if same is not None and (same or not _words(left, right)):
            return Compared(same, reason(left, right, same, policy))
        if same is None:
            if may_be_worked_out(plain_gold := normalize(gold), plain_answer := normalize(answer)):
                raise NeedsAlgebra(plain_gold, plain_answer)
            return Compared(False, "texts differ, and their values cannot be computed in bounded time")
    if policy.key_words and (left is None) != (right is None):
        known, text = (left, answer) if left is not None else (right, gold)
        ours, theirs = families(known) if known is not None else None, families_in_words(text)
        if ours is not None and theirs is not None:
            return Compared(same_families(ours, theirs), "families of numbers")
    if (left is None or _words(left, left)) or (right is None or _words(right, right)):
        by_prose = same_prose(gold, answer, policy)
        if by_prose is not None:
            return Compared(by_prose, "words")
    if left is not None and right is not None:
        return Compared(False, "words")
    return _undecided(normalize(gold), normalize(answer))


def _words(left: Reading, right: Reading) -> bool:
    return isinstance(left.node, Text) or isinstance(right.node, Text)


def _reading(text: str) -> Reading | None:
    try:
        reading = read(text)
    except Unreadable:
        return None
    if isinstance(reading.node, Text) and reading.node.words in NUMBER_WORDS:
        return Reading(Num(Fraction(NUMBER_WORDS[reading.node.words]), None, 2), reading.bound, reading.remark)
    return reading


def _undecided(gold: str, answer: str) -> Compared:
    if compact(gold) == compact(answer):
        return Compared(True, "same text")
    for side, text in (("gold", gold), ("answer", answer)):
        if (why := too_costly(text)) is not None:
            return Compared(False, f"texts differ, and the {side} is too costly to evaluate: {why}")
        if (word := _prose(text)) is not None:
            return Compared(False, f"texts differ, and the {side} is no formula ({word})")
    if ("=" in gold) != ("=" in answer) or max(gold.count("="), answer.count("=")) > 1:
        return Compared(False, "texts differ, and only one side is an equation, or one is a chain")
    raise NeedsAlgebra(gold, answer)


def by_algebra(undecided: NeedsAlgebra) -> Compared:
    """Computer algebra's word on what `compare` left; it may take any time: hold an alarm over it."""
    return Compared(symbolically_equal(undecided.gold, undecided.answer), "computer algebra")


_COMMANDS = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_LONG_WORD = re.compile(r"[A-Za-z]{3,}")
_FORMULA_WORDS = names(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log exp sqrt max min gcd lcm det deg mod"
)


def _prose(text: str) -> str | None:
    for word in _LONG_WORD.findall(_COMMANDS.sub(" ", text)):
        if word.lower() not in _FORMULA_WORDS:
            return str(word)
    if not text.isascii():
        return "letters of another script"
    if "\\ldots" in text or "\\text" in text or "\\mathbb" in text:
        return "text"
    return None
