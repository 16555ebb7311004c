"""Completions as trainers hand them over: text, or a conversation's last turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonrl.errors import RewardError


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last assistant message (text parts joined; no such
    message: empty).

    Raises:
        RewardError: it is neither text nor a list of messages.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and all(isinstance(turn, dict) and "content" in turn for turn in completion):
        for turn in reversed(completion):
            if turn.get("role", "assistant") == "assistant":
                return _content(turn["content"])
        return ""
    raise RewardError(f"a completion is text or a list of messages with content, not {completion!r:.200}")


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
