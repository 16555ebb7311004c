"""The `dpo` stage of a recipe: TRL's DPO on pairs of logged samples. Leaf names are TRL's wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from reasonrl.recipe.fields import Count, Issue, NonNegative, Positive
from reasonrl.recipe.stage_base import TrainingStage
from reasonrl.recipe.training_fields import DataTraining
from reasonrl.recipe.trl_args import check_trl_args


class DPOStage(DataTraining, TrainingStage):
    """Direct preference optimisation (TRL's DPOTrainer) on pairs of a right and a wrong answer to the same problem
    (docs/bcpg.md); a step is one optimizer step.

    Attributes:
        data: sample rows of a rollout.
        beta: of the implicit reward; 0.5 in arXiv:2505.14403's comparison.
        pairs_per_problem: at most; None: as many as there are right or wrong answers, whichever are more, so that every
            sample stands in a pair.
        max_length: longest prompt and response; pairs with a longer one are left out and counted, never cut.
        damaged, logprobs: as of the stage kind `bcpg`.
    """

    kind: Literal["dpo"] = "dpo"
    learning_rate: NonNegative = 5e-7
    beta: Positive = 0.5
    pairs_per_problem: Count | None = None
    max_length: Count | None = None
    damaged: Literal["refuse", "set_aside"] = "refuse"
    logprobs: Literal["required", "optional"] = "required"
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    trl_args: Annotated[dict[str, Any], AfterValidator(lambda args: check_trl_args("DPOConfig", args))] = Field(
        default_factory=dict
    )

    trl_config: ClassVar[str] = "DPOConfig"
    hints: ClassVar[Mapping[str, str]] = {
        **DataTraining.hints,
        "batch_size": "per_device_train_batch_size",
        "pairs": "pairs_per_problem",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = super().cross_checks(given)
        if given.get("eval_data") is not None:
            issues.append(Issue("eval_data", "is not read by this stage", "add a stage of kind: eval"))
        return issues

    def derived_identity(self) -> dict[str, Any]:
        sequences = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.launch.num_processes
        return {"global_batch_size": sequences}
