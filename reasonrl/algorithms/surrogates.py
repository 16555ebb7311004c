"""What the policy loss sums up for each token: the clipped surrogate, and what stands in its place.

Each function gives the objective (to be raised) of every token, and where its bound was active. Ratios, advantages and
log-probabilities are (B, T); advantages carry no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch

SurrogateKind = Literal["clip", "cispo", "sapo", "none"]


def clipped_surrogate(
    ratio: torch.Tensor,
    advantages: torch.Tensor,
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) (Schulman et al. 2017, arXiv 1707.06347, Eq. 7; a higher
    upper side: Yu et al. 2025, arXiv 2503.14476, section 3.1).

    With `delta` rho is at most delta in the first term: for A < 0 the objective never falls below delta A, and a token
    whose ratio is above has no gradient. For delta above 1 + epsilon_high that is dual clip, max(min(.., ..), delta A)
    for A < 0 (Ye et al. 2020, arXiv 1912.09729, dual-clip PPO), and TRL's `delta`. For A > 0 it changes nothing.
    """
    near = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    far = ratio if delta is None else ratio.clamp(max=delta)
    plain, clipped = far * advantages, near * advantages
    active = clipped < plain
    if delta is not None:
        active = active | ((advantages < 0) & (ratio > delta))
    return torch.minimum(plain, clipped), active


def cispo_surrogate(
    ratio: torch.Tensor, logprobs: torch.Tensor, advantages: torch.Tensor, *, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """sg[min(rho, largest)] A log pi: no token loses its gradient, but none weighs more than `largest` (MiniMax 2025,
    arXiv 2506.13585, Eq. 4-5, without a lower bound). `largest` is the bound itself, as TRL's `epsilon_high` with
    `cispo`.
    """
    bounded = ratio.detach().clamp(max=largest)
    return bounded * advantages * logprobs, ratio > largest


def sapo_surrogate(
    ratio: torch.Tensor, advantages: torch.Tensor, *, temperature_pos: float, temperature_neg: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """4 / tau sigmoid(tau (rho - 1)) A: a soft gate in place of the clip, of gradient A grad rho at rho = 1 (Gao et al.
    2025, SAPO, arXiv 2511.20347). tau is `temperature_pos` where A > 0, else `temperature_neg`. No bound is active.
    """
    tau = torch.full_like(ratio, temperature_neg).masked_fill(advantages > 0, temperature_pos)
    gate = torch.sigmoid(tau * (ratio - 1)) * 4 / tau
    return gate * advantages, torch.zeros_like(ratio, dtype=torch.bool)


def plain_surrogate(logprobs: torch.Tensor, advantages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A log pi: the policy gradient, without any ratio (Williams 1992). No bound is active."""
    return advantages * logprobs, torch.zeros_like(logprobs, dtype=torch.bool)
