r"""LaTeX that only dresses an answer, and words that are one of its signs. Every pattern is linear."""

from __future__ import annotations

import re

from reasonrl.rewards.mathlang.tables import pairs

_BASES = pairs(
    """two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 sixteen=16 binary=2 octal=8
    decimal=10 hexadecimal=16"""
)
_BASE = r"(\d{1,2}|" + "|".join(_BASES) + ")"

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])", " "),
        (r"\\(?:text)?color\s{0,3}\{[^{}\\]{1,30}\}", ""),
        (r"\\bbox\s{0,3}(?:\[[^\[\]\\]{0,60}\])?\s{0,3}(?=\{)", ""),
        (r"\\checkmark(?![A-Za-z])", " "),
        (r"\A[\s$]{0,5}\\(?:therefore|implies|Rightarrow|Longrightarrow)(?![A-Za-z])", " "),
        (r"\A\s{0,5}\\text\{\s{0,3}(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?: is)?\s{0,3}:?\s{0,3}\}", " "),
        (r"\A\s{0,5}\\text\{\s{0,3}(?:[Tt]he )?point\s{0,3}\}\s{0,3}(?=\()", " "),
        (r"\\text\{\s{0,3}\(?exactly\)?\s{0,3}\}\s{0,5}\Z", " "),
        (r"\\text\{\s{0,3}(?:[Nn]egative|[Mm]inus)\s{0,3}\}\s{0,3}(?=\d)", "-"),
        (r"\\imath(?![A-Za-z])\s?", "i "),
        (r"(?<=[\d}])\s?\^\s?(?:o(?![A-Za-z])|\{\s?(?:o|\\(?:text|mathrm)\s?\{\s?o\s?\})\s?\})", r"^{\\circ}"),
        (r"(?<=\d)(\\[dt]?frac\{\d{1,9}\}\{\d{1,9}\})\s?\^\s?\{?\s?\\circ(?![A-Za-z])\s?\}?", r"\1\\text{ degrees}"),
        (r"(?<![A-Za-z\\])m\s?(?=\\angle)", ""),
    )
)
_BASE_BEHIND = re.compile(
    r"(?<=\d)\s{0,3}(?:_\s?\{\s?\\text\s?\{\s{0,2}(?:base[ -]{0,3})?" + _BASE + r"\s{0,2}\}\s?\}"
    r"|_\s?\{\s?\\text\s?\{\s{0,2}base[ -]{0,3}\}\s{0,2}" + _BASE + r"\s?\}"
    r"|\\text\s?\{\s{0,2}\(?(?:in )?base[ -]{0,3}" + _BASE + r"\)?\s{0,2}\}"
    r"|\\text\s?\{\s{0,2}\(?(?:in )?base\s{0,2}\}\s{0,3}" + _BASE + r"(?!\d))"
)


def undressed(text: str) -> str:
    r"""A text without sizes, colours and check marks, with `\text{negative } 5` as `-5` and `52 \text{ base } 8` as
    `52_{8}`.
    """
    if "\\" not in text and "^" not in text:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _BASE_BEHIND.sub(_as_subscript, text) if "\\text" in text else text


def _as_subscript(match: re.Match[str]) -> str:
    base = next(group for group in match.groups() if group)
    return "_{" + _BASES.get(base, base) + "}"
