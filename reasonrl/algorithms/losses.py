"""The losses as weighted token sums: the policy's by any surrogate, its companions, and the critic's (value clipping as
in arXiv 2503.24290's released code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reasonrl.algorithms.ratios import RatioLevel, level_log_ratios
from reasonrl.algorithms.surrogates import (
    SurrogateKind,
    cispo_surrogate,
    clipped_surrogate,
    plain_surrogate,
    sapo_surrogate,
)


@dataclass(frozen=True)
class PolicySums:
    """Weighted sums of the policy loss; `loss` carries the gradient, the rest are for the record.

    Attributes:
        loss: sum of w_t * loss_t.
        clipped: sum of w_t where a bound of the surrogate was active.
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
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    kind: SurrogateKind = "clip",
    level: RatioLevel = "token",
    temperatures: tuple[float, float] = (1.0, 1.05),
    scale: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> PolicySums:
    """-sum_t w_t c_t J_t, with J_t one of `reasonrl.algorithms.surrogates`.

    All tensors are (B, T); `old_logprobs` and `advantages` carry no gradient; a token of weight 0 contributes nothing,
    whatever it holds. Ratios are of the policy that the gradient is taken of, so any split of a batch into whole
    responses gives the same sum.

    Args:
        logprobs: log pi, with gradient.
        old_logprobs: log pi_old.
        advantages: A_t.
        weights: w_t.
        epsilon, epsilon_high, delta: bounds of `clip`; `epsilon_high` is also the largest ratio of `cispo`.
        kind: the surrogate.
        level: of the ratio (`level_log_ratios`).
        temperatures: of `sapo`, for positive and for other advantages.
        scale: c_t, what the loss (not the record) multiplies the weights by: importance ratios, classes of samples.
        mask: 1 where a token belongs to its response, for ratios of responses; by default where the weight is not 0.
    """
    weights = weights.to(logprobs.dtype)
    counts = weights > 0
    drawn = counts if mask is None else (mask > 0) | counts
    new = torch.where(drawn, logprobs, 0)
    token_log_ratio = new - torch.where(drawn, old_logprobs, 0).to(new)
    advantages = torch.where(counts, advantages, 0).to(new)
    ratio = level_log_ratios(token_log_ratio, drawn, level).exp()
    if kind == "clip":
        objective, active = clipped_surrogate(
            ratio, advantages, epsilon=epsilon, epsilon_high=epsilon_high, delta=delta
        )
    elif kind == "cispo":
        largest = 1 + epsilon if epsilon_high is None else epsilon_high
        objective, active = cispo_surrogate(ratio, new, advantages, largest=largest)
    elif kind == "sapo":
        positive, other = temperatures
        objective, active = sapo_surrogate(ratio, advantages, temperature_pos=positive, temperature_neg=other)
    else:
        objective, active = plain_surrogate(new, advantages)
    loss = -((weights if scale is None else weights * scale.to(weights)) * objective).sum()
    with torch.no_grad():
        log_ratio = torch.where(counts, token_log_ratio, 0)
        return PolicySums(
            loss=loss,
            clipped=(weights * active).sum(),
            # expm1: rho - 1 of a ratio near 1 would lose its digits, and the estimate its sign.
            approx_kl=(weights * (log_ratio.expm1() - log_ratio)).sum(),
            log_ratio=(weights * log_ratio).sum(),
        )


def weighted_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_t w_t x_t, with gradient; a token of weight 0 contributes nothing, whatever it holds.

    The entropy bonus is `-coef * weighted_sum(entropy, w)` with w_t one over the counting tokens; the loss on positive
    samples (Yue et al. 2025, VAPO, arXiv 2504.05118, positive example LM loss) is `-coef * weighted_sum(logprobs, w)`
    with w_t one over their tokens.
    """
    weights = weights.to(values.dtype)
    return (weights * torch.where(weights > 0, values, 0)).sum()


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
