"""Parting thinking from the answer while it still comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from reasonrl.pacore.compaction import OPENING_TAG

Piece: TypeAlias = tuple[Literal["reasoning", "content"], str]


class Splitter:
    """Parts streamed text at a closing tag, as compaction parts the whole: thinking before it, the answer after it.

    Of several closing tags the first one counts here, since what was handed over cannot be taken back. White space at
    both ends of the answer is held back.

    Args:
        tag: the closing tag.
        thinks: whether text without an opening tag is thinking until the closing tag comes, or the answer.
    """

    def __init__(self, tag: str, thinks: bool) -> None:
        self.tag = tag
        self.thinks = thinks
        self._held = ""
        self._state: Literal["start", "thinking", "answer"] = "start"
        self._said = False

    def parted(self) -> None:
        """The server parts thinking and answer itself: text is the answer."""
        self._state = "answer"

    def add(self, text: str) -> Iterator[Piece]:
        """The pieces that a further part of the text lets go."""
        self._held += text
        if self._state == "start":
            self._begin()
        if self._state == "thinking":
            yield from self._thinking()
        if self._state == "answer":
            yield from self._answer()

    def _begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPENING_TAG):
            self._state, self._held = "thinking", start.removeprefix(OPENING_TAG)
        elif not OPENING_TAG.startswith(start):
            self._state = "thinking" if self.thinks else "answer"

    def _thinking(self) -> Iterator[Piece]:
        before, found, after = self._held.partition(self.tag)
        # The tag may come in parts.
        keep = 0 if found else _overlap(before, self.tag)
        if len(before) > keep:
            yield "reasoning", before[: len(before) - keep]
        self._held = after if found else before[len(before) - keep :]
        if found:
            self._state = "answer"

    def _answer(self) -> Iterator[Piece]:
        if not self._said:
            self._held = self._held.lstrip()
        if ready := self._held.rstrip():
            self._held = self._held[len(ready) :]
            self._said = True
            yield "content", ready


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of a text may be the beginning of the tag."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:size]):
            return size
    return 0
