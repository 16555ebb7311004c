"""Hints for prompts that no sample got right: the row's own words, put into its prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import DataError
from reasonrl.recipe.sampling_rules import DEFAULT_HINT_TEMPLATE


@dataclass(frozen=True)
class Hints:
    """How a hint is made and where it goes (groups that fail are drawn again with ground-truth hints in the prompt:
    arXiv 2512.15431, section 2.2).

    Attributes:
        column: the column that holds it, such as `hint` or `solution`.
        fraction: how much of its words is given, from the first on, rounded up.
        template: the user's last message with the hint: `{prompt}` is what it was, `{hint}` the hint.
    """

    column: str
    fraction: float = 1.0
    template: str = DEFAULT_HINT_TEMPLATE

    def check(self, columns: Sequence[str]) -> None:
        """Raises DataError when the rows have no such column."""
        if self.column not in columns:
            raise DataError(
                f"hint_column = {self.column!r}, but the rows have no such column; there are {', '.join(columns)} ->"
                " name one of them, or add the column to the data"
            )

    def text(self, row: dict[str, Any]) -> str:
        """The hint of a row; empty where its column is."""
        whole = row.get(self.column)
        words = list(re.finditer(r"\S+", "" if whole is None else str(whole)))
        if not words:
            return ""
        # 1e-9: 0.3 of ten words is three, whatever the product rounds to.
        given = max(1, math.ceil(self.fraction * len(words) - 1e-9))
        return str(whole)[words[0].start() : words[given - 1].end()]

    def hinted(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The row with the hint in its prompt; None where it has no hint."""
        hint = self.text(row)
        return {**row, "prompt": self._prompt(row["prompt"], hint)} if hint else None

    def _prompt(self, prompt: Any, hint: str) -> Any:
        if isinstance(prompt, str):
            return self._filled(prompt, hint)
        last = max(place for place, turn in enumerate(prompt) if turn["role"] == "user")
        return [
            {**turn, "content": self._content(turn["content"], hint)} if place == last else turn
            for place, turn in enumerate(prompt)
        ]

    def _content(self, content: Any, hint: str) -> Any:
        if isinstance(content, str):
            return self._filled(content, hint)
        last = max(place for place, part in enumerate(content) if part.get("type") == "text")
        return [
            {**part, "text": self._filled(part["text"], hint)} if place == last else part
            for place, part in enumerate(content)
        ]

    def _filled(self, prompt: str, hint: str) -> str:
        # In one pass, and not by `format`: prompts and hints are full of braces.
        return re.sub(r"\{(prompt|hint)\}", lambda found: prompt if found[1] == "prompt" else hint, self.template)
