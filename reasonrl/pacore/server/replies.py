"""Replies as the API defines them."""

from __future__ import annotations

import json
import time
from typing import Any

from reasonrl.pacore.rounds import Outcome
from reasonrl.pacore.server.answering import summary
from reasonrl.pacore.server.asked import Asked
from reasonrl.pacore.server.splitting import Piece

_REASONS = ("stop", "length", "content_filter", "tool_calls")


def usage_of(outcome: Outcome) -> dict[str, Any]:
    """Tokens of all calls; those of the earlier rounds are reasoning."""
    earlier = sum(record.completion_tokens for record in outcome.rounds[:-1])
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": earlier},
    }


def _about(asked: Asked, outcome: Outcome) -> dict[str, Any]:
    return {"level": asked.level, "seed": asked.seed, "rounds": summary(outcome)}


def _finish(outcome: Outcome) -> str:
    reason = outcome.last.finish_reason
    return reason if reason in _REASONS else "stop"


def completion(asked: Asked, outcome: Outcome, reasoning: str, name: str) -> bytes:
    """The body of a whole reply."""
    message: dict[str, Any] = {"role": "assistant", "content": outcome.text, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    body = {
        "id": name,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(outcome)}],
        "usage": usage_of(outcome),
        "pacore": _about(asked, outcome),
    }
    return encoded(body)


class Chunks:
    """The events of a streamed reply."""

    def __init__(self, asked: Asked, name: str) -> None:
        self.asked = asked
        self.head = {"id": name, "object": "chat.completion.chunk", "created": int(time.time()), "model": asked.model}

    def _event(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.asked.usage else {}
        return event({**self.head, "choices": [choice], **usage, **more})

    def first(self) -> bytes:
        """Who speaks."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> bytes:
        """A part of the reasoning or of the answer."""
        kind, text = piece
        return self._event({"content": text} if kind == "content" else {"reasoning_content": text})

    def end(self, outcome: Outcome) -> bytes:
        """The end, with the usage where it was asked for."""
        said = self._event({}, _finish(outcome), pacore=_about(self.asked, outcome))
        if self.asked.usage:
            said += event({**self.head, "choices": [], "usage": usage_of(outcome)})
        return said + b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + encoded(body) + b"\n\n"


def encoded(body: dict[str, Any]) -> bytes:
    """JSON; half a surrogate pair, as an upstream may send, is escaped."""
    return json.dumps(body).encode()
