"""The options of the policy's loss, token by token in plain Python, with gradients derived by hand.

A sample is a `Row` of lists over its response tokens. `gradients` gives, for every token, the derivative of the whole
loss by its log-probability and by the entropy of the distribution that it was drawn from.
"""

import math
from dataclasses import dataclass


@dataclass
class Row:
    """One response: its tokens' log-probabilities now, before the step, of the engine and the reference, and more."""

    now: list
    old: list
    engine: list
    ref: list
    advantage: list
    entropy: list  # before the step
    score: float


@dataclass
class Options:
    """The settings, named and preset as they are in a recipe."""

    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    ratio: str = "ppo"
    importance_sampling_level: str = "token"
    loss_type: str = "dapo"
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    token_ratio_band: list | None = None
    sequence_ratio_band: list | None = None
    vllm_importance_sampling_correction: bool = False
    vllm_importance_sampling_mode: str = "token_truncate"
    vllm_importance_sampling_clip_max: float = 2.0
    vllm_importance_sampling_clip_min: float | None = None
    beta: float = 0.0
    kl_in: str = "loss"
    kl_estimator: str = "k1"
    use_bias_correction_kl: bool = True
    entropy_coef: float = 0.0
    top_entropy_quantile: float = 1.0
    positive_weight: float = 1.0
    positive_nll_coef: float = 0.0
    positive_above: float = 0.5
    max_tokens: int = 1


def kept_tokens(row, o):
    """1 or 0 for each token: the bands of MIS-PO."""
    drift = [a - b for a, b in zip(row.old, row.engine, strict=True)]
    if o.sequence_ratio_band is not None:
        low, high = o.sequence_ratio_band
        if not low <= math.exp(math.fsum(drift) / len(drift)) <= high:
            return [0] * len(drift)
    if o.token_ratio_band is None:
        return [1] * len(drift)
    low, high = o.token_ratio_band
    return [int(low <= math.exp(d) <= high) for d in drift]


def corrections(row, o):
    """What each token is multiplied by because the engine drew it."""
    out = []
    drift = [a - b for a, b in zip(row.old, row.engine, strict=True)]
    if o.vllm_importance_sampling_mode.startswith("sequence"):
        drift = [math.fsum(drift)] * len(drift)
    low, high = o.vllm_importance_sampling_clip_min or 0.0, o.vllm_importance_sampling_clip_max
    for d in drift:
        ratio = math.exp(d)
        if not o.vllm_importance_sampling_correction:
            ratio = 1.0
        elif o.vllm_importance_sampling_mode.endswith("mask"):
            ratio = ratio if low <= ratio <= high else 0.0
        else:
            ratio = min(max(ratio, low), high)
        out.append(ratio)
    return out


def slope(ratio, advantage, o):
    """(J's derivative by log ratio, J's own derivative by log pi) of one token's objective J."""
    if o.ratio == "none":
        return 0.0, advantage
    if o.loss_type == "cispo":
        return 0.0, min(ratio, o.epsilon_high) * advantage
    if o.loss_type == "sapo":
        tau = o.sapo_temperature_pos if advantage > 0 else o.sapo_temperature_neg
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        return 4 * gate * (1 - gate) * ratio * advantage, 0.0
    high = 1 + (o.epsilon if o.epsilon_high is None else o.epsilon_high)
    if advantage > 0:
        return (ratio * advantage if ratio < high else 0.0), 0.0
    if ratio < 1 - o.epsilon or (o.delta is not None and ratio > o.delta):
        return 0.0, 0.0
    return ratio * advantage, 0.0


def kl_slope(now, old, ref, o):
    """Derivative of one token's KL term by log pi."""
    x, ratio = now - ref, math.exp(now - old)
    value = {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) - 1 + x}[o.kl_estimator]
    inner = {"k1": 1.0, "k2": x, "k3": 1 - math.exp(-x)}[o.kl_estimator]
    if not o.use_bias_correction_kl:
        return inner
    return ratio * inner if o.kl_estimator == "k2" else ratio * (value + inner)


def gradients(rows, o):
    """For each row, for each token: (dLoss/dlogp, dLoss/dentropy)."""
    kept = [kept_tokens(row, o) for row in rows]
    tokens = sum(map(sum, kept))
    responses = sum(1 for one in kept if sum(one))
    chosen = kept
    if o.top_entropy_quantile < 1:
        ordered = sorted(
            (h for row, one in zip(rows, kept, strict=True) for h, k in zip(row.entropy, one, strict=True) if k)
        )
        place = (1 - o.top_entropy_quantile) * (len(ordered) - 1)  # the quantile lies at this place, or just above
        least = ordered[math.ceil(place - 1e-9)]
        chosen = [
            [int(k and h >= least) for h, k in zip(row.entropy, one, strict=True)]
            for row, one in zip(rows, kept, strict=True)
        ]
    bonus = sum(map(sum, chosen))
    positive = sum(len(row.now) for row in rows if row.score > o.positive_above)
    out = []
    for row, keep, choose in zip(rows, kept, chosen, strict=True):
        n = len(row.now)
        by_logp, by_entropy = [0.0] * n, [0.0] * n
        corrected = corrections(row, o)
        log_ratio = [a - b for a, b in zip(row.now, row.old, strict=True)]
        mean = math.fsum(log_ratio) / n
        level = "token" if o.ratio == "none" else o.importance_sampling_level
        for t in range(n):
            if o.loss_type in ("grpo", "sapo"):
                weight = keep[t] / max(sum(keep), 1) / responses
            elif o.loss_type == "dr_grpo":
                weight = keep[t] / o.max_tokens / responses
            else:
                weight = keep[t] / tokens
            scale = weight * corrected[t] * choose[t]
            if row.score > o.positive_above:
                scale *= o.positive_weight
            ratio = math.exp(log_ratio[t] if level == "token" else mean)
            of_ratio, own = slope(ratio, row.advantage[t], o)
            by_logp[t] -= scale * own
            for u in range(n) if level == "sequence" else [t]:
                by_logp[u] -= scale * of_ratio / (n if level == "sequence" else 1)
            if o.beta and o.kl_in == "loss":
                by_logp[t] += o.beta * weight * kl_slope(row.now[t], row.old[t], row.ref[t], o)
            if o.entropy_coef and choose[t]:
                by_entropy[t] -= o.entropy_coef / bonus
            if o.positive_nll_coef and row.score > o.positive_above:
                by_logp[t] -= o.positive_nll_coef / positive
        out.append(list(zip(by_logp, by_entropy, strict=True)))
    return out
