"""The recipe: one frozen model of everything a recipe file can say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from reasonrl.recipe.fields import Config, Name, NonNegativeCount, Text
from reasonrl.recipe.launching import LaunchConfig
from reasonrl.recipe.sources import DataSource, Loop, RolloutConfig, Study
from reasonrl.recipe.stages import StageConfig

TRACKERS = ("tensorboard", "wandb", "trackio")


class Recipe(Config):
    """A whole recipe, composed and checked.

    Attributes:
        recipe: the name in reports; output: the run directory; base: the files it was composed on.
        model, data, rollout, launch: what stages inherit or interpolate.
        stages: the stages in the order they run; loop: which of them are repeated.
        arms: named overlays, as nested plain trees; studies: which arms and seeds to compare.
    """

    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: NonNegativeCount = 0
    output: Text = "runs/${recipe}"
    base: Annotated[tuple[Text, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = ()
    model: Text | None = None
    data: dict[Name, DataSource] = Field(default_factory=dict)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    report_to: Annotated[
        tuple[Literal["tensorboard", "wandb", "trackio"], ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    ] = ()
    stages: Annotated[dict[Name, StageConfig], Field(min_length=1)]
    loop: Loop | None = None
    arms: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    studies: dict[Name, Study] = Field(default_factory=dict)
