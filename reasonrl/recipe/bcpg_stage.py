"""The `bcpg` stage of a recipe. Leaf names are transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reasonrl.recipe.fields import OPERATIONAL, Count, Flag, Issue, NonNegative, OpenFraction, Positive
from reasonrl.recipe.sources import ModelSource
from reasonrl.recipe.stage_base import Scheduler
from reasonrl.recipe.training_fields import DataTraining

#: What each method alone reads.
_OWN = {"epsilon": "grpo_offline", "positive_weight": "w_reinforce", "quadratic": "bcpg"}


def _tau(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise PydanticCustomError("reasonrl", "is {value}; allowed: auto, or a number from 0", {"value": repr(value)})
    return float(value)


class BCPGStage(DataTraining):
    """A policy trained on logged samples, with weights on the steps of wrong answers (docs/bcpg.md); a step is one
    optimizer step.

    Attributes:
        data: sample rows of a rollout, with step labels of wrong answers where `mined` asks for them.
        method: `bcpg` (arXiv:2505.14403), or what it is compared with: `grpo_offline`, `topr`, `w_reinforce`.
        reference_model: whose log-probabilities constrain the policy; by default `model`'s.
        beta: weight of the mined tokens of wrong answers; 1 is plain BCPG, below 0 they are reinforced.
        mined: which tokens those are: of the steps labelled right (`labels`), of those before the first wrong one
            (`first_error`), of what `world`'s own reader finds right (`oracle`), as many of random steps or of the
            first ones, none; `uniform` gives all tokens of wrong answers the mean weight.
        tau: strength of the constraint; `auto` starts from the paper's, scaled to the length of wrong answers. By
            default auto for `bcpg`, 0 for the others.
        quadratic: of the whole response's log-ratio (the paper's), or of each token's.
        samples_per_step: samples of one optimizer step, over all processes and micro-batches.
        max_length: longest prompt and response; longer samples are left out and counted, never cut.
        damaged: `refuse` stops at the first row with a fault and names it, `set_aside` counts such rows.
        logprobs: whether every row must hold the sampler's log-probabilities.
        truncated: train on responses that were cut off (their tokens weigh 1), or leave them out.
        warmup_ratio: share of all steps; or `warmup_steps`.
    """

    kind: Literal["bcpg"] = "bcpg"
    method: Literal["bcpg", "grpo_offline", "topr", "w_reinforce"] = "bcpg"
    reference_model: ModelSource | None = None
    beta: Annotated[float, Field(strict=True, ge=-1, le=1)] = 0.5
    mined: Literal["labels", "random_steps", "leading_steps", "uniform", "first_error", "oracle", "none"] = "labels"
    world: Literal["reflective"] | None = None
    tau: Annotated[float | Literal["auto"] | None, BeforeValidator(_tau)] = None
    quadratic: Literal["sequence", "token"] = "sequence"
    epsilon: Positive = 0.2
    positive_weight: NonNegative = 0.1
    samples_per_step: Count = 512
    max_length: Count | None = None
    damaged: Literal["refuse", "set_aside"] = "refuse"
    logprobs: Literal["required", "optional"] = "required"
    truncated: Literal["keep", "leave_out"] = "keep"
    learning_rate: NonNegative = 5e-7
    lr_scheduler_type: Scheduler = "cosine_with_min_lr"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=lambda: {"min_lr_rate": 0.5})
    warmup_ratio: OpenFraction = 0.0
    adam_beta2: OpenFraction = 0.95
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 32768
    padding_free: Annotated[Flag, OPERATIONAL] = True

    hints: ClassVar[Mapping[str, str]] = {
        **DataTraining.hints,
        "batch_size": "samples_per_step",
        "per_device_train_batch_size": "samples_per_step",
        "gradient_accumulation_steps": "tokens_per_microbatch",
        "ref_model": "reference_model",
        "weights": "mined",
        "token_level": "quadratic",
        "cliprange": "epsilon",
        "algorithm": "method",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = super().cross_checks(given)
        method = given.get("method", "bcpg")
        for key, owner in _OWN.items():
            if key in given and given[key] != cls.model_fields[key].default and method != owner:
                text = f"is {given[key]}, which means something to method: {owner}, and method is {method}"
                issues.append(Issue(key, text, "remove it"))
        if given.get("tau") not in (None, 0) and method != "bcpg":
            text = f"is {given['tau']}, but {method} has no constraint of its own"
            issues.append(Issue("tau", text, "remove it, or use method: bcpg"))
        if given.get("eval_data") is not None:
            issues.append(Issue("eval_data", "is not read by this stage", "add a stage of kind: eval"))
        if given.get("warmup_steps") and given.get("warmup_ratio"):
            issues.append(Issue("warmup_ratio", "and warmup_steps both say how long to warm up", "keep one"))
        if given.get("mined") == "oracle" and given.get("world") is None and "world" in given:
            issues.append(Issue("world", "is missing: whose reader knows the labels", "world: reflective"))
        elif given.get("world") is not None and given.get("mined") != "oracle":
            issues.append(Issue("world", "is read with mined: oracle only", "remove it, or set mined: oracle"))
        return issues
