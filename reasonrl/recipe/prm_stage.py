"""The `prm` stage of a recipe. Leaf names are transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import (
    EXTENSIBLE,
    OPERATIONAL,
    Count,
    Flag,
    Issue,
    NonNegative,
    NonNegativeCount,
    OpenFraction,
    Positive,
)
from reasonrl.recipe.lora import LORA_HINTS, LoraSettings, lora_problems
from reasonrl.recipe.sources import Data, ModelSource
from reasonrl.recipe.stage_base import Scheduler, Stage


class PRMStage(Stage):
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
    model: ModelSource
    lora: LoraSettings | None = None
    data: Data
    eval_data: Data | None = None
    labels: Literal["hard", "soft"] = "hard"
    label_rule: Literal["all", "first_error", "first_error_zero", "last_only"] = "all"
    threshold: OpenFraction = 0.5
    head_init: Literal["normal", "zeros"] = "normal"
    solutions_per_step: Count = 256
    max_length: Count = 10240
    learning_rate: NonNegative = 1e-6
    lr_scheduler_type: Scheduler = "constant_with_warmup"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    warmup_steps: NonNegativeCount = 0
    num_train_epochs: Positive | None = None
    max_steps: Annotated[Count | None, EXTENSIBLE] = None
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    padding_free: Annotated[Flag, OPERATIONAL] = True
    weight_decay: NonNegative = 0.0
    adam_beta1: OpenFraction = 0.9
    adam_beta2: OpenFraction = 0.999
    max_grad_norm: NonNegative = 1.0
    bf16: Flag = False
    gradient_checkpointing: Flag = False
    eval_steps: Count | None = None
    save_steps: Annotated[Count | None, OPERATIONAL] = None
    save_total_limit: Annotated[Count, OPERATIONAL] = 2
    logging_steps: Annotated[Count, OPERATIONAL] = 10

    makes: ClassVar[tuple[str, ...]] = ("model",)
    hints: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "epochs": "num_train_epochs",
        "batch_size": "solutions_per_step",
        "per_device_train_batch_size": "solutions_per_step",
        "gradient_accumulation_steps": "tokens_per_microbatch",
        "max_seq_length": "max_length",
        "soft_labels": "labels",
        "train_on_last_step_only": "label_rule",
        "value_head_init": "head_init",
        "train_data": "data",
        "dataset": "data",
        "type": "kind",
        **LORA_HINTS,
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*lora_problems(given)]
        if given.get("max_steps") is not None and given.get("num_train_epochs") is not None:
            steps, epochs = given["max_steps"], given["num_train_epochs"]
            text = f"max_steps ({steps}) and num_train_epochs ({epochs}) both say how long to train"
            issues.append(Issue("max_steps", text, "keep one and remove the other, or set it to null"))
        rule = given.get("label_rule", "all")
        if given.get("labels") == "soft" and rule in ("first_error", "first_error_zero"):
            text = f"is {rule}, but labels: soft has no first error"
            issues.append(Issue("label_rule", text, "use label_rule: all, or labels: hard"))
        if given.get("eval_steps") is not None and "eval_data" in given and given["eval_data"] is None:
            text = f"is {given['eval_steps']}, but there is no eval_data to score"
            issues.append(Issue("eval_steps", text, "give eval_data, or remove eval_steps"))
        return issues
