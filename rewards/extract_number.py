r"""The number that a sentence states: the last `= value` of a calculation, the bold or boxed figure, the last number
that no adverbial of time or means carries.
"""

from __future__ import annotations

import re

from reasonrl.rewards import extract_words as words
from reasonrl.rewards.extract_bounds import qualified, unsolved
from reasonrl.rewards.extract_words import either

_PLAIN = r"(?:\d{1,3}(?:(?:[\u00a0\u202f\u2009 ]|\{,\}|,?\\[,!])\d{3})+(?!\d)|\d+(?:[.,，٫]\d+)*|\.\d+)"
_LATEX_FRACTION = r"(?:\d+\s*)?\\[dtc]?frac\s*(?:\{\s*-?\d[\d.,]*\s*\}\s*\{\s*-?\d[\d.,]*\s*\}|\d\s*\d(?!\d))"
_NUMBER = re.compile(
    rf"(?<![A-Za-z\dÀ-ɏ.^_\\])(?:(?<![)\]}}])[-+−–])?(?:\\?[$€£¥₹]\s?)?[-−]?"
    rf"(?P<body>{_LATEX_FRACTION}|\d+\s+\d+/\d+|\d+/\d+(?![\d/])|\d{{1,2}}:\d{{2}}(?!\d)"
    rf"|{_PLAIN}\s?(?:\\times|×|\*)\s?10\s?\^\s?\{{?-?\d+\}}?|{_PLAIN}(?:[eE][-+]?\d+)?|[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])"
    r"[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]?(?:\s?(?:\\?%|％|٪|percent\b|per cent\b|por ciento\b|pour cent\b|Prozent\b))?"
)
# `2x`, `3π`, `5^2`, `2√3`, `5-dollar`: the coefficient of something is no number of its own.
_COEFFICIENT = re.compile(
    r"\s?(?:\^(?!\s?\{?\s?\\circ)|[√π]|\\(?:sqrt|pi|cdot|times|frac|theta)|[ikntxyz](?![A-Za-zÀ-ɏ']))"
    r"|!|[a-e](?![A-Za-zÀ-ɏ'])|-[A-Za-z]"
)
_ADVERBIAL = re.compile(
    rf"(?:^|[\s,(]){either(words.ADVERBIALS)}\s(?:(?:only|about|the next|les|los|las|den|die)\s)?(?:\\?[$€£]\s?)?$",
    re.IGNORECASE,
)
_UNIT = r"(?:\\?%|[A-Za-zÀ-ɏ$€£²³°]{1,8}|[぀-ヿ㐀-鿿가-힣]{1,4})?"
_OPERATOR_BETWEEN = re.compile(
    rf"\s*{_UNIT}[)\]}}]*\s*(?:[-+*/×÷·−–^]|\\(?:times|cdot|div)(?![A-Za-z]))\s*[(\[{{$€£\\]*"
)
_JOINER = (
    rf"(?:(?<![A-Za-z]){either(words.OR + words.AND)}(?![A-Za-z])|\\text\s?\{{\s?(?:and|or)\s?\}}"
    rf"|{either(words.OR_ELSEWHERE + words.AND_ELSEWHERE)})"
)
_JOINER_BETWEEN = re.compile(rf"\s*{_UNIT}\$?\s*(?:[,;]\s*{_JOINER}|[,;]|{_JOINER})\s*[$€£\\(]*|\s+", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,120})\*\*")
_EQUALS = re.compile(r"(?<![<>!:=≤≥])=(?!=)|≈|\\approx(?![A-Za-z])|\\Rightarrow|⇒")
_DOUBT = re.compile(rf"\b{either(words.DOUBTS)}\b|{either(words.DOUBTS_ELSEWHERE)}|[?？؟]\s*$", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:\b(?:not|cannot|never|nicht|kein|pas|niet)|n['’]t)\s+(?:\w+\s+)?(?:\\?[$€£]\s?)?$"
    r"|不是\s*$|(?:[≠<>≤≥]|[<>]=|\\(?:neq?|leq?|geq?|lt|gt)(?![A-Za-z]))\s*$",
    re.IGNORECASE,
)
_WORKING = re.compile(r"(?<=[\d%] )\([^()=]{0,40}\d\s?[-+*/×÷]\s?\d[^()=]{0,40}\)")
"""`14 (20 - 6)`: how a number came about."""
_ONE_IN = re.compile(r"(?<![\d.,/$€£-])1 (?:in|out of) (\d+)\W*$")
_WORKED = re.compile(
    r"(\\?\$?(\d{1,12}(?:,\d{3})*(?:\.\d+)?))\s\((\d{1,9}(?:\.\d+)?)\s?([-+*×−])\s?(\d{1,9}(?:\.\d+)?)\)\.?"
)
_SIMPLE = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?%?")
_LITERAL = re.compile(r"[-+]?\d+(?:\.\d+)?")
_BRACKETS = "()[]{} \t*$\\"


def is_number(text: str) -> bool:
    """Whether a text is one written number and nothing else."""
    text = text.strip()
    match = _NUMBER.match(text)
    return match is not None and match.end() == len(text)


def stated_number(clause: str) -> str | None:
    r"""The number that a clause states in words, such as what follows "answer:"; None if there is none.

    A clause that is a number with its unit gives the number; one that joins several (`5 or 6`, `41, 42`) gives them
    all, so that none of them is picked.
    """
    clause = clause.strip().strip("*_` ")
    if _SIMPLE.fullmatch(clause):
        return clause
    if hedged(clause):
        return None
    leading = _NUMBER.match(clause)
    following = _NUMBER.search(clause, leading.end()) if leading is not None else None
    if leading is None or _COEFFICIENT.match(clause, leading.end()) or "=" in clause:
        return number_in(clause)
    if (chance := _ONE_IN.match(clause)) is not None:
        return f"1/{chance[1]}"
    if qualified("", clause[leading.end() :]):
        return None
    if following is not None and _joined(clause[leading.end() : following.start()]):
        return clause
    return _clean(leading.group())


def without_working(text: str) -> str:
    """A number without the product or sum in brackets after it that it is: `70 (7 × 10)`."""
    match = _WORKED.fullmatch(text)
    if match is None:
        return text
    left, right = float(match[3]), float(match[5])
    value = {"+": left + right, "-": left - right, "−": left - right}.get(match[4], left * right)
    return match[1] if value == float(match[2].replace(",", "")) else text


def hedged(sentence: str) -> bool:
    """Whether a sentence asks, doubts or takes back, so that nothing in it is an answer."""
    return _DOUBT.search(sentence) is not None


def number_in(sentence: str) -> str | None:
    """The number a sentence ends in or puts in bold; see the module. None if there is none."""
    bold = _BOLD.findall(sentence)
    if bold and (found := _value(bold[-1])) is not None:
        return found
    return _value(sentence)


def follows_in_a_clause_of_its_own(rest: str) -> bool:
    """Whether a number follows that is part of another clause, or is joined to what stands before it."""
    following = _NUMBER.search(rest)
    if following is None:
        return False
    before = rest[: following.start()]
    return _joined(before) or _CLAUSE.search(before) is not None


def _value(text: str) -> str | None:
    if (chance := _ONE_IN.search(text)) is not None:
        return f"1/{chance[1]}"
    text = _WORKING.sub(" ", text)
    after = _after_last_equals(text)
    if after is not None:
        return after
    numbers = [number for number in _NUMBER.finditer(text) if not _COEFFICIENT.match(text, number.end())]
    if not numbers:
        return None
    free = [number for number in numbers if not _ADVERBIAL.search(text, max(0, number.start() - 40), number.start())]
    chosen = (free or numbers)[-1]
    before, after = text[max(0, chosen.start() - 40) : chosen.start()], text[chosen.end() : chosen.end() + 40]
    if _NEGATED.search(before) or qualified(before, after):
        return None
    return _with_what_it_is_joined_to(text, numbers, chosen)


def _after_last_equals(text: str) -> str | None:
    """What follows the last equals sign of a calculation, if it is a number (with its unit) and nothing more."""
    signs = list(_EQUALS.finditer(text))
    if not signs:
        return None
    number = _NUMBER.match(text, _skip(text, signs[-1].end()))
    if number is None or _COEFFICIENT.match(text, number.end()):
        return None
    rest = text[number.end() :]
    if _OPERATOR_AFTER.match(rest) or _EQUALS.search(rest) or follows_in_a_clause_of_its_own(rest):
        return None
    before = text[signs[-2].end() if len(signs) > 1 else 0 : signs[-1].start()]
    if unsolved(before):
        return text.strip()
    before = before.strip(_BRACKETS)
    if _LITERAL.fullmatch(before) and _LITERAL.fullmatch(number.group()) and float(before) != float(number.group()):
        return text.strip()  # `4 = 5` is no calculation
    return _clean(number.group())


_CLAUSE = re.compile(
    r"[,;:.，；。]|\b(?:so|then|leaving|thus|therefore|but|or|which|is|are|was)\b|所以|因此", re.IGNORECASE
)
_OPERATOR_AFTER = re.compile(r"\s*(?:[-+*/×÷^]|\\(?:times|cdot|sqrt|pi|frac))\s*[\d\\(a-z]")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t*([{":
        place += 1
    return place


def _with_what_it_is_joined_to(text: str, numbers: list[re.Match[str]], chosen: re.Match[str]) -> str:
    """The chosen number; with the ones before it where an operator, a comma, "and", "or" or nothing joins them: a sum
    left undone and a list of guesses are no number.
    """
    place = numbers.index(chosen)
    start, end = chosen.start(), chosen.end()
    while place > 0:
        before = numbers[place - 1]
        if not _joined(text[before.end() : start]):
            break
        place, start = place - 1, before.start()
    if place == numbers.index(chosen):
        return _clean(chosen.group())
    return text[start:end].strip()


def _joined(between: str) -> bool:
    return len(between) <= 20 and bool(_OPERATOR_BETWEEN.fullmatch(between) or _JOINER_BETWEEN.fullmatch(between))


def _clean(number: str) -> str:
    r"""A number as the comparison reads it: a decimal comma as a point (`0,30`), `٫` too."""
    number = number.strip().replace("٫", ".")
    if re.fullmatch(r"[-+]?\d+,(?:\d{1,2}|\d{4,})", number):
        return number.replace(",", ".")
    return number
