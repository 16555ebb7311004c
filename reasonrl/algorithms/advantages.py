"""Advantages: GAE with a critic, group-relative and leave-one-out without one, and their normalisation.

Sources: Schulman et al. 2016 (arXiv 1506.02438, Eq. 11-16) for GAE; Shao et al. 2024 (arXiv 2402.03300, section 4.1.2)
for group-relative advantages; Ahmadian et al. 2024 (arXiv 2402.14740, Eq. 6) for leave-one-out; Hu et al. 2025 (arXiv
2503.24290, section 2.1) for gamma = lambda = 1 with advantages normalised over every response token of the batch.
"""

from __future__ import annotations

from typing import Literal

import torch

VARIANCE_FLOOR = 1e-8


def terminal_rewards(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Put each response's score on its last counting token; zero elsewhere.

    Args:
        scores: (B,).
        mask: (B, T); a row without any counting token gets no reward at all.

    Returns:
        (B, T) rewards in the dtype of `scores`.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), positions, -1).amax(dim=1)
    rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    rows = (last >= 0).nonzero().flatten()
    rewards[rows, last[rows]] = scores[rows]
    return rewards


def kl_shaped_rewards(
    rewards: torch.Tensor, logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Subtract `beta` times the per-token KL estimate k1 = log pi - log pi_ref from the rewards (Ziegler et al. 2019,
    arXiv 1909.08593, Eq. 2).

    All tensors are (B, T); log-probabilities are natural and of the policy that drew the tokens. Where the mask is zero
    the rewards stay as they are, whatever the log-probabilities hold.
    """
    return rewards - beta * torch.where(mask.bool(), logprobs - ref_logprobs, 0)


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation over the counting tokens of each row.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t) and A_t = delta_t + gamma lam A_{t+1}, where s_t is the state *before*
    token t, and the value after the last counting token is 0 (the episode ended). Tokens that do not count (tool
    output, padding) are stepped over: the state before the next counting token follows directly, and a reward that
    lies on them is ignored.

    Args:
        rewards: (B, T) reward of each token.
        values: (B, T) V(s_t).
        mask: (B, T), 1 = counts.
        gamma: discount in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        advantages (B, T) and returns A_t + V(s_t) (B, T); both zero where the mask is zero.
    """
    counts = mask.bool()
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(counts[:, t], advantage, 0)
        next_advantage = torch.where(counts[:, t], advantage, next_advantage)
        next_value = torch.where(counts[:, t], values[:, t], next_value)
    return advantages, torch.where(counts, advantages + values, 0)


def group_advantages(
    scores: torch.Tensor, num_generations: int, *, kind: Literal["group", "rloo"], eps: float = 1e-4
) -> torch.Tensor:
    """Critic-free advantages of one score per response.

    Args:
        scores: (P * G,) with the G samples of a prompt next to each other; NaN marks a response that could not be
            scored.
        num_generations: G, at least 2.
        kind: `group` is (r - mean) / (std + eps) within the prompt, with the unbiased standard deviation; `rloo` is r
            minus the mean of the *other* samples.
        eps: added to the standard deviation, in the units of the reward.

    Returns:
        (P * G,), zero where the score is NaN and in groups with fewer than two scored samples.

    Raises:
        ValueError: the number of scores is not a multiple of `num_generations`, or `num_generations` is under 2.
    """
    if num_generations < 2 or scores.numel() % num_generations:
        raise ValueError(
            f"group_advantages: {scores.numel()} scores cannot be split into groups of num_generations ="
            f" {num_generations} (at least 2)"
        )
    grouped = scores.view(-1, num_generations)
    scored = ~grouped.isnan()
    filled = torch.where(scored, grouped, 0)
    count = scored.sum(dim=1, keepdim=True)
    mean = filled.sum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(scored, grouped - mean, 0)
    pairs = (count - 1).clamp(min=1)
    if kind == "rloo":
        # r_i - mean of the others = (r_i - mean) * n / (n - 1)
        advantages = centred * count / pairs
    else:
        advantages = centred / ((centred.square().sum(dim=1, keepdim=True) / pairs).sqrt() + eps)
    return torch.where(scored & (count > 1), advantages, 0).reshape(-1)


def masked_moments(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Count, sum and sum of squares of the counting elements, as a (3,) float64 tensor: sums of ranks add up to the
    sums of the whole.
    """
    counted = torch.where(mask.bool(), x, 0).double()
    return torch.stack([mask.double().sum(), counted.sum(), counted.square().sum()])


def normalize(advantages: torch.Tensor, mask: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation over all counting tokens of the rollout batch, all ranks
    together.

    Args:
        advantages: (B, T).
        mask: (B, T).
        moments: (3,) from `masked_moments`, summed over ranks.

    Returns:
        (B, T), zero where the mask is zero. The population variance is floored at 1e-8 (arXiv 2503.24290's released
        code).
    """
    count, total, squares = moments.unbind()
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=VARIANCE_FLOOR)
    return torch.where(mask.bool(), (advantages - mean.to(advantages)) * variance.rsqrt().to(advantages), 0)
