"""Which tokens the policy's loss is made of, decided before a step's first update; and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from reasonrl.algorithms import entropy_threshold, ratio_bands

if TYPE_CHECKING:
    from reasonrl.trainers.batch import RolloutBatch
    from reasonrl.trainers.meter import Meter
    from reasonrl.trainers.ppo_config import PPOConfig


def reads_engine_ratio(args: PPOConfig) -> bool:
    """Whether pi_old / pi_engine decides anything, so that pi_old must be computed."""
    return bool(
        args.vllm_importance_sampling_correction
        or args.token_ratio_band is not None
        or args.sequence_ratio_band is not None
    )


def loss_masks(
    args: PPOConfig, meter: Meter, batch: RolloutBatch, mask: torch.Tensor, logprobs: torch.Tensor | None
) -> dict[str, torch.Tensor | None]:
    """`kept` and `positive` of `Targets` for some samples by themselves; no collective call.

    Args:
        args: settings.
        meter: takes the shares of tokens and responses that are kept.
        batch: the samples.
        mask: (B, T), 1 where a token is trained on.
        logprobs: (B, T) of the policy before the step; needed with a band.
    """
    kept = positive = None
    if args.token_ratio_band is not None or args.sequence_ratio_band is not None:
        assert logprobs is not None
        bands = ratio_bands(
            logprobs,
            batch.sampled_logprobs,
            mask,
            token_band=args.token_ratio_band,
            sequence_band=args.sequence_ratio_band,
        )
        kept = bands.kept
        meter.add("sampling/kept_token_fraction", kept.sum(), float(mask.sum()))
        meter.add("sampling/kept_response_fraction", bands.responses.sum(), float((mask.sum(dim=1) > 0).sum()))
    if args.positive_weight != 1 or args.positive_nll_coef:
        is_positive = batch.scores > args.positive_above  # no for one that could not be scored (NaN)
        positive = mask * is_positive.unsqueeze(1)
        scored = ~batch.scores.isnan()
        meter.add("positive_fraction", is_positive.sum(), float(scored.sum()))
    return {"kept": kept, "positive": positive}


def high_entropy_tokens(
    args: PPOConfig, meter: Meter, accelerator: Accelerator, mask: torch.Tensor, entropies: torch.Tensor
) -> torch.Tensor:
    """(B, T), 1 at the `top_entropy_quantile` tokens of the batch with the highest entropy, over all ranks. A
    collective call.
    """
    counts = mask > 0
    local = entropies[counts].float()
    # Entropies are not negative, so a negative number is no entropy.
    padded = accelerator.pad_across_processes(local, dim=0, pad_index=-1)
    everyone = accelerator.gather(padded)
    threshold = entropy_threshold(everyone[everyone >= 0], args.top_entropy_quantile)
    selected = (entropies.float() >= threshold) & counts
    meter.add("high_entropy_fraction", selected.sum(), float(counts.sum()))
    return selected.to(mask.dtype)
