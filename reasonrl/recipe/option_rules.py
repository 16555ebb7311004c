"""Rules between the options of PPO's policy loss: what cannot work together, and what would do nothing.

Pure functions over raw values: a stage's cross checks and `PPOConfig` both call `option_problems`, so that a rule
stands in one place. docs/algorithms.md says what each option is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from reasonrl.recipe.fields import Issue, Positive

LossType = Literal["dapo", "bnpo", "grpo", "dr_grpo", "cispo", "sapo"]
RatioLevel = Literal["token", "sequence", "sequence_token"]
Band = Annotated[list[Positive], Field(min_length=2, max_length=2)]

LOSS_HINTS: dict[str, str] = {
    "clip_higher": "epsilon_high",
    "clip_ratio_high": "epsilon_high",
    "clip_ratio": "epsilon",
    "dual_clip": "delta",
    "clip_ratio_c": "delta",
    "kl_type": "kl_estimator",
    "kl_loss_type": "kl_estimator",
    "use_kl_loss": "kl_in",
    "kl_loss_coef": "beta",
    "entropy_coeff": "entropy_coef",
    "ratio_level": "importance_sampling_level",
    "nll_coef": "positive_nll_coef",
}

_DEFAULTS: dict[str, Any] = {
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "ratio": "ppo",
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "token_ratio_band": None,
    "sequence_ratio_band": None,
    "beta": 0.0,
    "kl_in": "reward",
    "kl_estimator": "k1",
    "use_bias_correction_kl": True,
    "entropy_coef": 0.0,
    "top_entropy_quantile": 1.0,
    "positive_weight": 1.0,
    "positive_nll_coef": 0.0,
    "positive_above": 0.5,
}
"""What an option is when it is not given, in stage and config alike."""


def option_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong between the options of the policy loss; keys that are missing count as not given."""
    values = {**_DEFAULTS, **{key: given[key] for key in _DEFAULTS if key in given}}
    issues = [*_range(values)]
    if issues:
        return issues
    return [
        *_clip(values),
        *_level(values),
        *_bands(values, given),
        *_kl(values),
        *_positive(values),
        *_streaming(values, given),
    ]


def _changed(values: Mapping[str, Any], key: str) -> bool:
    return bool(values[key] != _DEFAULTS[key])


def _range(v: Mapping[str, Any]) -> Iterator[Issue]:
    """Values that are wrong by themselves; a stage has refused them already."""
    words: dict[str, tuple[Any, ...]] = {
        "loss_type": get_args(LossType),
        "importance_sampling_level": get_args(RatioLevel),
        "ratio": ("ppo", "none"),
        "kl_in": ("reward", "loss"),
        "kl_estimator": ("k1", "k2", "k3"),
    }
    for key, allowed in words.items():
        if v[key] not in allowed:
            yield Issue(key, f"is {v[key]!r}; allowed: {', '.join(allowed)}", f"use {allowed[0]}")
    for key in ("beta", "entropy_coef", "positive_weight", "positive_nll_coef"):
        if v[key] < 0:
            yield Issue(key, f"is {v[key]}; allowed: 0 or more", f"use {_DEFAULTS[key]}")
    if not 0 < v["top_entropy_quantile"] <= 1:
        yield Issue("top_entropy_quantile", f"is {v['top_entropy_quantile']}; allowed: above 0, up to 1", "use 0.2")


def _clip(v: Mapping[str, Any]) -> Iterator[Issue]:
    """The clip, and what replaces it."""
    loss, none = v["loss_type"], v["ratio"] == "none"
    other = "ratio: none" if none else f"loss_type: {loss}" if loss in ("cispo", "sapo") else ""
    if none and loss in ("cispo", "sapo"):
        message = f"is none, which leaves no ratio for loss_type: {loss} to bound"
        yield Issue("ratio", message, "use one of both")
        return
    idle = {"ratio: none": ("epsilon", "epsilon_high", "delta"), "loss_type: cispo": ("epsilon", "delta")}
    idle["loss_type: sapo"] = idle["ratio: none"]
    for key in idle.get(other, ()):
        if _changed(v, key):
            yield Issue(key, f"is {v[key]}, but {other} has no such clip", f"remove {key}, or {other}")
    high = v["epsilon_high"]
    if other == "loss_type: cispo" and (high is None or high < 1):
        message = (
            f"is {'null' if high is None else high}, but with loss_type: cispo it is the largest ratio itself, not what"
            " is added to 1"
        )
        yield Issue("epsilon_high", message, "use epsilon_high: 5.0 (at least 1), or another loss_type")
    top = 1 + (v["epsilon"] if high is None else high)
    if not other and v["delta"] is not None and v["delta"] <= top:
        message = f"is {v['delta']}, not above the clip of ratios at 1 + epsilon_high = {top:g}"
        yield Issue("delta", message, "use 3.0 or more, or leave it out")
    for key in ("sapo_temperature_pos", "sapo_temperature_neg"):
        if loss != "sapo" and _changed(v, key):
            yield Issue(key, f"is {v[key]}, but loss_type: {loss} has no such temperature", "use loss_type: sapo")


def _level(v: Mapping[str, Any]) -> Iterator[Issue]:
    """The level of the ratio."""
    level = v["importance_sampling_level"]
    key = "importance_sampling_level"
    if level == "token":
        return
    if v["ratio"] == "none":
        yield Issue(key, f"is {level}, but ratio: none has no ratio", "remove it, or use ratio: ppo")
    if level == "sequence_token" and v["loss_type"] == "cispo":
        message = "is sequence_token, but loss_type: cispo takes no gradient of it, so it is the same as sequence"
        yield Issue(key, message, "use sequence")
    if level == "sequence":
        for mask in ("token_ratio_band", "top_entropy_quantile"):
            if _changed(v, mask):
                message = (
                    f"is sequence, but {mask} leaves single tokens out, and the gradient of a response's ratio goes to"
                    " all of its tokens"
                )
                yield Issue(key, message, f"use sequence_token, or remove {mask}")


def _bands(v: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Issue]:
    """The masks of MIS-PO."""
    for key, usual in (("token_ratio_band", "[0.5, 2.0]"), ("sequence_ratio_band", "[0.996, 1.001]")):
        band = v[key]
        if band is None:
            continue
        if len(band) != 2 or not 0 < band[0] <= 1 <= band[1]:
            message = f"is {band}; allowed: two numbers, lowest and highest ratio, with 1 (equal policies) within"
            yield Issue(key, message, f"use {usual}")
        if (given.get("top_p") or 1) < 1:
            message = (
                f"is {given['top_p']}, but {key} compares probabilities of the whole distribution, and a nucleus is"
                " another one"
            )
            yield Issue("top_p", message, f"use top_p: 1, or remove {key}")


def _kl(v: Mapping[str, Any]) -> Iterator[Issue]:
    """The KL, its place and its estimator."""
    corrected = v["use_bias_correction_kl"]
    if v["beta"] == 0:
        for key in ("kl_in", "kl_estimator", "use_bias_correction_kl"):
            if _changed(v, key):
                yield Issue(key, f"is {_yaml(v[key])}, but beta is 0: there is no KL", "set beta, or remove it")
        return
    if v["kl_in"] == "reward" and not corrected:
        message = "is false, but kl_in: reward has no KL in the loss to correct"
        yield Issue("use_bias_correction_kl", message, "remove it, or use kl_in: loss")
    if v["kl_in"] == "loss" and v["kl_estimator"] == "k1" and not corrected:
        message = (
            "is k1, whose gradient in the loss is zero on average (kl_in: loss, use_bias_correction_kl: false): it"
            " would only add noise"
        )
        yield Issue("kl_estimator", message, "use k2 or k3, or use_bias_correction_kl: true")


def _positive(v: Mapping[str, Any]) -> Iterator[Issue]:
    """What tells positive samples from others."""
    if _changed(v, "positive_above") and not _changed(v, "positive_weight") and not _changed(v, "positive_nll_coef"):
        message = f"is {v['positive_above']}, but neither positive_weight nor positive_nll_coef is set"
        yield Issue("positive_above", message, "remove it, or set one of them")


def _streaming(v: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Issue]:
    """What `train_while_generating` cannot do: denominators that only the whole batch tells."""
    if not given.get("train_while_generating"):
        return
    never = "or train_while_generating: false"
    for key, what in (
        ("top_entropy_quantile", "the quantile is one of all tokens of the batch"),
        ("positive_nll_coef", "it is divided by the tokens of all positive samples of the batch"),
    ):
        if _changed(v, key):
            message = f"is {v[key]}, but train_while_generating trains before the last sample is there, and {what}"
            yield Issue(key, message, f"remove {key}, {never}")
    if v["entropy_coef"] and v["loss_type"] in ("grpo", "dr_grpo", "sapo"):
        message = (
            f"is {v['entropy_coef']}, a mean over tokens, but loss_type: {v['loss_type']} is one over responses, and"
            " train_while_generating scales both at the end by one number"
        )
        yield Issue("entropy_coef", message, f"use loss_type: dapo, {never}")


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
