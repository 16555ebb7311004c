"""What the stages of a recipe have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import Config, Issue
from reasonrl.recipe.launching import LaunchConfig
from reasonrl.recipe.trl_args import split_trl_args

Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]


class Stage(Config):
    """What all stages have; `makes` names the parts that a reference can take from the stage."""

    kind: str
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    makes: ClassVar[tuple[str, ...]] = ()

    def derived_identity(self) -> dict[str, Any]:
        """What changes the result without being one field: computed from several."""
        return {}

    def repeated_fields(self) -> tuple[str, ...]:
        """Fields that say nothing by themselves, since others already hold their values."""
        return ()


class TrainingStage(Stage):
    """A stage whose other arguments are passed to TRL, written flat beside our own keys."""

    trl_args: dict[str, Any] = Field(default_factory=dict)
    trl_config: ClassVar[str] = ""

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return split_trl_args(cls.trl_config, raw, cls.model_fields)

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        """A field of the stage that stands among TRL's arguments would go past what the stage checks and counts."""
        passed = given.get("trl_args")
        return [
            *super().cross_checks(given),
            *(
                Issue("trl_args", f"holds {name}, which is a field of the stage itself", f"write {name} beside kind")
                for name in (passed if isinstance(passed, Mapping) else ())
                if name in cls.model_fields
            ),
        ]
