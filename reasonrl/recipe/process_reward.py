"""The key `process_reward` of a PPO stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.annotate_stage import SegmentConfig
from reasonrl.recipe.fields import OPERATIONAL, Config, Count, Flag, Fraction, Issue, Number, Positive
from reasonrl.recipe.sources import ModelSource


class ProcessRewardConfig(Config):
    """Scores of a process reward model as rewards of the tokens that steps end with, beside the stage's `reward`.

    Attributes:
        model: the process reward model: a folder, or a stage of kind prm.
        weight: what a step's reward is multiplied by.
        form: `score`: P(right) of a step less `offset`; `change`: P(right) less that of the step before it, `offset`
            before the first, so that the rewards of a response add up to its last step's less `offset`.
        clip: largest size of a step's reward, before the weight.
        average: divide by the number of steps.
        segment: how responses are cut into steps.
        max_length: longest prompt and response that the model reads; what lies beyond has no reward, and is counted.
    """

    model: ModelSource
    weight: Number = 0.2
    form: Literal["score", "change"] = "score"
    offset: Fraction = 0.5
    clip: Positive | None = None
    average: Flag = False
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    max_length: Count | None = None
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    hints: ClassVar[Mapping[str, str]] = {
        "coef": "weight",
        "beta": "weight",
        "prm": "model",
        "baseline": "offset",
        "threshold": "offset",
        "kind": "form",
        "steps": "segment",
        "mean": "average",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        segment = given.get("segment")
        method = segment.get("method") if isinstance(segment, Mapping) else getattr(segment, "method", None)
        if method in ("given", "llm"):
            text = f"is {method}, but the steps of a response are cut while it is trained on"
            return [Issue("segment.method", text, "use rules, lines or sat")]
        return []


def process_reward_problems(given: Mapping[str, Any]) -> Iterator[Issue]:
    """What cannot be between `process_reward` and the other options of a PPO stage's raw values."""
    if given.get("process_reward") is None:
        return
    advantage = given.get("advantage")
    if advantage in ("group", "rloo"):
        message = (
            f"is there, but advantage: {advantage} adds a response's rewards up to one number for all its tokens, so"
            " that which step was rewarded is lost"
        )
        fix = "use advantage: gae, reinforce_pp or reinforce_pp_baseline, or remove process_reward"
        yield Issue("process_reward", message, fix)
