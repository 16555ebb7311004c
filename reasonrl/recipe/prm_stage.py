"""The `prm` stage of a recipe. Leaf names are transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import OPERATIONAL, Count, Flag, Issue, NonNegative, OpenFraction
from reasonrl.recipe.stage_base import Scheduler
from reasonrl.recipe.training_fields import DataTraining


class PRMStage(DataTraining):
    """A process reward model from solutions with labelled steps (docs/prm.md); a step is one optimizer step.

    Attributes:
        data: rows with `problem`, `text` (or `solution`), `steps` ([start, end] in characters) and labels.
        labels: `hard` trains on the rows' `labels`, `soft` on their `soft`.
        label_rule: what is made of the labels: `all` takes every step; `first_error` masks the steps after the first
            wrong one, `first_error_zero` calls them wrong, `last_only` keeps the last step's alone.
        threshold: from which score on a step is called right, in the figures on `eval_data`.
        solutions_per_step: solutions of one optimizer step, over all processes and micro-batches.
        max_length: tokens of prompt and solution that are kept; what is cut is counted.
    """

    kind: Literal["prm"] = "prm"
    labels: Literal["hard", "soft"] = "hard"
    label_rule: Literal["all", "first_error", "first_error_zero", "last_only"] = "all"
    threshold: OpenFraction = 0.5
    head_init: Literal["normal", "zeros"] = "normal"
    solutions_per_step: Count = 256
    max_length: Count = 10240
    learning_rate: NonNegative = 1e-6
    lr_scheduler_type: Scheduler = "constant_with_warmup"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    padding_free: Annotated[Flag, OPERATIONAL] = True
    eval_steps: Count | None = None

    hints: ClassVar[Mapping[str, str]] = {
        **DataTraining.hints,
        "batch_size": "solutions_per_step",
        "per_device_train_batch_size": "solutions_per_step",
        "gradient_accumulation_steps": "tokens_per_microbatch",
        "soft_labels": "labels",
        "train_on_last_step_only": "label_rule",
        "value_head_init": "head_init",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = super().cross_checks(given)
        rule = given.get("label_rule", "all")
        if given.get("labels") == "soft" and rule in ("first_error", "first_error_zero"):
            text = f"is {rule}, but labels: soft has no first error"
            issues.append(Issue("label_rule", text, "use label_rule: all, or labels: hard"))
        if given.get("eval_steps") is not None and "eval_data" in given and given["eval_data"] is None:
            text = f"is {given['eval_steps']}, but there is no eval_data to score"
            issues.append(Issue("eval_steps", text, "give eval_data, or remove eval_steps"))
        return issues
