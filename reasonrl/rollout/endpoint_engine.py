"""An engine over any OpenAI-compatible server: conversations out, texts in. For evaluation: it gives no log-probability
and takes no weights.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints import BadReply, EndpointClient, EndpointConfig, EndpointError, Reply, chat
from reasonrl.endpoints import Request as Call
from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, Sample, SamplingParams

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ChatRequest(Request):
    """A request as a conversation, which the server renders; `prompt_ids` is empty.

    Attributes:
        messages: `{"role", "content"}`; with images, contents in parts with one `{"type": "image"}` an image.
    """

    messages: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class TextSample(Sample):
    """A sample of which the server gives the text; `token_ids` and `logprobs_sampled` are empty.

    Attributes:
        tokens: of the response, as the server's usage says, thinking included.
    """

    tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens of the response."""
        return self.tokens


class EndpointEngine:
    """Asks a server for each sample by one chat request with the sample's seed.

    A response that the server has parted into thinking and answer is put together again as
    `<think>…</think>answer`. Temperature, top_p and `max_tokens` are always sent; what else the server should be told
    stands in the endpoint's `extra_body`.

    Args:
        endpoint: settings of the client (`reasonrl.endpoints`), or a mapping of them.
    """

    def __init__(self, endpoint: EndpointConfig | Mapping[str, Any]) -> None:
        self.client = EndpointClient(endpoint)
        self._urls: dict[int, tuple[Any, str]] = {}

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample as its reply comes.

        Raises:
            ModelError: a request is no conversation, or its places do not fit its images.
            EndpointError: a call has failed for good; it names the sample. Replies that came before are yielded first.
        """
        calls = (self._call(request, params) for request in requests)
        failed: tuple[Request, EndpointError] | None = None
        for place, outcome in self.client.stream(calls):
            if isinstance(outcome, EndpointError):
                # A call that fails for good stops the run, or every other one would be tried as long.
                failed = (requests[place], outcome)
                break
            yield _sample(requests[place], outcome)
        if failed is not None:
            request, error = failed
            raise type(error)(f"sample {request.id}: {error}") from error

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Raises ModelError: a server of others takes no weights."""
        raise ModelError(
            "rollout: an endpoint cannot take weights -> train with rollout.engine vllm, servers or transformers"
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _call(self, request: Request, params: SamplingParams) -> Call:
        if not isinstance(request, ChatRequest):
            raise ModelError(f"rollout: request {request.id!r} has no messages -> an endpoint is given a ChatRequest")
        return chat(
            [self._message(message, images) for message, images in _with_images(request)],
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            stop=list(params.stop_strings) or None,
            # Signed 64 bits is what servers take.
            seed=request.seed & 0x7FFF_FFFF_FFFF_FFFF,
        )

    def _message(self, message: Mapping[str, Any], images: Sequence[Any]) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str) or not images:
            return {**message, "content": content if isinstance(content, str) else _joined(content)}
        given = iter(images)
        parts = [
            {"type": "image_url", "image_url": {"url": self._url(next(given))}} if part["type"] == "image" else part
            for part in content
        ]
        return {**message, "content": parts}

    def _url(self, image: Any) -> str:
        """A picture as a data URL of a PNG, which keeps every pixel; the last few are kept for their other samples."""
        known = self._urls.get(id(image))
        if known is None or known[0] is not image:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            known = (image, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
            while len(self._urls) >= 64:
                del self._urls[next(iter(self._urls))]
            self._urls[id(image)] = known
        return known[1]


def _with_images(request: ChatRequest) -> Iterator[tuple[Mapping[str, Any], list[Any]]]:
    """Each message with the images that stand in it."""
    places = [sum(part.get("type") == "image" for part in _parts(message)) for message in request.messages]
    if sum(places) != len(request.images):
        raise ModelError(
            f"rollout: request {request.id!r} has {len(request.images)} images and {sum(places)} places for them"
            ' -> one part {"type": "image"} an image'
        )
    first = 0
    for message, count in zip(request.messages, places, strict=True):
        yield message, list(request.images[first : first + count])
        first += count


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(message["content"], str) else message["content"]


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(str(part.get("text", "")) for part in parts)


def _sample(request: Request, reply: Reply) -> TextSample:
    choice = reply.choices[0]
    if reply.completion_tokens is None or reply.completion_tokens < 0:
        raise BadReply(
            f"sample {request.id}: the server's reply has no usage.completion_tokens, so lengths cannot be told"
            " -> switch usage on at the server"
        )
    text = choice.text if choice.reasoning is None else f"<think>{choice.reasoning}</think>{choice.text}"
    # What the server says goes into the record as it is: only `stop` counts as an end of its own.
    finish: Any = choice.finish_reason or "unknown"
    return TextSample(request, (), text, (), finish, 0, tokens=reply.completion_tokens)
