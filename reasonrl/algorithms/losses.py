"""PPO's two losses as weighted token sums (Schulman et al. 2017, arXiv 1707.06347, Eq. 7; value clipping as in arXiv
2503.24290's released code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LossType = Literal["dapo", "bnpo", "grpo", "dr_grpo"]


def token_weights(
    mask: torch.Tensor, *, loss_type: LossType, total_tokens: float, total_rows: float, max_tokens: int
) -> torch.Tensor:
    """The weight of every token in the loss; fixed before the batch is split.

    Args:
        mask: (B, T).
        loss_type: names as in TRL. `dapo` and `bnpo`: one mean over all response tokens of the mini-batch. `grpo`:
            mean over the tokens of a response, then over responses. `dr_grpo`: a sum over tokens divided by
            `max_tokens`, then a mean over responses.
        total_tokens: counting tokens of the whole mini-batch, all ranks.
        total_rows: responses of the whole mini-batch that have a counting token, all ranks.
        max_tokens: most tokens of a response.

    Returns:
        (B, T) float64 weights, zero where the mask is zero; with `dapo`, `bnpo` and `grpo` they sum to 1 over the
        mini-batch.
    """
    weights = mask.double()
    count = counted_by(loss_type, total_tokens, total_rows)
    if loss_type == "grpo":
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
    if loss_type in ("dapo", "bnpo"):
        return max(total_tokens, 1.0)
    if loss_type in ("grpo", "dr_grpo"):
        return max(total_rows, 1.0)
    raise ValueError(f"loss_type = {loss_type!r}, allowed are 'dapo', 'bnpo', 'grpo' and 'dr_grpo'")


@dataclass(frozen=True)
class PolicySums:
    """Weighted sums of the policy loss; `loss` carries the gradient, the rest are for the record.

    Attributes:
        loss: sum of w_t * loss_t.
        clipped: sum of w_t where the clip was active (the clipped term was the smaller one).
        approx_kl: sum of w_t ((rho_t - 1) - log rho_t), an estimate of KL(old || new) that is never negative (k3 of
            Schulman's note "Approximating KL divergence").
        log_ratio: sum of w_t log rho_t.
    """

    loss: torch.Tensor
    clipped: torch.Tensor
    approx_kl: torch.Tensor
    log_ratio: torch.Tensor


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    importance: torch.Tensor | None = None,
) -> PolicySums:
    """Clipped surrogate: -sum_t w_t min(rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A_t), rho_t = exp(log
    pi - log pi_old).

    All tensors are (B, T); `old_logprobs` and `advantages` carry no gradient; a token of weight 0 contributes
    nothing, whatever it holds. `importance` (`importance_weights`) multiplies w_t in the loss, not in the record.
    """
    weights = weights.to(logprobs.dtype)
    log_ratio = torch.where(weights > 0, logprobs - old_logprobs, 0)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    advantages = torch.where(weights > 0, advantages, 0).to(logprobs.dtype)
    plain, clipped = ratio * advantages, clipped_ratio * advantages
    in_loss = weights if importance is None else weights * importance.to(weights)
    loss = -(in_loss * torch.minimum(plain, clipped)).sum()
    with torch.no_grad():
        return PolicySums(
            loss=loss,
            clipped=(weights * (clipped < plain)).sum(),
            # expm1: rho - 1 of a ratio near 1 would lose its digits, and the estimate its sign.
            approx_kl=(weights * (log_ratio.expm1() - log_ratio)).sum(),
            log_ratio=(weights * log_ratio).sum(),
        )


@dataclass(frozen=True)
class ValueSums:
    """Weighted sums of the value loss; `loss` carries the gradient.

    Attributes:
        loss: sum of w_t * loss_t.
        clipped: sum of w_t where the clip was active (the clipped error was the larger one).
    """

    loss: torch.Tensor
    clipped: torch.Tensor


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    weights: torch.Tensor,
    *,
    cliprange_value: float | None,
) -> ValueSums:
    """Value loss: sum_t w_t 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2); without the clip when
    `cliprange_value` is None.

    All tensors are (B, T); `old_values` and `returns` carry no gradient; a token of weight 0 contributes nothing.
    """
    weights = weights.to(values.dtype)
    counts = weights > 0
    error = torch.where(counts, values - returns, 0).square()
    if cliprange_value is None:
        return ValueSums(
            loss=0.5 * (weights * error).sum(), clipped=torch.zeros((), dtype=values.dtype, device=values.device)
        )
    near = torch.maximum(torch.minimum(values, old_values + cliprange_value), old_values - cliprange_value)
    clipped_error = torch.where(counts, near - returns, 0).square()
    loss = 0.5 * (weights * torch.maximum(error, clipped_error)).sum()
    with torch.no_grad():
        return ValueSums(loss=loss, clipped=(weights * (clipped_error > error)).sum())
