"""Rules between the options that make PPO's advantages and value targets: what cannot work together, and what would do
nothing.

Pure functions over raw values: a stage's cross checks and `PPOConfig` both call `advantage_problems`, so that a rule
stands in one place. docs/algorithms.md says what each option is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from reasonrl.plugins import entry_point_names
from reasonrl.recipe.fields import Issue

ADVANTAGES_GROUP = "reasonrl.advantages"
"""Entry points of functions from (P, G) total rewards of P prompts' G samples, NaN where a sample does not count, to
(P, G) advantages."""
PLUGINS = entry_point_names(ADVANTAGES_GROUP)
if TYPE_CHECKING:
    Advantage = Literal["gae", "group", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
else:
    Advantage = Literal[("gae", "group", "rloo", "reinforce_pp", "reinforce_pp_baseline", *PLUGINS)]
ScaleRewards = Literal["group", "batch", "none"]

GROUPED = ("group", "rloo", "reinforce_pp_baseline", *PLUGINS)
"""Advantages that compare the samples of one prompt."""
NORMALIZED = ("gae", "reinforce_pp", "reinforce_pp_baseline")
"""Advantages that `normalize_advantages` is about."""
DISCOUNTED = ("gae", "reinforce_pp")
"""Advantages that `gamma` is about."""

ADVANTAGE_HINTS: dict[str, str] = {
    "lam_critic": "lam_value",
    "lambda_critic": "lam_value",
    "lam_actor": "lam",
    "lam_policy": "lam",
    "length_adaptive_gae": "lam_horizon_fraction",
    "lam_alpha": "lam_horizon_fraction",
    "overlong_filtering": "mask_truncated_completions",
    "overlong_masking": "mask_truncated_completions",
    "bootstrap_truncated": "truncation_bootstrap",
    "norm_adv_by_std_in_grpo": "scale_rewards",
    "whiten_advantages": "normalize_advantages",
}

_DEFAULTS: dict[str, Any] = {
    "advantage": "gae",
    "gamma": 1.0,
    "lam": 1.0,
    "lam_value": None,
    "lam_horizon_fraction": None,
    "truncation_bootstrap": False,
    "scale_rewards": "group",
    "normalize_advantages": True,
    "reward_requires_stop": True,
    "mask_truncated_completions": False,
    "critic_warmup_steps": 0,
}
"""What an option is when it is not given, in stage and config alike."""


def advantage_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong between the options of advantages and targets; keys that are missing count as not given.

    An `advantage` that is not there at all (it was wrong by itself) hides the rules that depend on it.
    """
    values = {**_DEFAULTS, **{key: given[key] for key in _DEFAULTS if key in given}}
    issues = [*_range(values), *_truncation(values)]
    if "advantage" in given:
        issues += [*_groups(values, given), *_idle(values), *_lambdas(values), *_streaming(values, given)]
    return issues


def _range(v: Mapping[str, Any]) -> Iterator[Issue]:
    for key in ("gamma", "lam", "lam_value"):
        if v[key] is not None and not 0 <= v[key] <= 1:
            yield Issue(key, f"is {v[key]}; allowed: 0 to 1", "use 1.0")
    for key, allowed in (("advantage", get_args(Advantage)), ("scale_rewards", get_args(ScaleRewards))):
        if v[key] not in allowed:
            yield Issue(key, f"is {v[key]!r}; allowed: {', '.join(allowed)}", f"use {allowed[0]}")
    fraction = v["lam_horizon_fraction"]
    if fraction is not None and not 0 < fraction <= 1:
        yield Issue("lam_horizon_fraction", f"is {fraction}; allowed: above 0, up to 1", "use 0.05")


def _truncation(v: Mapping[str, Any]) -> Iterator[Issue]:
    """A cut response has one meaning: its score (0 or its own), the value after it, or nothing."""
    if not v["truncation_bootstrap"]:
        return
    if not v["reward_requires_stop"]:
        message = (
            "is true, which puts the value of the state after it in the place of a cut response's score, but"
            " reward_requires_stop: false lets that score count"
        )
        yield Issue("truncation_bootstrap", message, "use reward_requires_stop: true, or truncation_bootstrap: false")
    if v["mask_truncated_completions"]:
        message = "is true, but mask_truncated_completions leaves cut responses out, so that none has a target"
        yield Issue("truncation_bootstrap", message, "use one of both")


def _groups(v: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Issue]:
    advantage, samples = v["advantage"], given.get("num_generations")
    if advantage in GROUPED and isinstance(samples, int) and samples < 2:
        message = f"is {samples}, but advantage: {advantage} compares the samples of one prompt and needs at least 2"
        yield Issue("num_generations", message, "raise num_generations, or use advantage: gae")


def _idle(v: Mapping[str, Any]) -> Iterator[Issue]:
    """Options that the kind of advantage makes nothing of."""
    advantage = v["advantage"]
    if advantage != "gae":
        for key in ("lam", "lam_value", "lam_horizon_fraction", "truncation_bootstrap"):
            if v[key] != _DEFAULTS[key]:
                message = f"is {_yaml(v[key])}, but advantage: {advantage} has no values of a critic"
                yield Issue(key, message, "remove it, or use advantage: gae")
        if v["critic_warmup_steps"]:
            message = f"is {v['critic_warmup_steps']}, but advantage: {advantage} has no critic to warm up"
            yield Issue("critic_warmup_steps", message, "remove it, or use advantage: gae")
    if advantage not in DISCOUNTED and v["gamma"] != 1:
        message = f"is {v['gamma']}, but advantage: {advantage} takes the sum of a response's rewards, undiscounted"
        yield Issue("gamma", message, "remove it, or use advantage: gae or reinforce_pp")
    if advantage != "group" and v["scale_rewards"] != "group":
        what = " (normalize_advantages is what scales them)" if advantage in NORMALIZED else ""
        message = f"is {v['scale_rewards']}, but advantage: {advantage} has no deviation of its own{what}"
        yield Issue("scale_rewards", message, "remove it, or use advantage: group")


def _lambdas(v: Mapping[str, Any]) -> Iterator[Issue]:
    if v["lam_horizon_fraction"] is not None and v["lam"] != 1:
        message = f"is {v['lam']}, but lam_horizon_fraction makes a lambda of each response's length"
        yield Issue("lam", message, "use one of both; the critic's own is lam_value")


def _streaming(v: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Issue]:
    """What `train_while_generating` cannot do: moments that only the whole batch tells."""
    if not given.get("train_while_generating"):
        return
    never = "or train_while_generating: false"
    if v["advantage"] in NORMALIZED and v["normalize_advantages"]:
        message = (
            "is true, but train_while_generating trains on samples before the last one is there, which mean and"
            " deviation of all advantages wait for"
        )
        yield Issue("normalize_advantages", message, f"set normalize_advantages: false, {never}")
    if v["advantage"] == "group" and v["scale_rewards"] == "batch":
        message = (
            "is batch, but train_while_generating trains on samples before the last one is there, which the deviation"
            " of all scores waits for"
        )
        yield Issue("scale_rewards", message, f"use group or none, {never}")


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
