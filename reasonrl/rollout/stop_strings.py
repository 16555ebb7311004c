"""Texts that end a sample, wherever tokens part them; looked for by us, whatever draws, so that all engines agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A character may lie across tokens, and some tokens have no text: a few more are read than the longest text has bytes.
_MARGIN = 8


class StopStrings:
    """Where a growing response first holds one of some texts; special tokens count as their text.

    Only its end is read, so that a token costs the same however long the response is.

    Args:
        tokenizer: decodes the response.
        texts: none of them empty; without any, nothing ends.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._decode, self._texts = tokenizer.batch_decode, tuple(texts)
        self._window = max((len(text.encode()) for text in texts), default=0) + _MARGIN

    def __bool__(self) -> bool:
        return bool(self._texts)

    def ended(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """For each response of token ids: whether one of the texts stands in its end."""
        if not self._texts:
            return [False] * len(responses)
        return self._hold([ids[-self._window :] for ids in responses])

    def end(self, ids: Sequence[int], new: int) -> int | None:
        """How many tokens of a response, whose last `new` ones have just come, it takes to hold a text; None: none."""
        if not self._texts or not new or not self._hold([ids[-self._window - new :]])[0]:
            return None
        sizes = range(len(ids) - new + 1, len(ids) + 1)
        return next((size for size in sizes if self._hold([ids[max(0, size - self._window) : size]])[0]), None)

    def _hold(self, parts: Sequence[Sequence[int]]) -> list[bool]:
        given = [list(part) for part in parts]
        texts = self._decode(given, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return [any(text in decoded for text in self._texts) for decoded in texts]
