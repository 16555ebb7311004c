"""Requests: what is asked, apart from where and how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reasonrl.endpoints.errors import EndpointSettingsError

Path = Literal["chat/completions", "completions"]


@dataclass(frozen=True)
class Request:
    """One request of an OpenAI-compatible API.

    Attributes:
        path: which call.
        body: the JSON body; the client adds the model and the settings' `extra_body`.
        sample: tells repeated requests of one body apart in the cache; it is not sent.
    """

    path: Path
    body: Mapping[str, Any] = field(hash=False)
    sample: int = 0
    _written: dict[str, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def n(self) -> int:
        """How many choices are asked for."""
        return int(self.body.get("n") or 1)

    def whole_body(self, model: str, extra_body: Mapping[str, Any]) -> dict[str, Any]:
        """The body as it is sent; what the request says goes before `extra_body`."""
        return {"model": model, **extra_body, **self.body}

    def written(self, model: str, extra_body: Mapping[str, Any]) -> bytes:
        """The body as JSON, written once; of one request it is always asked for with the same settings.

        Raises:
            EndpointSettingsError: it holds what JSON has no word for.
        """
        if "body" not in self._written:
            try:
                self._written["body"] = json.dumps(self.whole_body(model, extra_body)).encode()
            except (TypeError, ValueError) as problem:
                raise EndpointSettingsError(f"endpoint: the request cannot be written as JSON: {problem}") from None
        return self._written["body"]

    def key(self, model: str, extra_body: Mapping[str, Any]) -> str:
        """A hash of everything that may change the reply; the server's address does not."""
        parts = [self.path, self.sample, self.whole_body(model, extra_body)]
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def chat(
    messages: Sequence[Mapping[str, Any]] | str,
    *,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    logprobs: int | None = None,
    return_token_ids: bool = False,
    sample: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Request:
    """A chat request; what is None is not sent, so that the server's own default counts.

    Args:
        messages: a conversation; a text is one turn of the user.
        n: choices.
        logprobs: log-probabilities of the sampled tokens, and of this many likeliest ones beside each.
        return_token_ids: ask for the token ids of prompt and response (vLLM servers).
        sample: see `Request`.
        extra: further fields of the body.
    """
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(turn) for turn in messages]
    body: dict[str, Any] = {"messages": turns}
    if logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": logprobs}
    body |= _sampling(n, temperature, top_p, max_tokens, stop, seed, return_token_ids)
    return Request("chat/completions", body | dict(extra or {}), sample)


def completion(
    prompt: str | Sequence[int],
    *,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    logprobs: int | None = None,
    return_token_ids: bool = False,
    sample: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Request:
    """A completion request of one prompt, text or token ids (vLLM servers); the other arguments are those of `chat`."""
    body: dict[str, Any] = {"prompt": prompt if isinstance(prompt, str) else [int(token) for token in prompt]}
    if logprobs is not None:
        body["logprobs"] = logprobs
    body |= _sampling(n, temperature, top_p, max_tokens, stop, seed, return_token_ids)
    return Request("completions", body | dict(extra or {}), sample)


def _sampling(
    n: int,
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    stop: str | Sequence[str] | None,
    seed: int | None,
    return_token_ids: bool,
) -> dict[str, Any]:
    given = {
        "n": n if n != 1 else None,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "stop": stop if stop is None or isinstance(stop, str) else list(stop),
        "seed": seed,
        "return_token_ids": True if return_token_ids else None,
    }
    return {name: value for name, value in given.items() if value is not None}
