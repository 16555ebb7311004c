"""Steps of a solution: spans of characters that partition its text, and where they end among its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import DataError


@dataclass(frozen=True)
class Step:
    """A step: the characters `start` (its first) to `end` (one past its last) of a solution's text."""

    start: int
    end: int


def steps_from_pieces(pieces: Iterable[str]) -> list[Step]:
    """The steps of the text that the pieces make when they are put together; pieces without characters are left out."""
    steps: list[Step] = []
    start = 0
    for piece in pieces:
        if piece:
            steps.append(Step(start, start + len(piece)))
            start += len(piece)
    return steps


def steps_from_spans(spans: Iterable[Any]) -> list[Step]:
    """The steps of a record, `[[start, end], ...]`; raises DataError if one is not a pair of whole numbers."""
    steps: list[Step] = []
    for number, span in enumerate(spans):
        pair = list(span) if isinstance(span, Sequence) and not isinstance(span, str) else []
        if len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, int) for end in pair):
            raise DataError(f"steps[{number}] = {span!r}, but a step is [start, end], two whole numbers of characters")
        steps.append(Step(*pair))
    return steps


def spans_of(steps: Iterable[Step]) -> list[list[int]]:
    """The steps as a record holds them: `[[start, end], ...]`."""
    return [[step.start, step.end] for step in steps]


def partition_fault(text: str, steps: Sequence[Step]) -> str | None:
    """What keeps the steps from partitioning the text, in words; None if they do.

    They do if the first starts at 0, each starts where the last one ended and holds a character, and the last ends
    where the text does. An empty text has no steps.
    """
    start = 0
    for number, step in enumerate(steps):
        if step.start != start:
            return f"step {number} starts at character {step.start}, but the steps before it end at {start}"
        if step.end <= step.start:
            return f"step {number} holds no character ({step.start} to {step.end})"
        start = step.end
    if start != len(text):
        return f"the steps end at character {start}, but the text has {len(text)}"
    return None


def steps_text(text: str, steps: Sequence[Step]) -> list[str]:
    """The text of every step; put together they are `text`.

    Raises:
        DataError: the steps do not partition the text.
    """
    fault = partition_fault(text, steps)
    if fault:
        raise DataError(f"steps: {fault} -> segment the text again")
    return [text[step.start : step.end] for step in steps]


def token_ends(steps: Sequence[Step], offsets: Sequence[Sequence[int]], text: str | None = None) -> list[int]:
    """Index of the last token of every step: where its score is read.

    A token belongs to the step that holds its first character, so one that straddles a boundary goes to the earlier
    step. Tokens without characters (special ones) belong to none.

    Args:
        steps: a partition of the text.
        offsets: [T] (start, end) of every token of the solution in characters of the same text, as fast tokenizers
            give them with `return_offsets_mapping`.
        text: the solution. Given, white space that no token covers is not taken for a cut: some tokenizers leave it out
            of their offsets.

    Returns:
        [K] indices into `offsets`, never falling. A step that has no token of its own (it lies inside a token of the
        step before) shares that token. -1 where the tokens stop before the step's last character, because the
        solution was truncated, or where no token precedes its end.
    """
    ends: list[int] = []
    token, last, covered = 0, -1, 0
    for step in steps:
        while token < len(offsets):
            start, end = offsets[token]
            if end > start:
                if start >= step.end:
                    break
                last, covered = token, max(covered, end)
            token += 1
        rest = text[covered : step.end] if text is not None else ""
        reached = token < len(offsets) or covered >= step.end or (text is not None and not rest.strip())
        ends.append(last if reached else -1)
    return ends
