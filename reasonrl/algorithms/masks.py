"""Which tokens the policy loss is made of, decided from numbers that are fixed before a step's first update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Bands:
    """What the bands of MIS-PO keep.

    Attributes:
        kept: (B, T), 1 where a token counts and is kept.
        tokens: (B, T), 1 where a token counts and its own ratio lies within the token's band.
        responses: (B,), 1 where a response has a counting token and its mean ratio lies within the response's band.
    """

    kept: torch.Tensor
    tokens: torch.Tensor
    responses: torch.Tensor


def ratio_bands(
    logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    *,
    token_band: Sequence[float] | None,
    sequence_band: Sequence[float] | None,
) -> Bands:
    """Keep tokens whose ratio lies within a band, of responses whose mean ratio lies within another (MIS-PO, Step 3.5
    Flash, arXiv 2602.10604).

    x_t = exp(log pi_old - log pi_behaviour); the mean ratio of a response is the geometric one, (prod x_t)^(1/T) over
    its counting tokens. Both ends of a band belong to it. No ratio multiplies what is kept.

    Args:
        logprobs: (B, T) log pi_old, of the trainer's policy before the step's updates.
        behaviour_logprobs: (B, T) of the policy that drew the tokens; NaN (unknown) counts as equal.
        mask: (B, T), 1 where a token counts.
        token_band, sequence_band: lowest and highest ratio; None keeps all.
    """
    counts = mask > 0
    difference = torch.where(counts, logprobs.detach() - behaviour_logprobs, 0).nan_to_num(nan=0.0)
    length = counts.sum(dim=1)
    mean = (difference.sum(dim=1) / length.clamp(min=1)).exp()
    tokens = counts & _within(difference.exp(), token_band)
    responses = (length > 0) & _within(mean, sequence_band)
    kept = tokens & responses.unsqueeze(1)
    return Bands(kept.to(mask.dtype), tokens.to(mask.dtype), responses.to(mask.dtype))


def _within(ratio: torch.Tensor, band: Sequence[float] | None) -> torch.Tensor:
    if band is None:
        return torch.ones_like(ratio, dtype=torch.bool)
    return (ratio >= band[0]) & (ratio <= band[1])


def entropy_threshold(entropies: torch.Tensor, share: float) -> float:
    """The entropy that the `share` of tokens with the highest one reach (Wang et al. 2025, arXiv 2506.01939).

    Args:
        entropies: (N,) of all tokens of the batch, over all ranks; nats.
        share: in (0, 1]. As a quantile at 1 - share would, it keeps floor(1 + share (N - 1)) tokens, and those that are
            equal to the last of them.

    Returns:
        -inf for no tokens at all.
    """
    count = entropies.numel()
    if count == 0:
        return -math.inf
    keep = min(count, math.floor(1 + share * (count - 1) + 1e-9))
    return float(entropies.kthvalue(count - keep + 1).values)
