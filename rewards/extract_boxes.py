r"""Which of a text's boxes hold the answer: the last one, or several that together are a list.

`\boxed{2} and \boxed{3}` is the list `2, 3`; `\boxed{5} or \boxed{6}` names two answers and stays `5 or 6`; a wall of
boxes, one guess after the other, stays a list of guesses.
"""

from __future__ import annotations

import re
from itertools import pairwise

from reasonrl.latex import Box, bare_content, box_spans

_BARE_GAP = re.compile(r"(?:\\n(?![a-z])|[\s$.\\()\[\]])*")
_JOINED_GAP = re.compile(
    rf"{_BARE_GAP.pattern}(?:,|;|、|&|/|(?:\\text\s*\{{\s*)?(?:and|or|et|ou|und|oder|y|o|和|或)(?:\s*\}})?"
    r"|, (?:and|or))"
    rf"{_BARE_GAP.pattern}"
)
_OR = re.compile(r"(?<![A-Za-z])(?:or|ou|oder|o)(?![A-Za-z])|/|或")
_SENTENCE_GAP = re.compile(r"[.!?]\s|\n\s*\n|[。！？]")
_TAKEN_BACK = re.compile(
    r"[\s$*.)\]\\]{0,4}(?:that\s)?(?:is|was)\s(?:wrong|incorrect|false|not (?:right|correct|the answer))\b",
    re.IGNORECASE,
)
_LONGEST_GAP = 80
_WALL = 3


def listed_boxes(text: str, items: int = 1) -> str | None:
    """The boxed answer of a text; None if there is no complete box, empty if none of them holds anything.

    Args:
        text: a response, or a gold.
        items: how many items a list has that the answer is compared with; boxes spread over one closing sentence are
            taken together when there are as many of them.
    """
    complete = box_spans(text)
    found = [box for box in complete if box.content.strip() and not _TAKEN_BACK.match(text, box.end)]
    if not found:
        return "" if complete else _unbraced(text)
    run = _closing_run(text, found, items > 1)
    contents = [bare_content(box.content).strip() for box in run]
    different = list(dict.fromkeys(contents))
    if len(different) == 1:
        return contents[-1]
    gaps = [text[left.end : right.start] for left, right in pairwise(run)]
    if any(_OR.search(gap) for gap in gaps if not _BARE_GAP.fullmatch(gap)):
        return " or ".join(different)
    if any(not _BARE_GAP.fullmatch(gap) for gap in gaps) or len(different) >= _WALL or items > 1:
        return ", ".join(contents)
    return contents[-1]


def _closing_run(text: str, found: list[Box], spread: bool) -> list[Box]:
    first = len(found) - 1
    while first > 0:
        start, end = found[first - 1].end, found[first].start
        gap = text[start : min(end, start + _LONGEST_GAP + 1)]
        if len(gap) > _LONGEST_GAP:
            break
        joined = _BARE_GAP.fullmatch(gap) or _JOINED_GAP.fullmatch(gap)
        if not joined and not (spread and not _SENTENCE_GAP.search(gap)):
            break
        first -= 1
    return found[first:]


def _unbraced(text: str) -> str | None:
    r"""`\boxed 5`, as TeX reads a single token."""
    if "\\boxed " not in text:
        return None
    match = re.match(r"\s*([^\s$\\{}]{1,40})", text[text.rfind("\\boxed ") + 7 :][:60])
    return match.group(1) if match else None
