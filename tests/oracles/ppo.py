"""PPO with a critic on recorded rollouts, as one plain script: the trainer's oracle. It imports nothing of reasonrl.

One sequence at a time, no padding, no micro-batches. Schulman et al. 2017 (arXiv 1707.06347): the clipped surrogate;
Schulman et al. 2016 (arXiv 1506.02438): GAE; Hu et al. 2025 (arXiv 2503.24290): the batch-wide advantage normalisation
and the clipped value loss; Espeholt et al. 2018 (arXiv 1802.01561): truncated importance ratios.
"""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Episode:
    """Prompt and response token ids, and the reward at the end of the response."""

    prompt: list[int]
    response: list[int]
    reward: float | None  # None: it could not be scored
    finished: bool = True


@dataclass
class Settings:
    """The hyper-parameters that matter to the update."""

    seed: int
    stage: str
    actor_steps: int
    critic_steps: int
    epochs: int
    gamma: float
    lam: float
    epsilon: float
    cliprange_value: float
    learning_rate: float
    critic_learning_rate: float
    betas: tuple[float, float]
    adam_epsilon: float
    max_grad_norm: float
    staleness: int = 0  # steps that the policy which drew an episode is older
    bounds: tuple[float, float] | None = None  # of the importance ratio; None: no correction
    masked: bool = False  # outside the bounds: left out, not clamped
    targets: Callable | None = None  # makes advantages and returns instead of plain GAE (tests/oracles/targets.py)


def logprobs_of(policy, episode):
    """Log-probability of each response token."""
    ids = torch.tensor([episode.prompt + episode.response])
    logits = policy(input_ids=ids).logits[0]
    out = []
    for t, token in enumerate(episode.response):
        row = logits[len(episode.prompt) + t - 1]
        out.append(row[token] - torch.logsumexp(row, dim=0))
    return torch.stack(out)


def values_of(critic, episode):
    """The critic's value before each response token."""
    ids = torch.tensor([episode.prompt + episode.response])
    values = critic(input_ids=ids)[0]
    return torch.stack([values[len(episode.prompt) + t - 1] for t in range(len(episode.response))])


def value_after(critic, episode):
    """The critic's value after the last response token."""
    return float(critic(input_ids=torch.tensor([episode.prompt + episode.response]))[0][-1])


def options_targets(critic, reference, episodes, old_values, old_logprobs, s):
    """What `s.targets` makes of a rollout batch; None for what is not trained on."""
    ends = [None if critic is None else value_after(critic, e) for e in episodes]
    log_ratios = [(o - logprobs_of(reference, e)).tolist() for o, e in zip(old_logprobs, episodes, strict=True)]
    values = [None if v is None else v.tolist() for v in old_values]
    scores, finished = [e.reward for e in episodes], [e.finished for e in episodes]
    return list(zip(*s.targets(scores, finished, values, ends, log_ratios), strict=True))


def advantages_and_returns(reward, values, gamma, lam):
    """GAE of one episode with a single reward at its end."""
    n, ahead = len(values), 0.0
    advantages = [0.0] * n
    for t in reversed(range(n)):
        r = reward if t == n - 1 else 0.0
        v_next = values[t + 1] if t + 1 < n else 0.0
        ahead = r + gamma * v_next - values[t] + gamma * lam * ahead
        advantages[t] = ahead
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def parts_of(n, parts, *name):
    """The seeded, disjoint parts of a rollout batch."""
    order = list(range(n))
    random.Random("/".join(map(str, name))).shuffle(order)
    size = n // parts
    return [order[i * size : (i + 1) * size] for i in range(parts)]


def step(model, optimizer, loss, max_norm):
    """One optimizer step with the gradient's global norm limited."""
    optimizer.zero_grad()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float((g * g).sum()) for g in grads))
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / (norm + 1e-6))
    optimizer.step()


def correction(drawer, episode, old_logprobs, s: Settings):
    """How much each token counts because an older policy drew it, with log-probabilities in single precision."""
    if s.bounds is None:
        return 1.0
    ratio, (low, high) = torch.exp(old_logprobs - logprobs_of(drawer, episode).float().double()), s.bounds
    return ratio * ((ratio >= low) & (ratio <= high)) if s.masked else ratio.clamp(low, high)


def train(policy, critic, rollouts, s: Settings):
    """Run PPO over recorded rollout batches; returns the share of value tokens whose clip was active. Without a critic
    `s.targets` makes the advantages.
    """
    reference = copy.deepcopy(policy)
    adamw = {"betas": s.betas, "eps": s.adam_epsilon, "weight_decay": 0.0}
    policy_optimizer = torch.optim.AdamW(policy.parameters(), lr=s.learning_rate, **adamw)
    if critic is not None:
        critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=s.critic_learning_rate, **adamw)
    clipped, counted, drawers = 0, 0, []
    for number, episodes in enumerate(rollouts):
        drawers = [*drawers, copy.deepcopy(policy)][-1 - s.staleness :]
        with torch.no_grad():
            old_logprobs = [logprobs_of(policy, e) for e in episodes]
            old_values = [None if critic is None else values_of(critic, e) for e in episodes]
            corrected = [correction(drawers[0], e, old, s) for e, old in zip(episodes, old_logprobs, strict=True)]
        if s.targets is not None:
            with torch.no_grad():
                targets = options_targets(critic, reference, episodes, old_values, old_logprobs, s)
            mean, std = 0.0, 1.0
        else:
            targets = [
                advantages_and_returns(e.reward, v.tolist(), s.gamma, s.lam)
                for e, v in zip(episodes, old_values, strict=True)
            ]
            flat = [a for advantages, _ in targets for a in advantages]
            mean = math.fsum(flat) / len(flat)
            std = math.sqrt(max(math.fsum((a - mean) ** 2 for a in flat) / len(flat), 1e-8))

        for part in (
            [] if critic is None else parts_of(len(episodes), s.critic_steps, s.seed, s.stage, "critic", number)
        ):
            part = [i for i in part if targets[i][1] is not None]
            tokens = sum(len(episodes[i].response) for i in part)
            loss = 0.0
            for i in part:
                v, r = values_of(critic, episodes[i]), torch.tensor(targets[i][1], dtype=torch.float64)
                near = old_values[i] + (v - old_values[i]).clamp(-s.cliprange_value, s.cliprange_value)
                plain, limited = (v - r) ** 2, (near - r) ** 2
                clipped += int((limited > plain).sum())
                counted += len(v)
                loss = loss + 0.5 * torch.max(plain, limited).sum() / tokens
            step(critic, critic_optimizer, loss, s.max_grad_norm)

        for epoch in range(s.epochs):
            for part in parts_of(len(episodes), s.actor_steps, s.seed, s.stage, "actor", number, epoch):
                part = [i for i in part if targets[i][0] is not None]
                tokens = sum(len(episodes[i].response) for i in part)
                loss = 0.0
                for i in part:
                    ratio = torch.exp(logprobs_of(policy, episodes[i]) - old_logprobs[i])
                    a = (torch.tensor(targets[i][0], dtype=torch.float64) - mean) / std
                    limited = ratio.clamp(1 - s.epsilon, 1 + s.epsilon)
                    loss = loss - (corrected[i] * torch.min(ratio * a, limited * a)).sum() / tokens
                step(policy, policy_optimizer, loss, s.max_grad_norm)
    return clipped / max(counted, 1)
