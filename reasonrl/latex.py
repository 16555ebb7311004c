r"""Finding boxed answers in LaTeX: used by the data readers (golds) and by the rewards (responses). Standard library
only.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# The doubled backslash is that of a text that was escaped twice. Every branch begins with a plain character: the search
# skips what begins none, and takes a third of the time that it took with `\\{1,2}` and `[{}]`.
_TOKEN = re.compile(r"\\\\?(?:boxed|fbox)\s*\{|\\.|\{|\}", re.DOTALL)
_BOX_AT_START = ("\\boxed", "\\fbox", "\\\\boxed", "\\\\fbox")
_MAX_NESTED_BOXES = 8


class Box(NamedTuple):
    r"""A complete `\boxed{…}`: its content, where the command starts, and where its closing brace ends."""

    content: str
    start: int
    end: int


def box_spans(text: str) -> list[Box]:
    r"""The complete, outermost `\boxed{…}` and `\fbox{…}` of a text, in order; braces nest, escaped ones do not count.

    One pass over the text, so that thousands of unclosed boxes cost no more than any other text.
    """
    if "boxed" not in text and "fbox" not in text:
        return []
    closed: list[tuple[int, int, int]] = []
    stack: list[tuple[int, int]] = []  # of each open brace: where the command and the content start; -1 for no box
    for token in _TOKEN.finditer(text):
        symbol = token[0]
        if symbol == "{":
            stack.append((-1, -1))
        elif symbol == "}":
            start, inside = stack.pop() if stack else (-1, -1)
            if start >= 0:
                while closed and closed[-1][0] > start:
                    closed.pop()  # a box inside this one
                closed.append((start, inside, token.start()))
        elif symbol.endswith("{") and len(symbol) > 2:
            stack.append((token.start(), token.end()))
    new = tuple.__new__  # what `Box(…)` comes to, at half its cost
    return [new(Box, (text[inside:end], start, end + 1)) for start, inside, end in closed]


def boxes(text: str) -> list[str]:
    r"""The contents of `box_spans`."""
    return [box.content for box in box_spans(text)]


def last_box(text: str) -> str | None:
    """The content of the last complete box of a text, boxes inside it taken off; None if there is none."""
    found = box_spans(text)
    return bare_content(found[-1].content) if found else None


def bare_content(content: str) -> str:
    """A box's content; that of the box inside it where it begins with the only one (eight deep at most)."""
    if "box" not in content:
        return content
    for _ in range(_MAX_NESTED_BOXES):
        if not content.lstrip().startswith(_BOX_AT_START):
            break
        inner = box_spans(content)
        if len(inner) != 1:
            break
        content = inner[0].content
    return content
