r"""The answer of a response that states none: what its last sentence ends in.

Only a number, a letter, a formula or a few words are looked for, by the kind of the gold; a sentence that asks, doubts
or takes back gives none.
"""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Literal

from reasonrl.rewards.extract_bounds import asks, guesses, qualified
from reasonrl.rewards.extract_gold import Kind
from reasonrl.rewards.extract_number import follows_in_a_clause_of_its_own, hedged, is_number, number_in
from reasonrl.rewards.extract_text import last_sentences, math_spans, undressed, words
from reasonrl.rewards.extract_words import AND, OR, either
from reasonrl.rewards.letters import first_named, last_named, lone_letters

_LOOKED_AT = 2_000
_LONGEST_SENTENCE = 600
_SENTENCES = 3
_LEADING_LETTER = re.compile(r"\s*[(\[*]*([A-J])[)\]*]*(?:\s*(?:[.):,。，、：]|$)|(?=[㐀-鿿가-힣]))")
_ROWS_END = re.compile(r"\\end\{((?:align|aligned|gather|eqnarray|equation|split|multline)\*?)\}$")
_ASIDE = re.compile(r"(?<=[.!?。\]$}]) *\n? *\([^()]*(?:\([^()]*\)[^()]*)*\)\s*$")
"""A last sentence that stands in brackets as a whole."""
_TEXT = re.compile(r"\\text\s?\{\s*([^{}]{1,40})\}")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_COPULA = re.compile(r"\s(?:is|are|was|equals|est|sont|es|son|é|è|sono|ist|sind)\s+(?:exactly\s|the\s|a\s|at\s)?|是|为")
_DAY = re.compile(r"\son\s(?:an?\s|the\s)?((?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)[.!]?\s*$")
_JOINER = re.compile(rf"\b{either(OR + AND)}\b", re.IGNORECASE)
_JOINED = re.compile(rf"\s*(?:,|{either(OR + AND)}|, ?{either(OR + AND)})\s*(?:[A-Za-z]\s?=\s?)?", re.IGNORECASE)
_OPTION = re.compile(r"(?<![A-Za-z\d])[(\[*]{0,3}([A-Z])[)\].:]\**\s")
_LAST_PIECE = re.compile(r"(?<![<>!:=\\])=(?!=)")

Prose = tuple[str, Literal["prose_number", "prose_letter", "prose_formula", "prose_words"]]


def in_prose(text: str, kind: Kind, relation: bool = False) -> Prose | None:
    """The answer in the last sentence of a text and how it was found; None if there is none of this kind. Where the
    gold is no `relation`, what stands before an equals sign is left out.
    """
    text = text.rstrip()[-_LOOKED_AT:]
    aside = _ASIDE.search(text, max(0, len(text) - _LONGEST_SENTENCE)) if text.endswith(")") else None
    text = text[: aside.start()] if aside else text
    if kind == "letter":
        return _letter(text)
    if kind == "text" or (kind == "number" and guesses(text)):
        return None
    talks = words(text) > 0
    for sentence in _sentences(text):
        if hedged(sentence) or asks(sentence):
            return None
        found = _in_sentence(sentence, kind, relation, talks)
        if found is not None:
            return found
        if any(symbol.isdigit() for symbol in sentence):
            return None
    return None


def _sentences(text: str) -> list[str]:
    display = _closing_display(text)
    if display is not None:
        return [f"${display}$"]
    return [sentence[-_LONGEST_SENTENCE:] for sentence in last_sentences(text, _SENTENCES, _LOOKED_AT)]


def _closing_display(text: str) -> str | None:
    """The displayed formula that a text ends with; None if it ends with anything else."""
    text = text.rstrip(" \t\n.。")
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if text.endswith(closing):
            start = text.rfind(opening, max(0, len(text) - _LONGEST_SENTENCE), len(text) - 2)
            inside = text[start + 2 : -2].strip().rstrip(".") if start >= 0 else ""
            return inside if inside and "$" not in inside else None
    rows = _ROWS_END.search(text[-30:])
    start = text.rfind(f"\\begin{{{rows[1]}}}") if rows else -1
    if rows is None or start < 0:
        return None
    inside = text[start + len(rows[1]) + 8 : -len(rows[0])]
    return inside.rpartition("\\\\")[2].replace("&", " ").strip().rstrip(".")[-_LONGEST_SENTENCE:] or None


def _in_sentence(sentence: str, kind: Kind, relation: bool, talks: bool) -> Prose | None:
    spans = math_spans(sentence)
    if kind == "words":
        bold = _BOLD.findall(sentence)
        texts = bold or _TEXT.findall(sentence)
        said = texts[-1] if texts else after_copula(sentence, kind)
        return (said, "prose_words") if said else None
    if kind == "number":
        if not words(sentence):
            sentence = undressed(sentence)
            spans = math_spans(sentence)
        if not spans and not words(sentence) and "=" not in sentence and not (talks and is_number(sentence)):
            return None  # digits without a word state nothing
        figures = [span for span in spans if is_number(span[0])]
        if len(figures) == 1 and len(spans) == 1 and not follows_in_a_clause_of_its_own(sentence[figures[0][2] :]):
            if qualified(sentence[: figures[0][1]], sentence[figures[0][2] :]):
                return None
            sentence = sentence[: figures[0][2]]  # the one figure that is set as a formula
            spans = figures
        number = number_in(_without_dollars(sentence, spans))
        return (number, "prose_number") if number else None
    if spans:
        content, _, end = spans[-1]
        place = len(spans) - 1
        while place > 0 and _JOINED.fullmatch(sentence[spans[place - 1][2] : spans[place][1]]):
            place -= 1
        if place < len(spans) - 1:
            content = _without_dollars(sentence, spans)[spans[place][1] :][: end - spans[place][1]]
        return (_right_side(content, relation), "prose_formula") if words(sentence[end:]) <= 3 else None
    if (said := after_copula(sentence, kind)) is not None:
        return said, "prose_formula"
    pieces = _LAST_PIECE.split(sentence) if kind == "other" else []
    if len(pieces) > 1 and pieces[-1].strip() and not words(pieces[-1]):
        return pieces[-1].strip().rstrip("."), "prose_formula"
    return None


def after_copula(sentence: str, kind: Kind) -> str | None:
    """What follows the last "is" of a sentence: a formula for a list or a formula, up to three words for words."""
    copulas = list(_COPULA.finditer(sentence))
    if not copulas:
        day = _DAY.search(sentence) if kind == "words" else None
        return day[1] if day else None
    said = sentence[copulas[-1].end() :].strip().rstrip(".!。")
    most = 3 if kind == "words" else 0
    counted = _JOINER.sub(" ", said) if kind == "list" else said
    return said if said and words(counted) <= most else None


def _without_dollars(sentence: str, spans: list[tuple[str, int, int]]) -> str:
    for content, start, end in reversed(spans):
        sentence = f"{sentence[:start]} {content} {sentence[end:]}"
    return sentence


def _right_side(formula: str, relation: bool) -> str:
    """The last piece of a chain `f = a = b`; a single equation stays one where the gold is one."""
    formula = formula.strip().rstrip(".,")
    pieces = _LAST_PIECE.split(formula)
    return pieces[-1].strip() if len(pieces) > (2 if relation else 1) else formula


def _after_the_options(text: str) -> str:
    """What follows the options where a text lists them, one after the other from A: those name no choice."""
    markers = list(_OPTION.finditer(text))
    letters = "".join(marker[1] for marker in markers)
    start = letters.rfind("A")
    if len(letters) - start < 3 or letters[start:] != ascii_uppercase[: len(letters) - start]:
        return text
    _, _, rest = text[markers[-1].end() :].partition("\n")
    return rest


def _letter(text: str) -> Prose | None:
    letters = lone_letters(text)
    if letters is not None:
        return ", ".join(letters), "prose_letter"
    text = _after_the_options(text)
    leading = _LEADING_LETTER.match(text)
    if leading is not None:
        named = first_named(text[: text.find("\n") if "\n" in text else len(text)])
        if named is not None:
            return named, "prose_letter"
    for sentence in last_sentences(text, _SENTENCES, _LOOKED_AT):
        named = last_named(sentence[-_LONGEST_SENTENCE:])
        if named is not None:
            return named, "prose_letter"
    return None
