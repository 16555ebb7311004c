"""What a rollout engine is: requests in, samples out as they finish.

Every engine (transformers here; others register later) obeys the same protocol, so that trainers and evaluation never
know which one they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from reasonrl.rollout.latency import LatencyCurve

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to draw tokens.

    Attributes:
        max_tokens: most tokens a sample may have, its stop token included.
        temperature: divides the logits; 0 takes the most probable token (greedy).
        top_p: nucleus mass; 1 keeps the whole distribution.
        stop_strings: texts that end a sample, as its stop tokens do, once it holds one of them. The tokens up to the
            one that completes the text belong to the sample, and so does the text; an endpoint of others leaves it out.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens}, but a sample needs at least 1 token")
        if not self.temperature >= 0:
            raise ValueError(f"temperature = {self.temperature}, allowed are 0 (greedy) and above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}, allowed are values above 0 and up to 1")
        texts: object = self.stop_strings
        if isinstance(texts, str) or not all(self.stop_strings):
            raise ValueError(f"stop_strings = {self.stop_strings!r}, allowed are texts of at least one character")


@dataclass(frozen=True)
class Outlook:
    """What the run's log says of a step's lengths before it is drawn.

    Attributes:
        lengths: response tokens of the samples of the step before.
        curve: seconds of a decode step by batch, fitted to the run's own stamps; None where that could not be done.
    """

    lengths: tuple[int, ...]
    curve: LatencyCurve | None = None


@dataclass(frozen=True)
class Expected:
    """How many response tokens a sample is predicted to have, and the outlook for its whole step."""

    tokens: float
    outlook: Outlook


@dataclass(frozen=True)
class Request:
    """One sample to draw.

    Attributes:
        id: names it; distinct within a batch.
        prompt_ids: the prompt as token ids. With images it is what the model reads, and what it is trained on: the
            placeholder of every image stands there as often as the image has tokens, as the model's processor writes
            it when it is given text and images (`processor.apply_chat_template(…, tokenize=True)`) and as TRL hands it
            over. An engine whose own reading of the images needs another number of tokens refuses the request.
        seed: decides the draw (64 bits).
        expected: its predicted length; decides where and in which order it is drawn, never what is drawn. Engines heed
            it where all requests of a batch have one.
        images: the prompt's images in the order of their placeholders, as PIL images; none for a text prompt.
    """

    id: str
    prompt_ids: tuple[int, ...]
    seed: int
    expected: Expected | None = field(default=None, compare=False, repr=False)
    images: tuple[Any, ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class Stamp:
    """Where and when a sample was drawn.

    Attributes:
        server: name of the server or engine.
        started, finished: its first and its last token, seconds since 1970 on a clock that never steps back.
        cached_tokens: tokens of its prompt that the engine did not have to read anew; None where it does not say.
    """

    server: str
    started: float
    finished: float
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        request: what was asked for.
        token_ids: the response, its stop token included when it stopped.
        text: the response decoded without special tokens.
        logprobs_sampled: natural log-probability of each token under the distribution it was drawn from (temperature
            and top-p applied). A vision-language model never draws its placeholder tokens: they are left out of that
            distribution, which a trained model does not notice.
        finish_reason: `stop` when a stop token or a stop string was drawn, `length` when `max_tokens` cut it.
        weight_version: version of the weights that drew it, as given to `sync_weights`.
        stamp: where and when it was drawn; None where the engine does not say. Samples that differ in nothing else are
            equal.
    """

    request: Request
    token_ids: tuple[int, ...]
    text: str
    logprobs_sampled: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int
    stamp: Stamp | None = field(default=None, compare=False)

    @property
    def length(self) -> int:
        """Tokens of the response, its stop token included."""
        return len(self.token_ids)


@runtime_checkable
class RolloutEngine(Protocol):
    """Draws samples."""

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample the moment it ends, in any order; every request yields exactly one sample."""
        ...

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take over the trainer's weights (checkpoint names and tensors) as this version."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; the engine cannot be used afterwards."""
        ...


def longest_first(requests: Sequence[Request]) -> list[Request]:
    """Requests by falling expected length, those of one prompt side by side; as they are where any has none."""
    if any(request.expected is None for request in requests):
        return list(requests)
    expected = {request.prompt_ids: 0.0 for request in requests}
    place = {prompt: turn for turn, prompt in enumerate(expected)}
    for request in requests:
        if request.expected is not None:
            expected[request.prompt_ids] = max(expected[request.prompt_ids], request.expected.tokens)
    return sorted(requests, key=lambda request: (-expected[request.prompt_ids], place[request.prompt_ids]))
