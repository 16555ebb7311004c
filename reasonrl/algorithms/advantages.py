"""Advantages: GAE with a critic, group-relative, leave-one-out and reward-to-go without one, and their normalisation.

Sources: Schulman et al. 2016 (arXiv 1506.02438, Eq. 11-16) for GAE; Yuan et al. 2025 (VC-PPO, arXiv 2503.01491) for
two lambdas; Yue et al. 2025 (VAPO, arXiv 2504.05118, section 4.2) for a lambda of the length; Pardo et al. 2018 (arXiv
1712.00378, partial-episode bootstrapping) for the value after a cut; Shao et al. 2024 (arXiv 2402.03300, section 4.1.2)
for group-relative advantages, Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783, section 3) without the deviation and Liu et
al. 2025 (arXiv 2508.08221) with that of the batch; Ahmadian et al. 2024 (arXiv 2402.14740, Eq. 6) for leave-one-out;
Hu et al. 2025 (REINFORCE++, arXiv 2501.03262) for reward-to-go with a token's KL; Hu et al. 2025 (arXiv 2503.24290,
section 2.1) for gamma = lambda = 1 with advantages normalised over every response token of the batch.
"""

from __future__ import annotations

from typing import Literal

import torch

from reasonrl.algorithms.kl import KLKind, kl_estimate

VARIANCE_FLOOR = 1e-8

GroupKind = Literal["group", "rloo", "mean"]
ScaleRewards = Literal["group", "batch", "none"]


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
    rewards: torch.Tensor,
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    kind: KLKind = "k1",
) -> torch.Tensor:
    """Subtract `beta` times the per-token KL estimate from the rewards (Ziegler et al. 2019, arXiv 1909.08593, Eq. 2,
    for k1 = log pi - log pi_ref; `kl_estimate` for the others).

    All tensors are (B, T); log-probabilities are natural and of the policy that drew the tokens. Where the mask is zero
    the rewards stay as they are, whatever the log-probabilities hold.
    """
    counts = mask.bool()
    return rewards - beta * kl_estimate(torch.where(counts, logprobs, 0), torch.where(counts, ref_logprobs, 0), kind)


def length_adaptive_lambda(mask: torch.Tensor, horizon_fraction: float) -> torch.Tensor:
    """(B,) lambda of each response, 1 - 1 / (f l), not below 0, for l counting tokens and f = `horizon_fraction`.

    1 / (1 - lambda) is how many tokens GAE looks ahead; so it looks over the same fraction f of every response (VAPO's
    alpha, 0.05 there). A response of up to 1 / f tokens gets 0: one step ahead.
    """
    lengths = (mask > 0).sum(dim=1).double()
    return (1 - 1 / (horizon_fraction * lengths.clamp(min=1))).clamp(min=0)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    gamma: float,
    lam: float | torch.Tensor,
    last_values: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation over the counting tokens of each row.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t) and A_t = delta_t + gamma lam A_{t+1}, where s_t is the state *before*
    token t, and the value after the last counting token is 0 (the episode ended), or `last_values` (it was cut). Tokens
    that do not count (tool output, padding) are stepped over: the state before the next counting token follows
    directly, and a reward that lies on them is ignored.

    Args:
        rewards: (B, T) reward of each token.
        values: (B, T) V(s_t).
        mask: (B, T), 1 = counts.
        gamma: discount in [0, 1].
        lam: lambda in [0, 1], one number or (B,) of each row.
        last_values: (B,) value of the state after the last token; 0 where the episode ended there.

    Returns:
        advantages (B, T) and returns A_t + V(s_t) (B, T); both zero where the mask is zero.
    """
    counts = mask.bool()
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0]) if last_values is None else last_values.to(values)
    lam = lam.to(values) if isinstance(lam, torch.Tensor) else lam
    next_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(counts[:, t], advantage, 0)
        next_advantage = torch.where(counts[:, t], advantage, next_advantage)
        next_value = torch.where(counts[:, t], values[:, t], next_value)
    return advantages, torch.where(counts, advantages + values, 0)


def decoupled_gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    gamma: float,
    lam: float | torch.Tensor,
    lam_value: float | None,
    last_values: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE with a lambda of its own for the value targets: advantages A_t(lam) and returns A_t(lam_value) + V(s_t).

    Yuan et al. 2025 (VC-PPO, arXiv 2503.01491): with lambda below 1 the reward at the end decays before it
    reaches the critic's early states, so the critic learns from lambda 1 while the policy keeps a lower variance.
    `lam_value` None is plain GAE. Everything else is `gae`'s.
    """
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, last_values=last_values)
    if lam_value is not None:
        returns = gae(rewards, values, mask, gamma=gamma, lam=lam_value, last_values=last_values)[1]
    return advantages, returns


def rewards_to_go(rewards: torch.Tensor, mask: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """(B, T) discounted sum of the rewards from each counting token on: G_t = r_t + gamma G_{t+1}; zero where the mask
    is zero, and what does not count is stepped over.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[0]


def group_advantages(
    scores: torch.Tensor,
    num_generations: int,
    *,
    kind: GroupKind,
    scale: ScaleRewards = "group",
    eps: float = 1e-4,
) -> torch.Tensor:
    """Critic-free advantages of one score per response.

    Args:
        scores: (P * G,) with the G samples of a prompt next to each other; NaN marks a response that could not be
            scored.
        num_generations: G, at least 2.
        kind: `group` is (r - mean) / (std + eps), where the mean is that of the prompt; `rloo` is r minus the mean of
            the *other* samples; `mean` is r minus the mean of all of them.
        scale: with `group`, of what the standard deviation (unbiased) is: the prompt's scores, all scores, or none (no
            division: Dr. GRPO). Names as in TRL.
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
    elif kind == "mean" or scale == "none":
        advantages = centred
    elif scale == "batch":
        advantages = centred / (_deviation(scores) + eps)
    else:
        advantages = centred / ((centred.square().sum(dim=1, keepdim=True) / pairs).sqrt() + eps)
    return torch.where(scored & (count > 1), advantages, 0).reshape(-1)


def _deviation(scores: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation of the scores that are there; 0 of fewer than two."""
    there = scores[~scores.isnan()]
    return there.std() if there.numel() > 1 else torch.zeros_like(scores[0])


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
