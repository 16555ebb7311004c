"""Whether an engine has the trainer's weights: both read the same short text, and their log-probabilities are compared.

Teacher-forced, so that no draw hides a difference. An engine that silently kept old weights (a tied head that was not
refreshed, a layer that was not loaded) is found by it; without it, training goes on with wrong importance ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl.errors import ModelError

#: Read by both sides; prose, digits and LaTeX, so that many rows of the vocabulary take part.
TEXT = (
    "Problem: Natalia has 48 clips and sells 3/4 of them. How many are left?\nSolution: 48 - 36 = 12, so she keeps"
    " $\\boxed{12}$ clips. Check: 12 + 36 = 48, and 12/48 = 0.25."
)
MOST_TOKENS = 128
#: Largest mean difference allowed, in nats a token. Half precision rounds differently in every kernel.
LIMIT_FLOAT32 = 1e-3
LIMIT_HALF = 0.1


@dataclass(frozen=True)
class Gap:
    """Difference of two readings of one text, in nats a token.

    Attributes:
        mean, worst: mean and largest absolute difference.
        position: where the largest is, with both values there.
        tokens: log-probabilities that were compared.
    """

    mean: float
    worst: float
    position: int
    engine: float
    trainer: float
    tokens: int


def reading_ids(tokenizer: Any, most: int = MOST_TOKENS) -> list[int]:
    """The text as token ids: at most 128, and at most `most`."""
    return list(tokenizer.encode(TEXT, add_special_tokens=False))[: min(most, MOST_TOKENS)]


def teacher_forced(model: Any, ids: Sequence[int], images: Mapping[str, torch.Tensor] | None = None) -> list[float]:
    """Natural log-probability at temperature 1 of every token but the first, by a transformers model as it stands.

    Args:
        model: the model.
        ids: the text.
        images: what the model's forward pass takes for the images in it, as `images.image_inputs` makes it.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            inputs = torch.tensor([list(ids)], device=model.device)
            logits = model(input_ids=inputs, use_cache=False, **(images or {})).logits[0, :-1].float()
    finally:
        model.train(training)
    logprobs = torch.log_softmax(logits, dim=-1).gather(-1, inputs[0, 1:].unsqueeze(-1)).squeeze(-1)
    values: list[float] = logprobs.tolist()
    return values


def gap_between(engine: Sequence[float], trainer: Sequence[float]) -> Gap:
    """Compare two readings of equal length; a NaN on either side counts as an infinite difference."""
    differences = [abs(a - b) if a == a and b == b else float("inf") for a, b in zip(engine, trainer, strict=True)]
    place = max(range(len(differences)), key=differences.__getitem__)
    mean = sum(differences) / len(differences)
    return Gap(mean, differences[place], place + 1, engine[place], trainer[place], len(differences))


def require_agreement(gap: Gap, limit: float, version: int, engine: str) -> None:
    """Raises ModelError with the numbers when the mean difference is above `limit` (nats a token)."""
    if gap.mean <= limit:
        return
    raise ModelError(
        f"rollout: after sync_weights to version {version}, the {engine} engine and the trainer read the same text"
        f" differently: log-probabilities of {gap.tokens} tokens differ by {gap.mean:.3g} on average and by"
        f" {gap.worst:.3g} at most (token {gap.position}: engine {gap.engine:.4f}, trainer {gap.trainer:.4f}); allowed"
        f" is {limit:g} on average -> the engine does not hold the trainer's weights, or computes another model: try"
        " rollout.enforce_eager=true or rollout.dtype=float32; if the difference is only rounding, raise"
        " rollout.max_logprob_gap"
    )
