"""Policy gradients on logged samples: behaviour-constrained (BCPG) with weights on steps (NSA), and what it is compared
with.

Yang et al. 2025 (arXiv 2505.14403, Eq. 6 and 7), to be maximised over a prompt's G logged responses y_i:

    J = 1/G sum_i 1/|y_i| [ sum_j b_ij (r_i - rbar) log pi(y_ij) - tau/2 (log pi(y_i) - log pi_ref(y_i))^2 ]

b_ij is beta on tokens of steps labelled right in answers that are wrong, else 1. There is no importance ratio and no
clip; the quadratic is of the whole response's log-ratio and is not weighted by b. It is the objective of Kimi k1.5's
policy mirror descent (arXiv 2501.12599, section 2.3.2) with b = 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from reasonrl.algorithms.advantages import group_advantages
from reasonrl.algorithms.losses import policy_loss

LoggedMethod = Literal["bcpg", "grpo_offline", "topr", "w_reinforce"]
LOGGED_METHODS: tuple[LoggedMethod, ...] = get_args(LoggedMethod)
Quadratic = Literal["sequence", "token"]

#: tau of the paper's runs, and the mean length of their wrong answers in tokens.
PAPER_TAU, PAPER_LENGTH = 1e-3, 7922


def start_tau(mean_length: float) -> float:
    """A tau to start a sweep from, for wrong answers of this mean length in tokens.

    The optimum of J has log pi - log pi_ref = A / tau over a whole response; so the drift of a token that the paper's
    tau allowed needs tau in inverse proportion to the length.

    Raises:
        ValueError: the length is not positive.
    """
    if not mean_length > 0:
        raise ValueError(f"mean length = {mean_length} -> above 0 tokens")
    return PAPER_TAU * PAPER_LENGTH / mean_length


def logged_advantages(
    rewards: Sequence[float], groups: Sequence[Hashable], method: LoggedMethod, *, positive_weight: float = 0.1
) -> list[float]:
    """A_i of every logged response.

    `bcpg`: r_i - rbar, the mean over its group. `grpo_offline`: that over the group's standard deviation. `topr`:
    2 r_i - 1, which tells rewards of 0 and 1 apart by sign (arXiv 2503.14286). `w_reinforce`: -1 where r_i is below
    1/2, else `positive_weight` (arXiv 2506.01347, lambda = 0.1).

    Args:
        rewards: of every response.
        groups: what the response answers; those of one prompt make a group, wherever they stand.
        method: see above.
        positive_weight: of `w_reinforce`.

    Raises:
        ValueError: an unknown method.
    """
    if method == "topr":
        return [2 * reward - 1 for reward in rewards]
    if method == "w_reinforce":
        return [positive_weight if reward >= 0.5 else -1.0 for reward in rewards]
    if method not in LOGGED_METHODS:
        raise ValueError(f"method = {method!r}, allowed are {', '.join(LOGGED_METHODS)}")
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    advantages = [0.0] * len(rewards)
    for places in members.values():
        if len(places) < 2:  # its mean is its own reward
            continue
        scores = torch.tensor([rewards[place] for place in places], dtype=torch.float64)
        kind: Literal["group", "mean"] = "group" if method == "grpo_offline" else "mean"
        for place, value in zip(places, group_advantages(scores, len(places), kind=kind).tolist(), strict=True):
            advantages[place] = value
    return advantages


@dataclass(frozen=True)
class LoggedSums:
    """Sums of a micro-batch; `loss` carries the gradient, the rest are for the record.

    Attributes:
        loss: what is minimised: -(policy - penalty).
        policy: of the term with log-probabilities.
        penalty: of the quadratic, tau/2 and 1/|y| included.
        log_ratio: (B, T) log pi - log pi_ref of the tokens, zero outside the mask; without gradient.
        rho: (B,) its sums over responses.
        clipped: share of the weight that was clipped: by the bounds of `grpo_offline`; for `topr`, of wrong answers
            whose ratio is above 1.
    """

    loss: torch.Tensor
    policy: torch.Tensor
    penalty: torch.Tensor
    log_ratio: torch.Tensor
    rho: torch.Tensor
    clipped: torch.Tensor


def logged_loss(
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    share: torch.Tensor,
    *,
    tau: float,
    method: LoggedMethod = "bcpg",
    quadratic: Quadratic = "sequence",
    epsilon: float = 0.2,
) -> LoggedSums:
    """-J of some whole responses, a sum: any split of a batch into responses gives the same in all.

    The term with log-probabilities, sum_i share_i sum_j b_ij A_i x_ij, has x = log pi for `bcpg` and `w_reinforce`;
    min(rho A, clip(rho) A) / A with a token's ratio rho to the reference for `grpo_offline`; and
    c_i log pi for `topr`, where c_i is 1 for A > 0 and else the response's ratio clipped to [0, 1], without gradient.

    Args:
        logprobs: (B, T) log pi, nats, at temperature 1, with gradient.
        ref_logprobs: (B, T) of the reference.
        mask: (B, T), 1 where a token belongs to the response; a response is never cut.
        advantages: (B,) A_i.
        weights: (B, T) b_ij.
        share: (B,) 1 / (N |y_i|), N the responses that the mean goes over; 0 leaves a response out.
        tau: of the quadratic.
        method: see above.
        quadratic: `sequence` squares the sum of a response's log-ratios, `token` sums their squares.
        epsilon: of the clip of `grpo_offline`.
    """
    counts = mask > 0
    new = torch.where(counts, logprobs, 0)
    log_ratio = new - torch.where(counts, ref_logprobs, 0).to(new)
    # Sums over ten thousands of tokens, in nats, multiply every token's gradient.
    rho = log_ratio.double().sum(dim=1)
    share, advantages = share.double(), advantages.double()
    per_token = (share.unsqueeze(1) * weights.double() * counts).to(new)
    clipped = torch.zeros((), dtype=torch.float64, device=new.device)
    if method == "grpo_offline":
        wide = advantages.unsqueeze(1).to(new).expand_as(new)
        # Weights below zero turn the advantage round, and with it what is clipped.
        signed = wide * per_token.sign()
        sums = policy_loss(new, new.detach() - log_ratio.detach(), signed, per_token.abs(), epsilon=epsilon)
        policy, clipped = -sums.loss.double(), sums.clipped.double()
    else:
        factor = advantages
        if method == "topr":
            ratio = rho.detach().exp()
            factor = torch.where(advantages > 0, advantages, advantages * ratio.clamp(max=1))
            clipped = (share * counts.sum(dim=1) * ((advantages < 0) & (ratio > 1))).sum()
        policy = (per_token * factor.unsqueeze(1).to(new) * new).double().sum()
    squared = rho.square() if quadratic == "sequence" else log_ratio.double().square().sum(dim=1)
    penalty = (share * squared).sum() * (tau / 2)
    return LoggedSums(
        loss=penalty - policy,
        policy=policy.detach(),
        penalty=penalty.detach(),
        log_ratio=log_ratio.detach(),
        rho=rho.detach(),
        clipped=clipped.detach(),
    )
