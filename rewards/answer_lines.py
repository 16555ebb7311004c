r"""The final answers of a response to several problems: one numbered line a problem, in its answer block.

    answers_of("… <answer>\n1. \\boxed{4}\n2. \\boxed{7}\n</answer>", 2)     # ["4", "7"]

All of it takes time linear in the response's length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from reasonrl.latex import bare_content, box_spans
from reasonrl.rewards.extract_text import after_thinking

_NAMED = r"(?:(?:final[ \t]+)?(?:problem|question|answer|solution)[ \t]+(?:(?:to|for|of)[ \t]+)?){0,2}"
LABEL = re.compile(
    r"[ \t>*_#-]*" + _NAMED + r"[\[(#]?([0-9]{1,4})[\])]?(?:\*\*)?[ \t]*(?:[.:)](?![0-9])|[=-](?![ \t]*[0-9]))",
    re.IGNORECASE,
)
"""What begins a numbered line: `1.`, `1)`, `(1):`, `**Problem 1:**`, `- 1:`; not `2.5` and not `12 - 5`."""
_USUAL = re.compile(r"\s*+(?:[0-9]{1,4}[.)] ?\\boxed\{[^{}\\\n]*+\}[ \t]*+(?:\n\s*+|\Z))++")
_USUAL_LINE = re.compile(r"([0-9]{1,4})[.)] ?\\boxed\{([^{}\\\n]*+)\}")
_REST = re.compile(r"[ \t*_:.]*")


class AnswerLine(NamedTuple):
    """A numbered line with an answer.

    Attributes:
        number: of the problem, from 1.
        answer: what it says; of several boxes on the line the last.
    """

    number: int
    answer: str


class Answers(NamedTuple):
    """What was found.

    Attributes:
        lines: the numbered lines with an answer, in order; a number may occur twice.
        loose: boxes on lines without a number, in order.
    """

    lines: tuple[AnswerLine, ...]
    loose: tuple[str, ...] = ()

    def by_number(self, k: int) -> list[str | None]:
        """The answer of each of k problems: that of the last line of its number; where no line is numbered and there
        are exactly k boxes, by order; None where there is none.
        """
        if not self.lines:
            return list(self.loose) if len(self.loose) == k else [None] * k
        said = {line.number: line.answer for line in self.lines}
        return [said.get(number) for number in range(1, k + 1)]


def answer_region(text: str, tag: str = "answer") -> str:
    """Where final answers stand: outside the think block, and there in the last block of this tag (up to the end if it
    is not closed) if there is one.
    """
    outside = after_thinking(text)
    start = outside.rfind(f"<{tag}>")
    return outside if start < 0 else outside[start + len(tag) + 2 :].partition(f"</{tag}>")[0]


def find_answers(region: str, line: re.Pattern[str] | None = None) -> Answers:
    """The answers of a region.

    Args:
        region: as `answer_region` gives it.
        line: a line's form with groups `number` and `answer`, for worlds that write no boxes; None: a number and a box.
    """
    if line is not None:
        read = [(found["number"], found["answer"]) for found in line.finditer(region)]
        return Answers(
            tuple(AnswerLine(int(number), said or "") for number, said in read if number and number.isdecimal())
        )
    new = tuple.__new__  # `AnswerLine(…)` at half its cost
    if _USUAL.fullmatch(region):  # what is asked for and nothing else, read in less time
        return Answers(
            tuple([new(AnswerLine, (int(number), said.strip())) for number, said in _USUAL_LINE.findall(region)])
        )
    lines: list[AnswerLine] = []
    loose: list[str] = []
    start, behind, last_start, labelled = 0, 0, -1, -1
    label: re.Match[str] | None = None
    for content, begin, _ in box_spans(region):
        start = region.rfind("\n", behind, begin) + 1 or start
        if start != labelled:
            label, labelled = LABEL.match(region, start, begin) or _label_above(region, behind, start), start
        behind = begin
        content = bare_content(content).strip()
        if label is None:
            loose.append(content)
            continue
        if start == last_start:
            lines.pop()
        lines.append(new(AnswerLine, (int(label[1]), content)))
        last_start = start
    return Answers(tuple(lines), tuple(loose))


def _label_above(region: str, behind: int, start: int) -> re.Match[str] | None:
    """The label that is all of the last line with text in [behind, start): what stands below is its answer."""
    before = region[behind:start].rstrip()
    line = before.rpartition("\n")[2]
    label = LABEL.match(line)
    return label if label is not None and _REST.fullmatch(line, label.end()) else None


def answers_of(text: str, k: int, tag: str = "answer", line: re.Pattern[str] | None = None) -> list[str | None]:
    """The final answers to k problems, None where there is none.

    An empty box is no answer.
    """
    return [answer or None for answer in find_answers(answer_region(text, tag), line).by_number(k)]
