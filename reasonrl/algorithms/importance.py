"""Correction for samples that another distribution drew: an engine with older weights, or with other kernels.

rho = pi_old / pi_behaviour; pi_old is the trainer's policy before the step's updates, pi_behaviour what the engine drew
from. PPO's own ratio (pi / pi_old) is another one and stands beside it. Truncated: Espeholt et al. 2018 (arXiv
1802.01561, rho-bar of V-trace). Masked: tokens or responses outside the bounds are left out. Both as in TRL 1.16's
`vllm_importance_sampling_mode`, whose names are used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
IMPORTANCE_MODES: tuple[ImportanceMode, ...] = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@dataclass(frozen=True)
class Importance:
    """How much each token of the policy loss counts; (B, T) tensors, 0 outside the mask, without gradient.

    Attributes:
        weights: what multiplies the token's weight in the loss.
        ratio: rho as it was before it was bounded, of the token or of its whole response.
        outside: 1 where rho was outside the bounds: truncated there, or dropped.
    """

    weights: torch.Tensor
    ratio: torch.Tensor
    outside: torch.Tensor


def importance_weights(
    logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    mask: torch.Tensor,
    *,
    mode: ImportanceMode,
    clip_max: float | None,
    clip_min: float | None = None,
) -> Importance:
    """Bounded importance ratios of drawn tokens.

    `token_*`: rho_t = exp(log pi_old - log pi_behaviour) of each token. `sequence_*`: one ratio a response, exp of the
    sum of these differences over its counting tokens. `*_truncate`: clamp(rho, clip_min, clip_max). `*_mask`: rho where
    it lies within both bounds, else 0.

    Args:
        logprobs: (B, T) log pi_old, nats.
        behaviour_logprobs: (B, T) log pi_behaviour, nats, at the same temperature; NaN (unknown) counts as equal.
        mask: (B, T), 1 where a token counts.
        mode: how ratios are made and bounded.
        clip_max, clip_min: the bounds; None leaves a side open.

    Raises:
        ValueError: an unknown mode, or bounds that bound nothing or exclude everything.
    """
    check_bounds(mode, clip_max, clip_min)
    counts = mask > 0
    difference = torch.where(counts, logprobs.detach() - behaviour_logprobs, 0).nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(dim=1, keepdim=True).expand_as(difference)
    ratio = difference.exp()
    low = 0.0 if clip_min is None else clip_min
    high = torch.inf if clip_max is None else clip_max
    outside = (ratio < low) | (ratio > high)
    weights = ratio.clamp(low, high) if mode.endswith("truncate") else ratio.masked_fill(outside, 0)
    return Importance(weights * counts, torch.where(counts, ratio, 0), (outside & counts).to(ratio))


def check_bounds(mode: str, clip_max: float | None, clip_min: float | None) -> None:
    """Raises ValueError when mode and bounds of the correction make no sense together."""
    if mode not in IMPORTANCE_MODES:
        raise ValueError(
            f"vllm_importance_sampling_mode = {mode!r}, allowed are {', '.join(map(repr, IMPORTANCE_MODES))}"
        )
    if clip_max is None and clip_min is None:
        raise ValueError(
            "vllm_importance_sampling_clip_max and vllm_importance_sampling_clip_min are both None, so nothing bounds"
            " the ratios -> clip_max = 2.0"
        )
    low, high = clip_min or 0.0, torch.inf if clip_max is None else clip_max
    if not 0 <= low <= 1 <= high:
        raise ValueError(
            f"vllm_importance_sampling_clip_min = {clip_min} and vllm_importance_sampling_clip_max = {clip_max}, but a"
            " ratio of 1 (equal policies) must lie within -> clip_min at most 1, clip_max at least 1"
        )
