"""Replies: read strictly, so that a malformed one is an error and never an empty text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reasonrl.endpoints.request import Request


@dataclass(frozen=True)
class Choice:
    """One response.

    Attributes:
        text: what the model answered; empty if it spent all its tokens on thinking.
        finish_reason: `stop`, `length`, … as the server says.
        reasoning: the thinking, where the server takes it apart from the answer.
        token_ids: the response's token ids, if they were asked for and the server gives them.
        logprobs: log-probability of each sampled token, likewise.
    """

    text: str
    finish_reason: str | None
    reasoning: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Reply:
    """A server's reply to one request.

    Attributes:
        choices: as many as were asked for, in the server's order.
        model: the model's name as the server gives it.
        prompt_tokens, completion_tokens: None if the server does not say.
        prompt_token_ids: if they were asked for and the server gives them.
        server: base_url of the server; empty for a reply from the cache.
        seconds: from sending the request to the end of the reply; 0 from the cache.
        raw: the whole body, such as for `top_logprobs`.
    """

    choices: tuple[Choice, ...]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_token_ids: tuple[int, ...] | None
    server: str
    seconds: float
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text

    @property
    def cached(self) -> bool:
        """True if no server was asked."""
        return not self.server


def read_reply(raw: Any, request: Request, server: str = "", seconds: float = 0.0) -> Reply:
    """The reply that a decoded body says.

    Raises:
        ValueError: what is missing or of the wrong kind, in a few words.
    """
    body = _mapping(raw, "the body")
    if "choices" not in body and body.get("error"):
        raise ValueError(f"the body holds an error: {str(body['error'])[:200]}")
    listed = body.get("choices")
    if not isinstance(listed, list) or not listed:
        raise ValueError("there are no choices" if listed in (None, []) else "choices is no list")
    if len(listed) < request.n:
        raise ValueError(f"{request.n} choices were asked for, {len(listed)} came")
    read = _chat_choice if request.path == "chat/completions" else _text_choice
    items = [_mapping(item, f"choice {place}") for place, item in enumerate(listed)]
    usage = body.get("usage") or {}
    prompt_ids = body.get("prompt_token_ids")
    return Reply(
        choices=tuple(read(item, place) for place, item in enumerate(items)),
        model=str(body.get("model") or ""),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        prompt_token_ids=_ids(prompt_ids if prompt_ids is not None else items[0].get("prompt_token_ids")),
        server=server,
        seconds=seconds,
        raw=body,
    )


def _chat_choice(item: Mapping[str, Any], place: int) -> Choice:
    message = _mapping(item.get("message"), f"the message of choice {place}")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the content of choice {place} is a {type(text).__name__}")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    tokens = (item.get("logprobs") or {}).get("content")
    return Choice(
        text=text or "",
        finish_reason=item.get("finish_reason"),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        token_ids=_ids(item.get("token_ids")),
        logprobs=None if tokens is None else tuple(float(token["logprob"]) for token in tokens),
    )


def _text_choice(item: Mapping[str, Any], place: int) -> Choice:
    text = item.get("text")
    if not isinstance(text, str):
        raise ValueError(f"choice {place} has no text")
    # With `echo` the first token of the prompt has no probability.
    logprobs = (item.get("logprobs") or {}).get("token_logprobs")
    return Choice(
        text=text,
        finish_reason=item.get("finish_reason"),
        token_ids=_ids(item.get("token_ids")),
        logprobs=None if logprobs is None else tuple(float("nan") if one is None else float(one) for one in logprobs),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is {'missing' if value is None else f'a {type(value).__name__}'}, not an object")
    return value


def _ids(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(token) for token in value)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else None
