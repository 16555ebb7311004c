r"""Finding boxed answers in LaTeX: used by the data readers (golds) and by the rewards (responses). Standard library
only.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[str]:
    r"""The contents of the complete, outermost `\boxed{…}` and `\fbox{…}` of a text, in order; braces nest, escaped
    ones do not count.

    One pass over the text, so that thousands of unclosed boxes cost no more than any other text.
    """
    closed: list[tuple[int, int]] = []
    stack: list[int] = []  # where each open brace's content starts; negative for a brace that is no box
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "{":
            stack.append(-1)
        elif symbol == "}":
            start = stack.pop() if stack else -1
            if start >= 0:
                while closed and closed[-1][0] > start:
                    closed.pop()  # a box inside this one
                closed.append((start, token.start()))
        elif symbol.endswith("{") and len(symbol) > 2:
            stack.append(token.end())
    return [text[start:end] for start, end in closed]


def last_box(text: str) -> str | None:
    """The content of the last complete box of a text, boxes inside it taken off; None if there is none."""
    found = boxes(text)
    if not found:
        return None
    content = found[-1]
    while (inner := boxes(content)) and content.strip().startswith(("\\boxed", "\\fbox")):
        content = inner[-1]
    return content
