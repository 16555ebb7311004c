r"""The options of a multiple-choice question: from a column of the data, or as the problem's text lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from reasonrl.rewards.letters import labelled

_MARKER = re.compile(r"(?<![A-Za-z\d\\])(?:\(\s?([A-Z])\s?\)|（([A-Z])）|\[([A-Z])\]|([A-Z])\s?[).:．、：](?!\w))")
_DRESSING = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{(?=\s*[(（\[]?[A-Z][)）\].:]?\s*\})|\\q?quad\b|\\hspace\s?\{[^{}]*\}|\\\s|~"
)
_LONGEST_TEXT = 50_000


def options_of(value: Any) -> dict[str, str] | None:
    """Options by letter, from a cell: a mapping of letters to texts (or ARC's `label` and `text` lists), a list of
    texts (with or without their letters), JSON of either, or a text that lists them. None if it holds fewer than two.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("{", "[")):
            try:
                return options_of(json.loads(text))
            except (ValueError, RecursionError):
                return options_in(value)
        return options_in(value)
    if isinstance(value, Mapping):
        labels, texts = value.get("label"), value.get("text")
        if isinstance(labels, Sequence) and isinstance(texts, Sequence) and not isinstance(labels, str):
            value = dict(zip(labels, texts, strict=False))
        found = {
            _letter(key, place): str(text).strip()
            for place, (key, text) in enumerate(value.items())
            if text is not None and place < len(ascii_uppercase)
        }
        return found if len(found) > 1 else None
    if isinstance(value, Sequence):
        return _listed([str(item).strip() for item in value if item is not None][: len(ascii_uppercase)])
    return None


def options_in(text: str) -> dict[str, str] | None:
    r"""The options that a problem's text lists as `(A) … (B) …`, `A. …` or `\textbf{(A)} …`, the last such list that
    begins with A; None if there are fewer than two.
    """
    text = _DRESSING.sub(" ", text[-_LONGEST_TEXT:])
    found: dict[str, tuple[int, int]] = {}
    best: dict[str, tuple[int, int]] = {}
    for marker in _MARKER.finditer(text):
        letter = next(group for group in marker.groups() if group)
        if letter == "A":
            found = {"A": marker.span()}
        elif len(found) < len(ascii_uppercase) and letter == ascii_uppercase[len(found)]:
            found[letter] = marker.span()
        if len(found) > 1 and (len(found) >= len(best) or ("A" in best and best["A"] != found.get("A"))):
            best = dict(found)
    if len(best) < 2:
        return None
    spans = list(best.values())
    ends = [start for start, _ in spans[1:]]
    paragraph = re.compile(r"\n\s*\n").search(text, spans[-1][1] + 1)
    ends.append(paragraph.start() if paragraph else len(text))
    return {letter: _value(text[span[1] : end]) for letter, span, end in zip(best, spans, ends, strict=True)}


def _value(text: str) -> str:
    text = text.lstrip("} \t\r\n").strip(" \t\r\n*;,")
    while text.endswith("}") and text.count("}") > text.count("{"):
        text = text[:-1].rstrip(" *;,")
    if text.count("$") % 2:
        text = text.strip("$ ")
    return text.removesuffix(".").strip() if text.count(".") == 1 else text


def _letter(key: Any, place: int) -> str:
    name = str(key).strip().strip("()[].: ").upper()
    return name if len(name) == 1 and name in ascii_uppercase else ascii_uppercase[place]


def _listed(items: list[str]) -> dict[str, str] | None:
    if len(items) < 2:
        return None
    parts = [labelled(item) for item in items]
    letters = [part[0] for part in parts if part is not None]
    if letters == list(ascii_uppercase[: len(items)]):
        return {part[0]: part[1] for part in parts if part is not None}
    return dict(zip(ascii_uppercase, items, strict=False))
