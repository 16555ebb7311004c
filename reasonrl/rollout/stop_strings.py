"""Texts that end a sample, wherever tokens part them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A character may lie across tokens, and some tokens have no text: a few more are read than the longest text has bytes.
_MARGIN = 8


class StopStrings:
    """Whether a response, grown by one token, now holds one of some texts; special tokens count as their text.

    Only its end is read, so that a token costs the same however long the response is.

    Args:
        tokenizer: decodes the response.
        texts: none of them empty; without any, nothing ends.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._decode, self._texts = tokenizer.batch_decode, tuple(texts)
        self._window = max((len(text.encode()) for text in texts), default=0) + _MARGIN

    def ended(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """For each response of token ids: whether one of the texts stands in it."""
        if not self._texts:
            return [False] * len(responses)
        ends = self._decode(
            [list(ids[-self._window :]) for ids in responses],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return [any(text in end for text in self._texts) for end in ends]
