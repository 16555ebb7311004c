"""Values that change during a `ppo` stage: at given steps, or when a figure of the run stops rising."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import Config, Count, Issue, NonNegative, NonNegativeCount, Number, Positive, Text


class Plateau(Config):
    """When the next value is due: the mean of a metric over the last `window` steps is at most (1 + `rise`) times that
    of as many steps before them; both since the last change.
    """

    metric: Text = "completions/mean_length"
    window: Count = 50
    rise: Number = 0.01


class Schedule(Config):
    """Values, one after the other.

    Attributes:
        values: in order.
        at: the number of steps made after which each value but the first holds; with `between: linear` one for each
            value, and in between lies a straight line.
        plateau: what makes the next value hold, instead of `at`.
    """

    values: Annotated[tuple[Positive, ...], Field(min_length=1)]
    at: tuple[NonNegativeCount, ...] | None = None
    plateau: Plateau | None = None
    between: Literal["step", "linear"] = "step"

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if not {"values", "at", "plateau", "between"} <= given.keys():
            return []
        at, linear = given["at"], given["between"] == "linear"
        if (at is None) == (given["plateau"] is None):
            return [Issue("at", "and plateau: exactly one says when values change", "at: [300, 700], or plateau: {}")]
        if at is None:
            text = "needs steps, and a plateau has none"
            return [Issue("between", text, "use at, or remove between")] if linear else []
        wanted = len(given["values"]) - (not linear)
        if len(at) != wanted:
            text = f"has {len(at)} steps for {len(given['values'])} values"
            return [
                Issue("at", text, f"give {wanted}: {'one a value' if linear else 'the first holds from the start'}")
            ]
        if list(at) != sorted(set(at)) or (not linear and 0 in at):
            return [Issue("at", f"is {list(at)}", "write steps that rise")]
        return []


class MixSchedule(Config):
    """Shares of the prompts of a step.

    Attributes:
        column: says what a row belongs to, such as `source` of curated rows, or `modality`.
        weights: value of the column -> weight, one mapping a phase; a value without a weight is not drawn.
        at: the number of steps made after which each phase but the first holds.
    """

    column: Text = "source"
    weights: Annotated[tuple[dict[str, NonNegative], ...], Field(min_length=1)]
    at: tuple[Count, ...] = ()

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        weights, at = given.get("weights"), given.get("at")
        issues = []
        if weights is not None and at is not None:
            if len(at) != len(weights) - 1 or list(at) != sorted(set(at)):
                text = f"is {list(at)} for {len(weights)} phases"
                issues.append(Issue("at", text, f"give {len(weights) - 1} steps that rise"))
            if not all(any(phase.values()) for phase in weights):
                issues.append(Issue("weights", "has a phase without a weight above 0", "give one"))
        return issues


class Schedules(Config):
    """What changes, each by its own schedule (docs/schedules.md).

    Attributes:
        max_completion_length: at most the stage's own, which models and engines are sized for.
        temperature: of sampling, and of the probabilities that are trained.
        learning_rate, critic_learning_rate: rates in the place of the stage's; its `lr_scheduler_type` and warm-up
            still scale them.
        data: the mix of prompts.
    """

    max_completion_length: Schedule | None = None
    temperature: Schedule | None = None
    learning_rate: Schedule | None = None
    critic_learning_rate: Schedule | None = None
    data: MixSchedule | None = None
    hints: ClassVar[Mapping[str, str]] = {"length": "max_completion_length", "mix": "data", "lr": "learning_rate"}


def schedule_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What a PPO stage's raw values and its schedules make impossible."""
    schedules = given.get("schedules")
    if schedules is None:
        return []
    parts = schedules if isinstance(schedules, Mapping) else {k: getattr(schedules, k) for k in Schedules.model_fields}

    def values(name: str) -> list[Any]:
        part = parts.get(name)
        found = part.get("values") if isinstance(part, Mapping) else getattr(part, "values", None)
        return [one for one in found or () if isinstance(one, (int, float))]

    issues = []
    lengths, longest = values("max_completion_length"), given.get("max_completion_length")
    if lengths and any(one != int(one) for one in lengths):
        issues.append(Issue("schedules.max_completion_length.values", "are no whole numbers", "write tokens"))
    if lengths and isinstance(longest, int) and max(lengths) > longest:
        text = f"go up to {max(lengths):g}, above max_completion_length = {longest}"
        issues.append(
            Issue("schedules.max_completion_length.values", text, f"raise max_completion_length to {max(lengths):g}")
        )
    for name in ("learning_rate", "critic_learning_rate"):
        if values(name) and given.get(name) == 0:
            issues.append(Issue(f"schedules.{name}", f"changes {name}, which is 0", f"set {name} above 0"))
    if parts.get("data") is not None:
        for name in ("dynamic_sampling", "hint_column"):
            if given.get(name):
                issues.append(Issue("schedules.data", f"and {name} both choose prompts", "remove one of them"))
    return issues
