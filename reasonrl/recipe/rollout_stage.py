"""The stage kind `rollout`: samples of a policy, verified and kept for training on them later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.recipe.endpoint_source import EndpointSource
from reasonrl.recipe.fields import EXTENSIBLE, Count, Issue, NonNegative, PositiveFraction, Text
from reasonrl.recipe.sources import TRAINING_OPTIONS, Data, ModelSource, RewardSpec, RolloutConfig
from reasonrl.recipe.stage_base import Stage

GROUP_FIGURES = (
    "n",
    "pass_rate",
    "n_correct",
    "n_wrong",
    "n_unscored",
    "n_truncated",
    "mean_reward",
    "min_reward",
    "max_reward",
    "mean_tokens",
    "min_tokens",
    "max_tokens",
    "prompt_tokens",
)
"""What is known of a problem's samples, for `keep` (`reasonrl.eval.rollouts.figures.group_figures`)."""


def _keep(value: Any) -> Any:
    if isinstance(value, str):
        try:
            Expression(value, frozenset(GROUP_FIGURES))
        except ExpressionError as error:
            raise PydanticCustomError("reasonrl", "{message}", {"message": str(error)}) from error
    return value


class RolloutStage(Stage):
    """Samples of one model on one set of problems, each verified, in one parquet file.

    Attributes:
        data: problems; what a row must have is what the reward reads (`answer` for math).
        n: samples a problem; it may grow.
        keep: a condition over a problem's samples, such as `0 < pass_rate < 1`; problems that do not meet it are left
            out of the product. The samples stay, so that it may be changed.
        endpoint: a server that answers instead of a rollout engine; `model` and `rollout` mean nothing then.
        tokenizer: model whose tokenizer gives token ids to what an endpoint answers.
    """

    kind: Literal["rollout"] = "rollout"
    model: ModelSource | None = None
    endpoint: EndpointSource | None = None
    tokenizer: ModelSource | None = None
    data: Data
    n: Annotated[Count, EXTENSIBLE]
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    max_tokens: Count
    reward: RewardSpec = "math"
    keep: Annotated[Annotated[Text, BeforeValidator(_keep)] | None, EXTENSIBLE] = None
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "max_new_tokens": "max_tokens",
        "max_completion_length": "max_tokens",
        "num_generations": "n",
        "samples": "n",
        "filter": "keep",
        "type": "kind",
        "prompts": "data",
        "problems": "data",
        "dataset": "data",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        if given.get("endpoint") is None and given.get("model") is None and {"model", "endpoint"} <= given.keys():
            issues.append(Issue("model", "is missing", "add model: NAME, or endpoint: {base_url: …, model: …}"))
        if given.get("endpoint") is None and given.get("tokenizer") is not None:
            issues.append(Issue("tokenizer", "is read with an endpoint only: a model has its own", "remove it"))
        if given.get("temperature") == 0 and given.get("n", 1) > 1:
            text = f"is {given['n']}, but all samples at temperature 0 would be the same"
            issues.append(Issue("n", text, "set n: 1, or a temperature above 0"))
        return [*issues, *engine_issues(given.get("rollout", {}))]


def engine_issues(rollout: Any) -> list[Issue]:
    """Settings of an engine that mean nothing where nobody trains."""
    there = rollout if isinstance(rollout, Mapping) else {key: getattr(rollout, key) for key in TRAINING_OPTIONS}
    return [
        Issue(f"rollout.{key}", f"is {there[key]}, which means something in training only", "remove it")
        for key in TRAINING_OPTIONS
        if there.get(key) not in (None, False)
    ]
