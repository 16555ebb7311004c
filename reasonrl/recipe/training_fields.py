"""What stages that train on rows of data have in common: how long, how fast, and how often they save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

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


class DataTraining(Stage):
    """Training on rows of data with AdamW; a step is one optimizer step. Leaf names are transformers'.

    Attributes:
        max_steps, num_train_epochs: how long; one of them, or neither for one epoch.
    """

    model: ModelSource
    lora: LoraSettings | None = None
    data: Data
    eval_data: Data | None = None
    learning_rate: NonNegative = 1e-5
    lr_scheduler_type: Scheduler = "cosine"
    warmup_steps: NonNegativeCount = 0
    max_steps: Annotated[Count | None, EXTENSIBLE] = None
    num_train_epochs: Positive | None = None
    weight_decay: NonNegative = 0.0
    adam_beta1: OpenFraction = 0.9
    adam_beta2: OpenFraction = 0.999
    max_grad_norm: NonNegative = 1.0
    bf16: Flag = False
    gradient_checkpointing: Flag = False
    save_steps: Annotated[Count | None, OPERATIONAL] = None
    save_total_limit: Annotated[Count, OPERATIONAL] = 2
    logging_steps: Annotated[Count, OPERATIONAL] = 10

    makes: ClassVar[tuple[str, ...]] = ("model",)
    hints: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "epochs": "num_train_epochs",
        "max_seq_length": "max_length",
        "train_data": "data",
        "dataset": "data",
        "type": "kind",
        **LORA_HINTS,
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*super().cross_checks(given), *lora_problems(given)]
        if given.get("max_steps") is not None and given.get("num_train_epochs") is not None:
            steps, epochs = given["max_steps"], given["num_train_epochs"]
            message = f"max_steps ({steps}) and num_train_epochs ({epochs}) both say how long to train"
            issues.append(Issue("max_steps", message, "keep one and remove the other, or set it to null"))
        return issues

    @property
    def epochs(self) -> float | None:
        """Epochs to train: `num_train_epochs`, 1.0 without it and `max_steps`, None if `max_steps` rules."""
        if self.max_steps is not None:
            return None
        return self.num_train_epochs if self.num_train_epochs is not None else 1.0
