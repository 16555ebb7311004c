r"""Finding the answer in a response, and the bare gold in a gold cell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reasonrl.rewards.extract_bounds import asks, bounds, qualified
from reasonrl.rewards.extract_boxes import listed_boxes
from reasonrl.rewards.extract_gold import Kind, extract_gold, items_of, kind_of
from reasonrl.rewards.extract_number import hedged, number_in, stated_number, without_working
from reasonrl.rewards.extract_prose import after_copula, in_prose
from reasonrl.rewards.extract_stated import Statement, differ_in_a_row, option_called_correct, statements
from reasonrl.rewards.extract_text import (
    after_thinking,
    last_tag,
    math_spans,
    sentence_end,
    undressed,
    without_markup,
    words,
)
from reasonrl.rewards.letters import first_named, labelled, lone_letters
from reasonrl.rewards.policy import Policy

__all__ = ["Found", "How", "after_thinking", "extract_answer", "extract_gold"]

How = Literal["box", "tag", "hashes", "stated", "whole", "prose_number", "prose_letter", "prose_formula", "prose_words"]

_BARE_LENGTH = 600
_BARE_WORDS = 8
_STATED_WORDS = 4
_LOOKED_AT = 400_000
_RELATION = re.compile(r"[=<>≤≥]|\\(?:leq?|geq?|lt|gt|neq?|equiv|in)(?![A-Za-z])")
_OR = re.compile(r"\\(?:text|mathrm)\s?\{\s*or\s*\}|\bor\b")
_HEADING = re.compile(r"[:：]$|\b(?:answer|solution|conclusion|result|summary)\b[\s*:]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """An answer and how it was found: in a box, in `<answer>` tags, after `####`, after "the answer is", as the whole
    response, or (`prose_…`) in the last sentence of a response that states none.
    """

    text: str
    how: How


def extract_answer(response: str, gold: str | None = None, policy: Policy | None = None) -> Found | None:
    r"""The response's final answer, or None.

    In this order, outside the think blocks: the last complete `\boxed{…}` (inside the last `<answer>` tags if there are
    any); those tags' content; what follows the last `####`; what follows the last "the answer is", "Final answer:",
    "答案是" and their like; a response that is nothing but an answer (one short line without prose); and, where the
    policy looks into prose, the number, letter or formula that the last sentence ends in. An empty box is no answer.

    Args:
        response: the model's text; only its last 400,000 characters outside the think blocks are looked at.
        gold: the bare gold (`extract_gold`); its kind, never its value, steers what is looked for (a response that is
            the gold, letter by letter, is taken whole). None: only what is marked as the answer counts, as it is
            written.
        policy: rules of comparison; its `prose_answers` says whether prose is looked into. None: it is.
    """
    text = without_markup(after_thinking(response)[-_LOOKED_AT:])
    kind: Kind = "other" if gold is None else kind_of(gold)
    if gold and text.strip() == gold.strip():
        return _found(gold, "whole")
    prose = gold is not None and (policy is None or policy.prose_answers)
    tagged = last_tag(text, "answer") if "</" in text else None
    for place in (tagged, text):
        box = listed_boxes(place, items_of(gold) if kind == "list" and gold else 1) if place else None
        if box is not None:
            return _found(box, "box")  # an empty box is no answer, whatever else is said
    if tagged is not None:
        return _found(_inside(tagged, kind, prose), "tag")
    hashes = _after_hashes(text)
    if hashes is not None:
        return _found(hashes, "hashes")
    if prose and differ_in_a_row(text):
        return None
    said = _stated(text, kind, prose)
    if said is not None:
        return None if prose and _bounds_only(said, kind, gold) else _found(said, "stated")
    bare = undressed(text) if prose else text.strip()
    asked = kind != "text" and sentence_end(bare) >= len(bare) - 1 and asks(bare)
    if prose and asked:
        return None
    if _is_bare(bare, kind, prose, gold or ""):
        return _found(bare, "whole")
    if prose and (found := in_prose(text, kind, _RELATION.search(gold or "") is not None)) is not None:
        return _found(*found)
    if not bare or "\n" in bare or len(bare) > _BARE_LENGTH or words(bare) > _BARE_WORDS or "\\boxed" in bare:
        return None
    if prose and ((kind in ("number", "letter") and hedged(bare)) or _bounds_only(bare, kind, gold)):
        return None
    return _found(bare, "whole")


def _found(text: str, how: How) -> Found | None:
    text = undressed(text)
    return Found(text, how) if text else None


def _bounds_only(text: str, kind: Kind, gold: str | None) -> bool:
    """Whether a short answer bounds the number that is asked for."""
    return (
        kind == "number" and "\n" not in text and len(text) <= _BARE_LENGTH and bounds(text) and not bounds(gold or "")
    )


def _inside(tagged: str, kind: Kind, prose: bool) -> str:
    said = _stated(tagged, kind, prose)
    return tagged if said is None else said


def _after_hashes(text: str) -> str | None:
    """What follows the last `####` on its line: a few words at most, or it heads a section and is no answer."""
    _, hashes, tail = text.rpartition("####")
    line = tail[:_BARE_LENGTH].strip().split("\n")[0].strip()
    if not hashes or not line or words(line) > 3 or line.startswith("#") or _HEADING.search(line):
        return None
    return line.strip("*# ")


def _stated(text: str, kind: Kind, prose: bool) -> str | None:
    for statement in statements(text):
        said = _value_of(statement, kind, prose)
        if said:
            return said
    if kind == "letter":
        return option_called_correct(text)
    return None


def _value_of(statement: Statement, kind: Kind, prose: bool) -> str | None:
    """The answer of a statement, read for a kind of gold; None if it states none of that kind."""
    answer = without_working(statement.answer) if kind == "number" else statement.answer
    if kind == "letter" and lone_letters(answer) is None and labelled(answer) is None:
        return first_named(statement.tail) or answer
    if kind != "number" or not prose:
        return answer
    place = statement.tail.find(answer)
    if place >= 0 and qualified(statement.tail[max(0, place - 40) : place], statement.tail[place + len(answer) :]):
        return None
    if not words(answer):
        return (number_in(answer) or answer) if "=" in answer else answer
    sentence = answer if any(symbol.isdigit() for symbol in answer) else statement.sentence
    if words(sentence) > _STATED_WORDS and not statement.last:
        return None  # it heads a text that goes on
    number = stated_number(sentence)
    return answer if number is None and words(answer) <= _STATED_WORDS else number


def _is_bare(text: str, kind: Kind, prose: bool, gold: str) -> bool:
    """Whether a response is one line that is an answer as it stands, for this kind of gold."""
    if not text or "\n" in text or len(text) > _BARE_LENGTH or "\\boxed" in text:
        return False
    count = words(text)
    if kind == "text":
        return True
    if not prose:
        return count <= _BARE_WORDS
    if kind == "number":
        return count == 0 and "=" not in text
    if kind == "letter":
        return lone_letters(text) is not None
    if kind == "words":
        said = None if after_copula(gold, kind) else after_copula(text, kind)
        return count <= _BARE_WORDS and "**" not in text and said is None
    if count == 0 or kind == "other":
        return count == 0 or ("=" in text and words(_OR.sub(" ", text)) == 0)
    return count <= _BARE_WORDS and not math_spans(text) and after_copula(text, kind) is None
