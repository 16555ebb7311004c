"""What follows "the answer is", "Final Answer:", "Réponse :", "答案是" and their like: the last such statement of a
response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from reasonrl.rewards import extract_words as words
from reasonrl.rewards.extract_text import lower, math_spans, sentence_end
from reasonrl.rewards.extract_words import either

_MARKUP = r"[*_`#\"'“”’)\]}\s]{0,20}"
_BETWEEN = (
    r"(?:to|of|for|in|from|choice|option|here|set|then|therefore|thus|hence|now|that|value|we|i)\b[^\n.:=?!]{0,80}?"
)
_AFTER_ANSWER = re.compile(
    rf"s?{_MARKUP}(?:\((?:s|es)\)\s?)?(?:{_BETWEEN})?{_MARKUP}(?:{either(words.IS)}(?![a-z])|[:：=]){_MARKUP}[:：]?"
)
_AFTER_RESULT = re.compile(rf"s?(?:\s(?:to|of|for)\b[^\n.:=?!]{{0,80}}?)?\s(?:is|are)(?![a-z]){_MARKUP}[:：]?")
_AFTER_ELSEWHERE = re.compile(
    rf"[^\W\d_]{{0,5}}{_MARKUP}[^\n.。:：=,，0-9]{{0,40}}?"
    rf"(?:[:：=]|\b{either(words.IS_ELSEWHERE_LATIN)}(?![A-Za-zÀ-ɏ])|{either(words.IS_ELSEWHERE)}){_MARKUP}[:：]?"
)
_ANSWER_ELSEWHERE_ASCII = tuple(stem for stem in words.ANSWER_ELSEWHERE if stem.isascii())
_HEADING = re.compile(r"[*_:\s]{0,20}\n")
_CHOSEN = re.compile(r"(?:故|因此|所以|应|应该|答案)\s*选择?项?\s*[:：]?\s*(?=[(（]?[A-Z](?![A-Za-z]))")
_SUBJECT = re.compile(
    r"(?:option|choice|answer)\s*[(\[*]*([A-Z])[)\]*]*\s+(?:is|seems)\s+(?:the\s+)?(?:correct|right|best|answer)",
    re.IGNORECASE,
)
_NOT = re.compile(r"\s*(?:not|never|unclear|unknown|pas|nicht|no)\b|不是|不", re.IGNORECASE)
_FILLER = re.compile(rf"[*_\s]{{0,20}}(?:{either(words.FILLERS)}\b\s?[:：]?\s{{0,4}}|选项\s?)+", re.IGNORECASE)
_CLOSER = re.compile(rf"\*\*|[,;\s]\s?{either(words.REASONS)}\b|[，；]\s?因", re.IGNORECASE)
_MORE_FOLLOWS = re.compile(
    rf"\s{{0,4}}(?:{either(words.OR + words.AND)}(?![A-Za-z])|[,;]|{either(words.OR_ELSEWHERE + words.AND_ELSEWHERE)})"
    r"\s{0,4}(?:also\s)?[$\\\d*(]",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?<=\S) \((?:i\.e|e\.g|that is|or\b|approx|about|≈|\\approx|=|namely|since|because|rounded)[^()]*\)[.\s]*$",
    re.IGNORECASE,
)
_WRONG = r"(?:is|was)\s(?:wrong|incorrect|false|not (?:right|correct))\b"
_TAKEN_BACK = re.compile(rf"[^;\n!?]{{1,60}}?[,;.!]?\s(?:but\s)?(?:which|that|this)\s{_WRONG}", re.IGNORECASE)
_IT_IS = re.compile(r"[;,.:\s]{1,4}(?:(?:but|so|and)\s)?(?:it|the answer)\s(?:is|was|should be)\s", re.IGNORECASE)
_OR_ELSE = re.compile(r"[.!;]\s+or\s(?:it|maybe|perhaps|possibly|else)\b", re.IGNORECASE)
_DISPLAY = re.compile(r"\s*(?:\\\[|\$\$)")
_LOOK_BACK = 6
_RUN = 3
_NEXT = 48
_SAME = 7
_TAIL = 600


@dataclass(frozen=True)
class Statement:
    """What a statement says, from its copula to the end of the line, and whether text follows that line."""

    tail: str
    last: bool
    place: int = 0

    @property
    def sentence(self) -> str:
        """The first sentence of the tail, as it is."""
        return self.tail[: sentence_end(self.tail)]

    @property
    def answer(self) -> str:
        """The answer as it is written: the formula, the bold words, or the words up to the end of the sentence."""
        tail = self.tail
        filler = _FILLER.match(tail)
        tail = (tail[filler.end() :] if filler else tail).lstrip()
        if tail.startswith("**") and (end := tail.find("**", 2)) > 0 and not _MORE_FOLLOWS.match(tail, end + 2):
            tail = tail[2:end]
        spans = math_spans(tail)
        if spans and not _MORE_FOLLOWS.match(tail, spans[0][2]):
            content, start, end = spans[0]
            if len(spans) == 1 or not tail[:start].strip() or sentence_end(tail[end:]) == 0:
                return content.strip()
        if spans:
            last = spans[-1][2]
            return tail[: last + sentence_end(tail[last:])].strip()
        end = sentence_end(tail)
        remark = _REMARK.search(tail, 1, end) if end > 1 else None
        end = remark.start() if remark else end
        closer = _CLOSER.search(tail, 1, end) if end > 1 else None
        return tail[: closer.start() if closer else end].strip()


def statements(text: str) -> list[Statement]:
    """The last statements of an answer, the last one first; those that deny an answer left out."""
    low = lower(text)
    places = set(_after(low, words.ANSWER, _AFTER_ANSWER))
    weak = set(_after(low, words.RESULT, _AFTER_RESULT))
    if not low.isascii():
        places.update(_after(low, words.ANSWER_ELSEWHERE, _AFTER_ELSEWHERE))
    elif not places:
        places.update(_after(low, _ANSWER_ELSEWHERE_ASCII, _AFTER_ELSEWHERE))
    if "选" in low:
        places.update(match.end() for match in _CHOSEN.finditer(text, max(0, len(text) - _TAIL)))
    found = []
    for place in sorted(places | weak, reverse=True)[:_LOOK_BACK]:
        statement = _statement(text, place)
        if statement is None or _NOT.match(statement.tail):
            continue
        if place in places or (statement.last and not statement.tail[sentence_end(statement.tail) + 1 :].strip()):
            found.append(statement)
    return found


def differ_in_a_row(text: str) -> bool:
    """Whether a text's last three statements follow each other at once, in the same words, each with another answer."""
    found = statements(text)
    if len(found) < _RUN:
        return False
    run = found[:_RUN]
    if any(late.place - early.place > _NEXT for late, early in pairwise(run)):
        return False
    if len({text[max(0, said.place - _SAME) : said.place].lower() for said in run}) > 1:
        return False
    answers = [statement.tail[: sentence_end(statement.tail)].strip("*_ .$") for statement in run]
    return len(set(answers)) == _RUN


def option_called_correct(text: str) -> str | None:
    """The letter of the last "option B is correct"; None if there is none in the last lines."""
    found = _SUBJECT.findall(text[-_TAIL:])
    return found[-1].upper() if found else None


def _after(low: str, stems: tuple[str, ...], phrase: re.Pattern[str]) -> Iterator[int]:
    """Where the last phrases end that begin with one of these stems."""
    for stem in stems:
        end = len(low)
        for _ in range(_LOOK_BACK):
            end = low.rfind(stem, 0, end)
            if end < 0:
                break
            match = phrase.match(low, end + len(stem))
            if match is None and _heads_a_line(low, end):
                match = _HEADING.match(low, end + len(stem))
            if match is not None:
                yield match.end()


def _unclosed(tail: str) -> str:
    r"""A tail without the marks at its end that close what was opened before it: `42 \\]`, `42"}`."""
    for closing, opening in (("\\]", "\\["), ("\\)", "\\("), ("}", "{"), ('"', None)):
        if tail.endswith(closing) and tail.count(closing) > (tail.count(opening) if opening else 0):
            tail = tail[: -len(closing)].rstrip()
    return tail


def _heads_a_line(low: str, place: int) -> bool:
    line = low[max(low.rfind("\n", 0, place) + 1, place - 30) : place]
    return line.strip(" #*_>\t") in ("", "final", "the", "the final", "my final")


def _statement(text: str, place: int) -> Statement | None:
    tail = text[place : place + _TAIL].lstrip("*_ \t\r\n:：")
    start = place + text[place : place + _TAIL].find(tail) if tail else place
    display = _DISPLAY.match(tail)
    if display is not None:
        closing = "\\]" if "[" in display.group() else "$$"
        end = tail.find(closing, display.end())
        end = end + 2 if end >= 0 else len(tail)
    else:
        end = tail.find("\n")
        end = end if end >= 0 else len(tail)
    if not tail[:end].strip():
        return None
    tail = _unclosed(tail[:end].strip())
    if (taken_back := _TAKEN_BACK.match(tail)) is not None:
        tail = tail[taken_back.end() :]
        again = _IT_IS.match(tail)
        if again is None or not tail[again.end() :].strip():
            return None
        tail = tail[again.end() :]
    if _OR_ELSE.search(tail):
        return None
    return Statement(tail, not text[start + end :].strip(" \t\r\n*_-#`"), place)
