"""The stage kind `average`: one model out of several checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import Issue, NonNegative, OpenFraction
from reasonrl.recipe.references import Reference
from reasonrl.recipe.sources import ModelSource
from reasonrl.recipe.stage_base import Stage


class AverageStage(Stage):
    """The mean of checkpoints' weights, in fp64 and a piece of a file at a time (docs/averaging.md).

    Attributes:
        models: the checkpoints: `${stage:rl@step=300}`, `${stage:rl@all}`, folders; oldest first.
        weights: one a model, divided by their sum; none: all alike.
        ema: decay of an exponential moving average over the models in their order, instead of weights.
        base: the model under LoRA adapters; none: what the first adapter names.
    """

    kind: Literal["average"] = "average"
    models: Annotated[tuple[ModelSource, ...], Field(min_length=1)]
    weights: tuple[NonNegative, ...] | None = None
    ema: OpenFraction | None = None
    base: ModelSource | None = None
    makes: ClassVar[tuple[str, ...]] = ("model",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "model": "models",
        "checkpoints": "models",
        "decay": "ema",
        "alpha": "ema",
    }

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        if isinstance(raw.get("models"), (str, Reference)):
            raw["models"] = [raw["models"]]
        return raw

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        weights, models = given.get("weights"), given.get("models")
        if weights is not None and given.get("ema") is not None:
            issues.append(Issue("ema", f"is {given['ema']}, but weights are given too", "remove one"))
        if weights is not None and not any(weights):
            issues.append(Issue("weights", "are all 0", "give one model a weight, or remove weights"))
        if isinstance(models, (list, tuple)) and weights is not None:
            several = [model for model in models if str(model).rstrip("} ").endswith("@all")]
            if several:
                text = f"are given, but {several[0]} names as many models as the stage keeps"
                issues.append(Issue("weights", text, "name the steps one by one, or use ema"))
            elif len(weights) != len(models):
                text = f"are {len(weights)}, but there are {len(models)} models"
                issues.append(Issue("weights", text, "give one weight a model"))
        return issues
