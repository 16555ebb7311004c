"""Estimates of KL(pi || pi_ref) from drawn tokens, and what of them a loss may use.

k1, k2 and k3 are those of Schulman's note "Approximating KL divergence" (2020). With x = log pi - log pi_ref of a token
that pi drew:

    k1 = x                    unbiased, of either sign
    k2 = x^2 / 2              biased, never negative
    k3 = exp(-x) - 1 + x      unbiased, never negative

As a term of the *reward* only the value counts. As a term of the *loss* the gradient counts, and that of the KL itself
is E[x grad log pi]. On tokens that pi drew, k2's gradient is x grad log pi; k3's is (1 - exp(-x)) grad log pi, equal to
it near x = 0 only; k1's is grad log pi, whose mean is zero: it pulls nowhere (Tang and Munos 2025, arXiv 2506.09477).
"""

from __future__ import annotations

from typing import Literal

import torch

KLKind = Literal["k1", "k2", "k3"]
KL_KINDS: tuple[KLKind, ...] = ("k1", "k2", "k3")


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, kind: KLKind) -> torch.Tensor:
    """One estimate of KL(pi || pi_ref) for each drawn token, in nats.

    The gradient is that of the formula, through `logprobs` (and through `ref_logprobs`, if it carries one). For a term
    of the reward hand in log-probabilities without gradient.

    Args:
        logprobs: log pi of the drawn tokens, any shape.
        ref_logprobs: log pi_ref of the same tokens.
        kind: the estimator.

    Raises:
        ValueError: an unknown kind.
    """
    difference = logprobs - ref_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        # expm1: near 0, exp(-x) - 1 + x would lose its digits, and the estimate its sign.
        return (-difference).expm1() + difference
    raise ValueError(f"kl_estimator = {kind!r}, allowed are {', '.join(map(repr, KL_KINDS))}")


def kl_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    weights: torch.Tensor,
    *,
    kind: KLKind,
    correct: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The KL term of a loss as a weighted token sum, before it is multiplied by beta.

    With `correct` each token's estimate is multiplied by rho = pi / pi_old, which makes it one of tokens that pi_old
    drew, and its gradient that of the KL (DeepSeek-AI 2025, arXiv 2512.02556, section 3.1: rho k3; TRL's
    `use_bias_correction_kl`). rho carries a gradient with k1 and k3, whose own is not that of the KL; with k2, whose
    own is, it carries none. Then k2 and k3 have the same gradient, rho x grad log pi, and k1 that plus rho grad log pi,
    whose mean is zero.

    Args:
        logprobs: (B, T) log pi, with gradient.
        old_logprobs: (B, T) log pi_old, of the policy that drew the tokens.
        ref_logprobs: (B, T) log pi_ref.
        weights: (B, T); a token of weight 0 contributes nothing, whatever it holds.
        kind: the estimator.
        correct: multiply by rho.

    Returns:
        Sum of w_t rho_t k_t, with gradient; and sum of w_t k_t, for the record.
    """
    weights = weights.to(logprobs.dtype)
    counts = weights > 0
    new = torch.where(counts, logprobs, 0)
    estimate = kl_estimate(new, torch.where(counts, ref_logprobs, 0).to(new), kind)
    record = (weights * estimate).sum().detach()
    if correct:
        ratio = (new - torch.where(counts, old_logprobs, 0).to(new)).exp()
        estimate = estimate * (ratio.detach() if kind == "k2" else ratio)
    return (weights * estimate).sum(), record
