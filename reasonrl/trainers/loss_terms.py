"""The terms of the policy's loss for one micro-batch: the surrogate, and what is added to it.

Every term is a weighted token sum. Its weights, and all that is decided by quantities of the whole mini-batch, are made
here before the mini-batch is split; what follows the policy's own log-probabilities (ratios, KL, entropy) is of the
weights that the mini-batch is computed with, which are the same for all of its micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl.algorithms import PolicySums, kl_loss, policy_loss, token_weights, weighted_sum
from reasonrl.trainers.batch import MicroBatch, rows_of
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.targets import Targets


@dataclass(frozen=True)
class Counts:
    """What the weights of a mini-batch are divided by, over all ranks.

    Attributes:
        tokens, responses: that the policy trains on.
        bonus: tokens of the entropy bonus.
        positive: tokens of positive samples.
    """

    tokens: float
    responses: float
    bonus: float
    positive: float


@dataclass(frozen=True)
class LossWeights:
    """Weights of a mini-batch's tokens: (B, T), zero outside it.

    Attributes:
        policy: of the surrogate, and of the KL in the loss.
        scale: what the surrogate's are multiplied by besides, in the loss and not in the record; None: by nothing.
        bonus: of the entropy; None without a bonus.
        positive: of the log-likelihood of positive samples; None without.
    """

    policy: torch.Tensor
    scale: torch.Tensor | None = None
    bonus: torch.Tensor | None = None
    positive: torch.Tensor | None = None


def local_counts(targets: Targets, rows: Sequence[int] | None = None) -> torch.Tensor:
    """(4,) float64 numbers of `Counts` for some rows (all, if None) of this rank: they add up over ranks."""
    mask = targets.policy_mask if rows is None else targets.policy_mask[list(rows)]
    positive = _rows(targets.positive, rows)
    selected = _rows(targets.selected, rows)
    return torch.stack(
        [
            mask.sum().double(),
            (mask.sum(dim=1) > 0).sum().double(),
            (mask if selected is None else mask * selected).sum().double(),
            torch.zeros_like(mask).sum().double() if positive is None else positive.sum().double(),
        ]
    )


def _rows(tensor: torch.Tensor | None, rows: Sequence[int] | None) -> torch.Tensor | None:
    return tensor if tensor is None or rows is None else tensor[list(rows)]


def loss_weights(args: PPOConfig, targets: Targets, counts: Counts, rows: Sequence[int] | None = None) -> LossWeights:
    """The weights of a mini-batch of some rows (all, if None), given its counts."""
    part = torch.ones_like(targets.mask[:, :1])
    if rows is not None:
        part = torch.zeros_like(part)
        part[list(rows)] = 1
    mask = targets.policy_mask * part
    selected = 1.0 if targets.selected is None else targets.selected

    def means(of: torch.Tensor, count: float) -> torch.Tensor:
        return token_weights(of, loss_type="dapo", total_tokens=count, total_rows=0, max_tokens=1)

    bonus = positive = scale = None
    if args.entropy_coef:
        bonus = means(mask * selected, counts.bonus)
    if args.positive_nll_coef and targets.positive is not None:
        positive = means(targets.positive * part, counts.positive)
    if targets.selected is not None:
        scale = targets.selected.double()
    if args.positive_weight != 1 and targets.positive is not None:
        of_class = 1 + (args.positive_weight - 1) * targets.positive.double()
        scale = of_class if scale is None else scale * of_class
    policy = token_weights(
        mask,
        loss_type=args.loss_type,
        total_tokens=counts.tokens,
        total_rows=counts.responses,
        max_tokens=args.max_completion_length,
    )
    return LossWeights(policy, scale, bonus, positive)


def surrogate_options(args: PPOConfig) -> dict[str, Any]:
    """What `policy_loss` is to sum up."""
    kind = "none" if args.ratio == "none" else args.loss_type if args.loss_type in ("cispo", "sapo") else "clip"
    return {
        "epsilon": args.epsilon,
        "epsilon_high": args.epsilon_high,
        "delta": args.delta,
        "kind": kind,
        "level": args.importance_sampling_level,
        "temperatures": (args.sapo_temperature_pos, args.sapo_temperature_neg),
    }


def surrogate_term(
    args: PPOConfig,
    logprobs: torch.Tensor,
    old: torch.Tensor,
    targets: Targets,
    micro: MicroBatch,
    weights: LossWeights,
) -> PolicySums:
    """The surrogate of a micro-batch, from its (rows, t) log-probabilities."""
    scale = None if weights.scale is None else rows_of(weights.scale, micro)
    if targets.importance is not None:
        importance = rows_of(targets.importance.weights, micro)
        scale = importance if scale is None else scale * importance
    return policy_loss(
        logprobs,
        old,
        rows_of(targets.advantages, micro),
        rows_of(weights.policy, micro),
        scale=scale,
        mask=rows_of(targets.mask, micro),
        **surrogate_options(args),
    )


def added_terms(
    args: PPOConfig,
    logprobs: torch.Tensor,
    old: torch.Tensor,
    entropy: torch.Tensor | None,
    targets: Targets,
    micro: MicroBatch,
    weights: LossWeights,
    meter: Meter,
) -> torch.Tensor | None:
    """What is added to the surrogate of a micro-batch: KL, entropy bonus, log-likelihood of positive samples; None
    where nothing is.
    """
    terms = []
    if targets.ref_logprobs is not None and args.kl_in == "loss":
        ref = rows_of(targets.ref_logprobs, micro)
        kl, _ = kl_loss(
            logprobs,
            old,
            ref,
            rows_of(weights.policy, micro),
            kind=args.kl_estimator,
            correct=args.use_bias_correction_kl,
        )
        terms.append(args.beta * kl)
        if targets.kl is None:
            counts = rows_of(targets.mask, micro)
            meter.add("kl", torch.where(counts > 0, logprobs.detach() - ref, 0).sum(), float(counts.sum()))
    if weights.bonus is not None:
        assert entropy is not None
        terms.append(-args.entropy_coef * weighted_sum(entropy, rows_of(weights.bonus, micro)))
    if weights.positive is not None:
        of_positive = rows_of(weights.positive, micro)
        terms.append(-args.positive_nll_coef * weighted_sum(logprobs, of_positive))
        chosen = of_positive > 0
        meter.add("positive_nll", -torch.where(chosen, logprobs.detach(), 0).sum(), float(chosen.sum()))
    return torch.stack(terms).sum() if terms else None
