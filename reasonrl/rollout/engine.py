"""What a rollout engine is: requests in, samples out as they finish.

Every engine (transformers here; others register later) obeys the same protocol, so that trainers and evaluation never
know which one they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to draw tokens.

    Attributes:
        max_tokens: most tokens a sample may have, its stop token included.
        temperature: divides the logits; 0 takes the most probable token (greedy).
        top_p: nucleus mass; 1 keeps the whole distribution.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens}, but a sample needs at least 1 token")
        if not self.temperature >= 0:
            raise ValueError(f"temperature = {self.temperature}, allowed are 0 (greedy) and above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}, allowed are values above 0 and up to 1")


@dataclass(frozen=True)
class Request:
    """One sample to draw: a prompt as token ids, and the seed that alone decides the draw (64 bits)."""

    id: str
    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        request: what was asked for.
        token_ids: the response, its stop token included when it stopped.
        text: the response decoded without special tokens.
        logprobs_sampled: natural log-probability of each token under the distribution it was drawn from (temperature
            and top-p applied).
        finish_reason: `stop` when a stop token was drawn, `length` when `max_tokens` cut it.
        weight_version: version of the weights that drew it, as given to `sync_weights`.
    """

    request: Request
    token_ids: tuple[int, ...]
    text: str
    logprobs_sampled: tuple[float, ...]
    finish_reason: FinishReason
    weight_version: int


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
