r"""Finding the answer in a response, and the bare gold in a gold cell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reasonrl.latex import last_box

How = Literal["box", "tag", "hashes", "stated", "whole"]

_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_STATED = re.compile(r"\banswer\s*(?:\*\*)?\s*(?:is|are|:|=)\s*(?:\*\*)?\s*:?\s*([^\n]+)", re.IGNORECASE)
_SENTENCE_END = re.compile(
    r"[.!?](?=\s|$)|\*\*|(?:,|;|\s)\s*(?:because|since|as|so|which|and not|not)\b", re.IGNORECASE
)
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_BARE_LENGTH = 600
_BARE_WORDS = 8


@dataclass(frozen=True)
class Extracted:
    """An answer and where it stood: in a box, in `<answer>` tags, after `####`, after "answer is", or as the whole
    response.
    """

    text: str
    how: How


def after_thinking(response: str) -> str:
    """The response without its think block: what follows the last `</think>`; what stands before a block that never
    ends.
    """
    _, end, rest = response.rpartition("</think>")
    if end:
        return rest
    return response.partition("<think>")[0]


def extract_answer(response: str) -> Extracted | None:
    r"""The response's final answer, or None.

    In this order, outside the think block: the last complete `\boxed{…}` (inside the last `<answer>` tags if there are
    any), those tags' content, what follows the last `####`, what follows the last "answer is" or "answer:", and a
    response that is nothing but an answer (one short line without prose). An empty box is no answer.
    """
    text = after_thinking(response)
    tags = _ANSWER_TAG.findall(text)
    tagged = tags[-1] if tags else None
    box = last_box(tagged) if tagged is not None else None
    if box is None:
        box = last_box(text)
    if box is not None:
        return _found(box, "box")
    if tagged is not None:
        return _found(_inside(tagged), "tag")
    _, hashes, tail = text.rpartition("####")
    if hashes:
        return _found(tail.strip().split("\n")[0], "hashes")
    stated = _last_stated(text)
    if stated is not None:
        return _found(stated, "stated")
    bare = text.strip()
    if "\n" not in bare and len(bare) <= _BARE_LENGTH and len(_WORD.findall(bare)) <= _BARE_WORDS:
        return _found(bare, "whole")
    return None


def extract_gold(gold: str) -> str:
    r"""The bare gold: a final `#### x`, `<answer>` tags and a `\boxed{…}` are opened; anything else is taken as it is
    written.
    """
    _, hashes, tail = gold.rpartition("####")
    if hashes and "\n" not in tail.strip():
        gold = tail
    tags = _ANSWER_TAG.findall(gold)
    gold = tags[-1] if tags else gold
    box = last_box(gold)
    return (gold if box is None else box).strip()


def _found(text: str, how: How) -> Extracted | None:
    return Extracted(text.strip(), how) if text.strip() else None


def _inside(tagged: str) -> str:
    stated = _last_stated(tagged)
    return tagged if stated is None else stated


def _last_stated(text: str) -> str | None:
    tail = None
    for match in _STATED.finditer(text):
        tail = match.group(1)
    if tail is None:
        return None
    spans = list(_MATH_SPAN.finditer(tail))
    if len(spans) == 1 and not re.match(r"\s*(?:or|and|,)\b", tail[spans[0].end() :], re.IGNORECASE):
        return next(group for group in spans[0].groups() if group is not None)
    if spans:
        return tail
    end = _SENTENCE_END.search(tail)
    return tail[: end.start()] if end and end.start() else tail
