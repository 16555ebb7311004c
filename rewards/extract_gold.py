r"""The bare gold of a gold cell, and what kind of thing it is: that steers how an answer is looked for in prose."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from reasonrl.rewards.extract_boxes import listed_boxes
from reasonrl.rewards.extract_number import is_number
from reasonrl.rewards.extract_stated import statements
from reasonrl.rewards.extract_text import last_tag, words
from reasonrl.rewards.letters import labelled, lone_letters

Kind = Literal["number", "letter", "words", "list", "text", "other"]

_DOLLARS = re.compile(r"^\s*(?:\$\$?|\\\(|\\\[)\s*|\s*(?:\$\$?|\\\)|\\\])\s*$")
_UNIT = re.compile(
    r"\s*(?:\\[,;:! ]|~)*\s*"
    r"(?:\\(?:text|mathrm|textrm|mbox)\s*\{[^{}\d]{0,40}\}|[A-Za-z°][A-Za-z°./ ]{0,30}|\^\s*\{?\s*\\circ\s*\}?)"
    r"(?:\s*\^\s*\{?\s*[23]\s*\}?|[²³])?"
)
_SEPARATOR = re.compile(r",(?!\d{3}(?!\d))|;|\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_LEFT_SIDE = re.compile(r"^\s*[A-Za-z](?:\([A-Za-z]\)|_\{?\w\}?)?\s*=\s*(?=[^=]+$)")
_THOUSANDS = re.compile(r"(?<![\d,])(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?![\d,])")
_SHORT_WORDS = 6
_LONGEST = 400


def extract_gold(gold: str) -> str:
    r"""The bare gold: a final `#### x`, `<answer>` tags and a `\boxed{…}` are opened (boxes joined by commas or "and"
    are a list), and so is what follows "the answer is" in a gold that is a sentence; anything else is taken as written.
    """
    _, hashes, tail = gold.rpartition("####")
    if hashes and "\n" not in tail.strip():
        gold = tail
    tagged = last_tag(gold, "answer") if "<" in gold else None
    gold = gold if tagged is None else tagged
    boxed = listed_boxes(gold)
    if boxed is not None:
        return boxed.strip()
    if "answer" in gold.lower() and (said := statements(gold)) and said[0].last:
        return said[0].tail
    return gold.strip()


@lru_cache(maxsize=4096)
def kind_of(gold: str) -> Kind:
    """What a bare gold is: a number with its unit, one or more letters of choices (`(D) Alina` too), a few words, a
    list, a longer text, or other: a formula.
    """
    text = gold.strip()
    if len(text) > _LONGEST:
        return "text"
    while (bare := _DOLLARS.sub("", text)) != text:
        text = bare
    text = text.rstrip(".").strip()
    if lone_letters(text) is not None or labelled(text) is not None:
        return "letter"
    number = _LEFT_SIDE.sub("", text.replace("{,}", ",").replace("\\!", "").replace("\\$", "$"))
    number = re.sub(r"\\text\s*\{\s*([^{}]*\d[^{}]*)\s*\}", r"\1", number).strip()
    if is_number(number) and "," not in _THOUSANDS.sub("1", number):
        return "number"
    unit = re.match(r"[^A-Za-z\\~°^]*(?:\\[dtc]?frac\s*\{[^{}]*\}\s*\{[^{}]*\})?", number)
    if unit and unit.group().strip() and is_number(unit.group()) and _UNIT.fullmatch(number, unit.end()):
        return "number" if not re.fullmatch(r"\s*[a-z]", number[unit.end() :]) else "other"
    if re.fullmatch(r"(?:\\text\s*\{)?[^\W\d_][^\d\\{}=^]*\}?", text) and words(text):
        return "words" if words(text) <= _SHORT_WORDS else "text"
    if words(_SEPARATOR.sub(" ", text)) > 1:
        return "text"
    return "list" if _SEPARATOR.search(text) else "other"


def items_of(gold: str) -> int:
    """How many items a list has, by its commas and its "and"s outside brackets; 1 for anything else."""
    if kind_of(gold) != "list":
        return 1
    depth, last, items = 0, 0, 1
    for separator in _SEPARATOR.finditer(gold):
        piece = gold[last : separator.start()]
        depth += sum(piece.count(mark) for mark in "({[") - sum(piece.count(mark) for mark in ")}]")
        items += depth <= 0
        last = separator.end()
    return items
