r"""What makes a sentence with a number state another one, or none: a bound, a part of it, a calculation left undone, an
equation still to be solved; a question or a command; a run of guesses.
"""

from __future__ import annotations

import re

_LIMIT = r"(?:at most|at least|(?:less|fewer|more|greater|larger|smaller|higher|lower) than)"
_PART = r"(?:third|quarter|fifth|tenth|root) of|\d\s(?:times|plus|minus|divided by|multiplied by)"
_BEFORE = re.compile(
    rf"(?:\b(?:{_LIMIT}|half(?: of)?|twice|thrice|double|triple|{_PART})|\btext\s?\{{\s*{_LIMIT}\s*\}})"
    r"[\s*$\\(~]{0,6}(?:(?:boldsymbol|mathbf|textbf|text)\s?\{)?[€£]?\s?$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"[*}$\\)\s]{0,4}?(?:\\text\s?\{\s*)?(?:\\?[%$]\s?)?"
    r"(?:(?:minus|plus|times|divided by|multiplied by|of|(?:less|fewer|more) than)\s[$\\(]{0,3}\d"
    r"|(?:squared|cubed)\b|or (?:more|less|fewer|greater|above|below|higher|lower)\b)",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:at most|at least|(?:less|fewer|more|greater) than)[\s}~$\\(]{1,6}[-\d]"
    r"|\d[\s\\]{0,4}(?:text\s?\{\s*)?or (?:more|less|fewer|greater)\b",
    re.IGNORECASE,
)
_NEEDED = re.compile(r"\b(?:needs?|must|ha(?:s|ve) to|requires?|should)\b[^.\n]{0,40}\bat least\b", re.IGNORECASE)
"""`He must sell at least 12`: the least number that does is what was asked for."""
_UNKNOWN = "[abcknpqrtuvwxyz]"
_UNSOLVED = re.compile(
    rf"(?:\d\s?{_UNKNOWN}(?![A-Za-z])(?!\s*\d)|(?<![A-Za-z\\]){_UNKNOWN}\s?[-+*/×÷^−]\s?\d+"
    rf"|\d\s?[-+*/×÷−]\s?{_UNKNOWN}(?![A-Za-z])(?!\s*\d))(?:\s?[-+*/×÷−]\s?[\w.]{{1,12}}){{0,4}}[)\s]{{0,4}}$"
)
_ASKS = re.compile(
    r"[\s*#>]*(?:\d{1,2}[.)]\s)?(?:please\s)?(?:(?:evaluate|simplify|factor|convert|solve|find|compute|calculate|determine"
    r"|expand|express)\b|(?:what|which|how (?:many|much|long|far|old))\b(?=[^?\n]*\?\W*$))",
    re.IGNORECASE,
)
_GETS = re.compile(r"\b(?:get|gets|gives|give|yields?|obtain|so|therefore|thus|hence|answer)\b|⇒|→", re.IGNORECASE)
_GUESSES = re.compile(r"(?:\d\s?\?[\s,]+\D{0,3}\d[\d.,]*\s?\?[\s,]+)\D{0,3}\d")


def qualified(before: str, after: str) -> bool:
    """Whether a number is a bound, a part or a multiple of the answer, by what stands before and after it."""
    return (_BEFORE.search(before) is not None and _NEEDED.search(before) is None) or _AFTER.match(after) is not None


def bounds(text: str) -> bool:
    r"""Whether a text bounds a number instead of stating it: `at least 8`, `10\text{ or more}`."""
    return _BOUND.search(text) is not None and _NEEDED.search(text) is None


def unsolved(left: str) -> bool:
    """Whether the left side of an equation mixes an unknown with numbers: `2x`, `x + 3`."""
    return _UNSOLVED.search(left[-60:]) is not None


def asks(sentence: str) -> bool:
    """Whether a sentence is a command or a question, such as a problem: its formula is none that it states."""
    return _ASKS.match(sentence) is not None and _GETS.search(sentence) is None


def guesses(text: str) -> bool:
    """Whether a text ends in a run of guesses: `1? 2? 3? 4`."""
    return _GUESSES.search(text[-200:]) is not None
