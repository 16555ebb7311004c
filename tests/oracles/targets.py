"""Advantages and value targets of one rollout batch in plain Python: the oracle of every option that makes them. It
imports nothing of reasonrl, and nothing but `math`.

Schulman et al. 2016 (arXiv 1506.02438): GAE. Yuan et al. 2025 (arXiv 2503.01491): a lambda of its own for the critic.
Yue et al. 2025 (arXiv 2504.05118): a lambda of the length. StepFun 2026 (arXiv 2602.10604): a cut response's reward is
the value after it. Shao et al. 2024 (arXiv 2402.03300), Liu et al. 2025 (arXiv 2503.20783, 2508.08221), Ahmadian et al.
2024 (arXiv 2402.14740), Hu et al. 2025 (arXiv 2501.03262): advantages without a critic.
"""

import math
from dataclasses import dataclass


@dataclass
class Options:
    """What is asked for; names are those of the recipe."""

    advantage: str = "gae"
    num_generations: int = 1
    gamma: float = 1.0
    lam: float = 1.0
    lam_value: float | None = None
    lam_horizon_fraction: float | None = None
    truncation_bootstrap: bool = False
    mask_truncated_completions: bool = False
    scale_rewards: str = "group"
    normalize_advantages: bool = True
    beta: float = 0.0
    kl_estimator: str = "k1"


def kl_of(x, kind):
    """An estimate of the KL from x = log pi - log pi_ref."""
    if kind == "k1":
        return x
    return x * x / 2 if kind == "k2" else math.exp(-x) - 1 + x


def mean_of(xs):
    return math.fsum(xs) / len(xs)


def deviation_of(xs):
    """The unbiased standard deviation."""
    mean = mean_of(xs)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in xs) / (len(xs) - 1)) if len(xs) > 1 else 0.0


def ahead(rewards, values, end, gamma, lam):
    """GAE as a sum over all later tokens; `end` is the value after the last one."""
    n = len(rewards)
    after = [*values[1:], end]
    deltas = [rewards[t] + gamma * after[t] - values[t] for t in range(n)]
    return [math.fsum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]


def of_groups(totals, o):
    """One advantage a response from the totals of all of them; None where there is no score."""
    out = []
    everyone = [x for x in totals if x is not None]
    for i, total in enumerate(totals):
        first = i - i % o.num_generations
        group = [x for x in totals[first : first + o.num_generations] if x is not None]
        others = [x for j, x in enumerate(totals[first : first + o.num_generations], first) if x is not None and j != i]
        if total is None or not others:
            out.append(0.0)
        elif o.advantage == "rloo":
            out.append(total - mean_of(others))
        elif o.advantage == "group" and o.scale_rewards != "none":
            deviation = deviation_of(group if o.scale_rewards == "group" else everyone)
            out.append((total - mean_of(group)) / (deviation + 1e-4))
        else:
            out.append(total - mean_of(group))
    return out


def targets_of(scores, finished, values, ends, log_ratios, o, token_rewards=None):
    """Advantages and value targets of a rollout batch.

    Args:
        scores: one a response; None where it could not be scored. Responses of a prompt stand together.
        finished: whether each ended by itself; a cut one's score is then 0 already, where that is asked for.
        values: of each response, V before each token; None without a critic.
        ends: of each response, V after its last token.
        log_ratios: of each response, log pi - log pi_ref of each token.
        o: the options.
        token_rewards: of each response, a reward for each token; None: zeros.

    Returns:
        Lists of per-token advantages and returns, each None where the response is not trained on.
    """
    count = len(scores)
    given = token_rewards or [[0.0] * len(x) for x in log_ratios]
    penalties = [[o.beta * kl_of(x, o.kl_estimator) for x in row] for row in log_ratios]
    totals = [None if scores[i] is None else scores[i] + math.fsum(given[i]) for i in range(count)]
    if o.advantage in ("group", "rloo"):
        totals = [None if x is None else x - math.fsum(penalties[i]) for i, x in enumerate(totals)]
    level = [0.0] * count if o.advantage in ("gae", "reinforce_pp") else of_groups(totals, o)
    advantages, returns = [None] * count, [None] * count
    for i in range(count):
        n = len(log_ratios[i])
        if scores[i] is None or (o.mask_truncated_completions and not finished[i]):
            continue
        rewards = [given[i][t] - penalties[i][t] + (scores[i] if t == n - 1 else 0.0) for t in range(n)]
        if o.advantage == "gae":
            end = ends[i] if o.truncation_bootstrap and not finished[i] else 0.0
            lam = o.lam
            if o.lam_horizon_fraction is not None:
                lam = max(0.0, 1 - 1 / (o.lam_horizon_fraction * n))
            advantages[i] = ahead(rewards, values[i], end, o.gamma, lam)
            critic_lam = lam if o.lam_value is None else o.lam_value
            returns[i] = [
                a + v for a, v in zip(ahead(rewards, values[i], end, o.gamma, critic_lam), values[i], strict=True)
            ]
        elif o.advantage in ("group", "rloo"):
            advantages[i] = [level[i]] * n
        else:
            baseline = 0.0 if o.advantage == "reinforce_pp" else totals[i] - level[i]
            to_go = [math.fsum(o.gamma ** (s - t) * rewards[s] for s in range(t, n)) for t in range(n)]
            advantages[i] = [x - baseline for x in to_go]
    if o.normalize_advantages and o.advantage not in ("group", "rloo"):
        flat = [a for row in advantages if row is not None for a in row]
        mean = mean_of(flat)
        deviation = math.sqrt(max(mean_of([(a - mean) ** 2 for a in flat]), 1e-8))
        advantages = [None if row is None else [(a - mean) / deviation for a in row] for row in advantages]
    return advantages, returns
