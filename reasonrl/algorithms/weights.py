"""The weights of tokens in a loss: fixed before a mini-batch is split into micro-batches and ranks."""

from __future__ import annotations

from typing import Literal

import torch

LossType = Literal["dapo", "bnpo", "grpo", "dr_grpo", "cispo", "sapo"]

_BY_TOKENS = ("dapo", "bnpo", "cispo")
_BY_RESPONSES = ("grpo", "dr_grpo", "sapo")


def token_weights(
    mask: torch.Tensor, *, loss_type: LossType, total_tokens: float, total_rows: float, max_tokens: int
) -> torch.Tensor:
    """The weight of every token in the loss.

    Args:
        mask: (B, T).
        loss_type: names as in TRL. `dapo`, `bnpo` and `cispo`: one mean over all response tokens of the mini-batch (Yu
            et al. 2025, arXiv 2503.14476, section 3.3). `grpo` and `sapo`: mean over the tokens of a response, then
            over responses (Shao et al. 2024, arXiv 2402.03300, Eq. 3). `dr_grpo`: a sum over tokens divided by
            `max_tokens`, then a mean over responses (Liu et al. 2025, arXiv 2503.20783, section 3.2).
        total_tokens: counting tokens of the whole mini-batch, all ranks.
        total_rows: responses of the whole mini-batch that have a counting token, all ranks.
        max_tokens: most tokens of a response.

    Returns:
        (B, T) float64 weights, zero where the mask is zero; but for `dr_grpo` they sum to 1 over the mini-batch.
    """
    weights = mask.double()
    count = counted_by(loss_type, total_tokens, total_rows)
    if loss_type in ("grpo", "sapo"):
        return weights / weights.sum(dim=1, keepdim=True).clamp(min=1) / count
    if loss_type == "dr_grpo":
        return weights / max_tokens / count
    return weights / count


def counted_by(loss_type: LossType, total_tokens: float, total_rows: float) -> float:
    """What the weights of a mini-batch are divided by: its counting tokens, or its responses; at least 1.

    All that a weight knows of the other samples is this number. Gradients that were added up with another number in its
    place are made right by one factor, the quotient of both.

    Raises:
        ValueError: the loss type is unknown.
    """
    if loss_type in _BY_TOKENS:
        return max(total_tokens, 1.0)
    if loss_type in _BY_RESPONSES:
        return max(total_rows, 1.0)
    allowed = ", ".join(map(repr, (*_BY_TOKENS, *_BY_RESPONSES)))
    raise ValueError(f"loss_type = {loss_type!r}, allowed are {allowed}")
