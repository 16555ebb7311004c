r"""Tokens of a cleaned text: one pass, one regular expression, a bounded number of tokens.

Kinds: `num` (a Num with the digits as written), `rep` (a repeating decimal), `cmd` (a command or function, without its
backslash), `let` (one letter), `word` (words of prose or of a unit), `unit` (a known unit behind a value), `sep`
(`and`, `or`), `sym` (any other sign), `begin` / `end` (an environment), `row` (`\\`).
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from reasonrl.rewards.mathlang.tree import Num
from reasonrl.rewards.mathlang.words import FUNCTIONS, GREEK, STOP_WORDS, UNIT_WORDS

MAX_TOKENS = 1_500
MAX_DIGITS = 600
MAX_SCIENTIFIC = 2_000


class Unreadable(Exception):
    """A text that is no mathematics as this language knows it, or too long or too deep to be read."""


class Token(NamedTuple):
    """A token; `value` is its content, `num` the number it is, `start` where it begins."""

    kind: str
    value: str
    num: Num | None
    start: int


_TEXT_COMMANDS = (
    r"text|mathrm|textrm|mbox|hbox|fbox|textbf|textit|operatorname\*?|textnormal|mathsf|texttt|textsf|textup|mathtt"
    r"|emph|textsc"
)
_TOKEN = re.compile(
    r"""
    (?P<space>(?:\s|~|\\[,;:!>\ \(\)\[\]]|\$|&nbsp;|\\\$
      |\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|q?quad|thinspace|mathop|mathbf
        |boldsymbol|bm|mathit|mathnormal|mathcal|mathscr|mathfrak|rm|bf|it|boldmath|hspace\{[^{}]{0,20}\}|nonumber|hfill|vspace\{[^{}]{0,20}\}
        |bold|pmb|underline|protect|ensuremath|phantom\{[^{}]{0,20}\}|cancel|mathstrut|strut|smash)(?![A-Za-z])\*?)+)
    |(?P<text>\\(?:TEXT)\s*\{(?P<content>[^{}]*)\})
    |(?P<rep>\d*\.\d*\s*\\(?:overline|bar|dot|overset\{-\})\s*\{\s*\d+\s*\})
    |(?P<rep2>\d*\.\d*\(\d+\)(?![\d^]))
    |(?P<going>\d*\.\d{2,40}\s*(?:\.\.\.|\\[lc]?dots(?![A-Za-z])))
    |(?P<thousands>(?<![\d.])\d{1,3}(?:(?:\{,\}|,\\!|\\,|\\!|,\\,|\\;|\\\ )\s*\d{3})+(?!\d)(?:\.\d+)?)
    |(?P<commas>(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]\d|\d)(?:\.\d+)?)
    |(?P<spaced>(?<![\d.])[1-9]\d{0,2}(?:[\ ]\d{3})+(?![\d.]|\s*(?:/|\\[dt]?frac|\ \d))(?!\s*\d))
    |(?P<num>(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d{1,6}(?![\dA-Za-z^]|\.\d))?)
    |(?P<env>\\(?:begin|end)\s*\{(?P<name>[A-Za-z*]+)\})
    |(?P<row>\\\\(?:\[[^\[\]]{0,12}\])?|\\cr(?![A-Za-z])|\\tabularnewline)
    |(?P<cmd>\\[A-Za-z]+)
    |(?P<esc>\\[{}|%&\#_])
    |(?P<rate>(?:km|m|cm|ft|mi|g|kg)/(?:s|h|hr|min|cm|m|L)(?![A-Za-z])(?:\^(?:[23](?!\d)|\{[23]\}))?)
    |(?P<word>[A-Za-z]+)
    |(?P<dots>\.{3}|\.\s\.\s\.)
    |(?P<two><=|>=|!=|=>|->|==|=<)
    |(?P<sym>[^\sA-Za-z\d\\])
    """.replace("TEXT", _TEXT_COMMANDS),
    re.VERBOSE,
)
_TWO = {"<=": "le", ">=": "ge", "!=": "ne", "=>": "Rightarrow", "->": "to", "==": "=", "=<": "le"}
_SPELLING = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sfrac": "frac", "nicefrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "leq": "le", "leqslant": "le", "leqq": "le", "geq": "ge", "geqslant": "ge", "geqq": "ge",
    "neq": "ne", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "vdots": "ldots",
    "ddots": "ldots", "lt": "<", "gt": ">", "cdot": "*", "times": "*", "ast": "*", "bullet": "*", "div": "/",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "vert": "|",
    "lvert": "|", "rvert": "|", "mid": "|", "Vert": "\\|", "lVert": "\\|", "rVert": "\\|", "varphi": "phi",
    "varepsilon": "epsilon", "vartheta": "theta", "varrho": "rho", "varnothing": "emptyset", "colon": ":",
    "dotsm": "ldots", "isin": "in", "arctg": "arctan", "arcctg": "arccot", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "argsinh": "arcsinh", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "infinity": "infty", "inf": "infty", "oo": "infty", "lg": "log10",
    "lb": "log2", "longrightarrow": "to", "rightarrow": "to", "mapsto": "to", "implies": "Rightarrow",
    "iff": "Leftrightarrow", "leftrightarrow": "Leftrightarrow", "thickapprox": "approx", "approxeq": "approx",
    "simeq": "approx", "cupdot": "cup", "sqcup": "cup",  "backslash": "setminus",
    "smallsetminus": "setminus", "land": "and", "wedge": "and", "lor": "or", "vee": "or", "widehat": "hat",
    "widetilde": "tilde", "overrightarrow": "vec", "degree": "degree", "degrees": "degree", "abs": "abs",
    "percent": "%", "ni": "ni", "surd": "sqrt", "cbrt": "cbrt", "textbackslash": "setminus", "euro": "space",
    "pounds": "space", "textdollar": "space", "displaystyle": "space", "Re": "Re", "doteq": "approx",
}  # fmt: skip
_SIGN_COMMANDS = frozenset(["*", "/", "<", ">", "\\{", "\\}", "[", "]", "(", ")", "|", "\\|", ":", "%"])
_BLANK = re.compile(r"\s*\{[^{}]*\}")


def tokens(text: str) -> list[Token]:
    """The tokens of a cleaned text.

    Raises:
        Unreadable: more than MAX_TOKENS of them, or a number of more than MAX_DIGITS digits.
    """
    found: list[Token] = []
    depth = 0
    place, end = 0, len(text)
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable(f"sign {text[place]!r}")
        kind = match.lastgroup
        value = match.group()
        if kind == "space":
            place = match.end()
            # `\left.` and `\right.` are invisible brackets.
            if value.endswith(("left", "right")) and text[place : place + 1] == ".":
                place += 1
            continue
        if kind == "commas" and depth > 0:
            value = value.partition(",")[0]  # `(100,200)` are two numbers: only bare numbers have thousands commas
            kind = "num"
        if kind == "sym":
            depth += (value in "([") - (value in ")]")
        elif kind == "esc" or (kind == "cmd" and value in ("\\lbrace", "\\rbrace")):
            depth += (value in ("\\{", "\\lbrace")) - (value in ("\\}", "\\rbrace"))
        _add(found, str(kind), value, match, text[match.end() : match.end() + 4])
        if len(found) > MAX_TOKENS:
            raise Unreadable(f"more than {MAX_TOKENS} signs")
        place += len(value)
    return found


def _add(found: list[Token], kind: str, value: str, match: re.Match[str], text_after: str) -> None:
    start = match.start()
    if kind == "num":
        found.append(Token("num", value, number(value), start))
    elif kind in ("thousands", "commas", "spaced"):
        plain = re.sub(r"[^\d.]", "", value)
        found.append(Token("num", plain, number(plain), start))
    elif kind == "sym":
        if value == "." and not text_after[:1].isalnum():
            return  # a full stop, or one that strayed before a bracket
        found.append(Token("sym", value, None, start))
    elif kind == "rate":
        if _ends_value(found):
            found.append(Token("unit", re.sub(r"[{}]", "", value), None, start))
        else:
            for place, part in enumerate(re.findall(r"[A-Za-z]|\d|[^A-Za-z\d]", value), start):
                sort = "let" if part.isalpha() else "num" if part.isdigit() else "sym"
                found.append(Token(sort, part, number(part) if part.isdigit() else None, place))
    elif kind == "word":
        _add_word(found, value, start, text_after)
    elif kind == "cmd":
        name = _SPELLING.get(value[1:], value[1:])
        if name == "space":
            return
        if name in ("and", "or"):
            found.append(Token("sep", name, None, start))
        else:
            found.append(Token("sym" if name in _SIGN_COMMANDS else "cmd", name, None, start))
    elif kind in ("text", "content"):
        _add_text(found, match.group("content"), start)
    elif kind in ("env", "name"):
        found.append(Token("begin" if value.startswith("\\begin") else "end", match.group("name"), None, start))
    elif kind == "going":
        found.append(Token("num", value, _going_on(value), start))
    elif kind in ("rep", "rep2"):
        found.append(Token("num", value, _repeating(value), start))
    elif kind == "two":
        name = _TWO[value]
        found.append(Token("sym" if name == "=" else "cmd", name, None, start))
    elif kind == "dots":
        found.append(Token("cmd", "ldots", None, start))
    elif kind == "row":
        found.append(Token("row", "", None, start))
    else:  # an escaped sign
        found.append(Token("sym", "%" if value == "\\%" else value, None, start))


def number(text: str) -> Num:
    """A decimal literal, perhaps with an exponent, as a number.

    Raises:
        Unreadable: more than MAX_DIGITS digits or an exponent beyond MAX_SCIENTIFIC.
    """
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    shift = int(exponent or 0)
    if abs(shift) > MAX_SCIENTIFIC:
        raise Unreadable("an exponent of that size")
    value = Fraction(int(whole + decimals or 0), 10 ** len(decimals))
    if exponent:
        value *= Fraction(10) ** shift
    places = max(len(decimals) - shift, 0) if decimals or (exponent and shift < 0) else None
    digits = len((whole + decimals).lstrip("0"))
    if not point and not exponent:
        places = None
    return Num(value, places, digits)


def _repeating(text: str) -> Num:
    start, period = re.findall(r"\d*\.\d*|\d+", text)[0], re.findall(r"\d+", text)[-1]
    whole, _, fixed = start.partition(".")
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    top = int(whole + fixed + period) - int(whole + fixed or 0)
    return Num(Fraction(top, 10 ** len(fixed) * (10 ** len(period) - 1)), None, len(whole + fixed + period))


def _going_on(text: str) -> Num:
    """`0.333…`: a repeating decimal where the digits end with a period written twice (one digit: three times)."""
    plain = re.findall(r"\d*\.\d+", text)[0]
    digits = plain.partition(".")[2]
    for length in range(1, len(digits) // 2 + 1):
        period = digits[-length:]
        times = 3 if length == 1 else 2
        if digits.endswith(period * times):
            fixed = digits
            while fixed.endswith(period):
                fixed = fixed[:-length]
            return _repeating(f"{plain.partition('.')[0]}.{fixed}({period})")
    return number(plain)


def _ends_value(found: list[Token]) -> bool:
    """Whether what was read last can carry a unit: a number or a closing bracket."""
    last = found[-1] if found else None
    return last is not None and (
        last.kind in ("num", "unit") or last.value in (")", "}", "]", "pi", "!", "%", "degree")
    )


def _add_word(found: list[Token], word: str, start: int, after: str) -> None:
    lower = word.lower()
    if (
        word == "U"
        and found
        and found[-1].value in (")", "]", "}", "\\}")
        and after.lstrip()[:1] in ("(", "[", "\\", "{")
    ):
        found.append(Token("cmd", "cup", None, start))  # (0, 1) U (2, 3)
    elif len(word) == 1:
        found.append(Token("let", word, None, start))
    elif lower in ("and", "or"):
        found.append(Token("sep", lower, None, start))
    elif lower in _ORDINALS and found and found[-1].kind == "num":
        return  # 15th
    elif word in FUNCTIONS or word in GREEK:
        found.append(Token("cmd", _SPELLING.get(word, word), None, start))
    elif lower in FUNCTIONS and len(word) > 2:
        found.append(Token("cmd", _SPELLING.get(lower, lower), None, start))
    elif lower in ("degree", "degrees", "deg") and _ends_value(found):
        found.append(Token("cmd", "degree", None, start))
    elif lower == "percent" and _ends_value(found):
        found.append(Token("sym", "%", None, start))
    elif _ends_value(found) and (lower in UNIT_WORDS or (found[-1].kind == "unit" and len(word) > 2)):
        found.append(Token("unit", word, None, start))
    elif lower in ("am", "pm"):
        clock = len(found) > 2 and found[-2].value == ":"
        parts = [(word, 0)] if clock else list(zip(word, range(2), strict=True))
        found.extend(Token("unit" if clock else "let", part, None, start + place) for part, place in parts)
    elif lower in STOP_WORDS:
        found.append(Token("word", word, None, start))
    elif (
        len(word) >= 4
        and word[:3] in ("sin", "cos", "tan", "log")
        and len(word) <= 5
        and word[3:] not in ("g", "gs", "k")
    ):
        found.append(Token("cmd", word[:3], None, start))
        found.extend(Token("let", letter, None, start + 3 + i) for i, letter in enumerate(word[3:]))
    elif len(word) >= 4 and not _is_product(word):
        found.append(Token("unit" if _ends_value(found) else "word", word, None, start))
    elif word[:2] == "ln" and len(word) == 3:
        found.append(Token("cmd", "ln", None, start))
        found.append(Token("let", word[2], None, start + 2))
    else:
        found.extend(Token("let", letter, None, start + i) for i, letter in enumerate(word))


def _is_product(word: str) -> bool:
    """`abcd` and `xyz` are letters in a row: a run whose letters rise is no word."""
    return len(word) <= 6 and all(left < right for left, right in pairwise(word))


_WORDY = re.compile(r"[A-Za-z]{2,}")
_RATE = re.compile(r"[A-Za-z]{1,3}\s?/\s?[A-Za-z]{1,3}(?:\^[23])?")
_ORDINALS = frozenset(["st", "nd", "rd", "th"])


def _add_text(found: list[Token], content: str, start: int) -> None:
    content = content.replace("~", " ").strip().strip("$").strip()
    if not content:
        return
    lower = content.lower().strip(" .,")
    if lower in FUNCTIONS or lower in ("d", "e", "i"):
        if len(lower) > 1:
            found.append(Token("cmd", _SPELLING.get(lower, lower), None, start))
        else:
            found.append(Token("let", content.strip(" .,"), None, start))
    elif lower in ("and", "or", "and/or"):
        found.append(Token("sep", lower[:3].strip("/"), None, start))
    elif lower in ("degrees", "degree", "deg") and found:
        found.append(Token("cmd", "degree", None, start))
    elif lower in ("percent", "%") and found:
        found.append(Token("sym", "%", None, start))
    elif lower in _ORDINALS:
        found.append(Token("word", lower, None, start))
    elif content[0].isdigit() or content[0] in "+-(\\":
        found.extend(Token(kind, value, num, start) for kind, value, num, _ in tokens(content))
    elif _RATE.fullmatch(content) and _ends_value(found):
        found.append(Token("unit", content, None, start))
    elif len(content) == 1 and content.isalpha():
        found.append(Token("unit" if _ends_value(found) else "let", content, None, start))
    elif _WORDY.search(content) or "." in lower:
        found.append(Token("unit" if _ends_value(found) else "word", content, None, start))
    else:
        found.extend(Token(kind, value, num, start) for kind, value, num, _ in tokens(content))


def joined(found: list[Token]) -> str:
    """Tokens as one string without spaces: what a subscript is named by."""
    return "".join(token.value for token in found)
