"""Rules for a PPO stage whose samples are drawn while the step before trains, and for the correction with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from reasonrl.recipe.fields import Issue

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

OVERLAP_HINTS: dict[str, str] = {
    "staleness": "max_staleness",
    "one_step_off": "max_staleness",
    "async_steps": "max_staleness",
    "importance_sampling_correction": "vllm_importance_sampling_correction",
}
_PREFIX = "vllm_importance_sampling_"
# What says nothing while the correction is off.
_IDLE = {"mode": "token_truncate", "clip_max": 2.0, "clip_min": None}


def overlap_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong between `max_staleness`, the engine, and the importance correction of a PPO stage's raw values."""
    stale = given.get("max_staleness", 0)
    corrects = given.get(f"{_PREFIX}correction")
    corrects = stale > 0 if corrects is None else corrects
    issues = list(_staleness(stale, given)) if stale else []
    if not corrects:
        for name, idle in _IDLE.items():
            value = given.get(_PREFIX + name, idle)
            if value != idle:
                message = f"is {value}, but the correction is off (max_staleness: {stale})"
                issues.append(Issue(_PREFIX + name, message, f"remove it, or set {_PREFIX}correction: true"))
        return issues
    if given.get("top_p", 1) < 1:
        message = (
            f"is {given['top_p']}, but the importance correction compares probabilities of the whole distribution, and"
            " a nucleus is another one"
        )
        issues.append(Issue("top_p", message, f"use top_p: 1, or {_PREFIX}correction: false"))
    low, high = given.get(f"{_PREFIX}clip_min"), given.get(f"{_PREFIX}clip_max", 2.0)
    if low is None and high is None:
        message = f"is null as {_PREFIX}clip_min is, so nothing bounds the importance ratios"
        issues.append(Issue(f"{_PREFIX}clip_max", message, "use 2.0"))
    for name, value, wrong in (("clip_min", low, low or 0), ("clip_max", high, 1 / (high or 1))):
        if wrong > 1:
            side = "at most" if name == "clip_min" else "at least"
            message = f"is {value}, which leaves out a ratio of 1 (equal policies); allowed: {side} 1"
            issues.append(Issue(_PREFIX + name, message, f"use {0.5 if name == 'clip_min' else 2.0}"))
    return issues


def _staleness(stale: int, given: Mapping[str, Any]) -> list[Issue]:
    issues = []
    if stale > 1:
        message = f"is {stale}; allowed: 0 (samples of the current weights) or 1 (drawn while the step before trains)"
        issues.append(Issue("max_staleness", message, "use 1"))
    rollout = given.get("rollout", {})
    engine, own_copy = (
        (rollout.get("engine", "transformers"), rollout.get("own_copy", False))
        if isinstance(rollout, Mapping)
        else (rollout.engine, rollout.own_copy)
    )
    if "rollout" in given and engine == "transformers" and not own_copy:
        message = (
            f"is {stale}, but rollout.engine: transformers draws with the policy itself, which is trained meanwhile"
        )
        fix = "set rollout.engine: servers (or vllm), or rollout.own_copy: true for a copy of the policy"
        issues.append(Issue("max_staleness", message, fix))
    if given.get("train_while_generating"):
        message = (
            f"is {stale}, but train_while_generating trains on samples as they are drawn, in one and the same step"
        )
        issues.append(Issue("max_staleness", message, "use one of both"))
    return issues
