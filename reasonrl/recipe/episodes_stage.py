"""The stage kind `episodes`: training data for synthesis from a pool of cached answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.recipe.fields import EXTENSIBLE, Count, Issue, NonNegativeCount, Text
from reasonrl.recipe.sources import Data
from reasonrl.recipe.stage_base import Stage

POOL_FIGURES = ("acc", "n", "n_right", "n_unscored")
"""What is known of a problem's messages, for `keep`; a contract test holds it to `reasonrl.pacore.pools`."""


def _condition(value: Any) -> Any:
    if isinstance(value, str):
        try:
            Expression(value, frozenset(POOL_FIGURES))
        except ExpressionError as error:
            raise PydanticCustomError("reasonrl", "{message}", {"message": str(error)}) from error
    return value


def _law(value: Any) -> Any:
    """`16..24`, or one number for both ends."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", text) if isinstance(text, str) else None
    if found is None or int(found[1]) > int(found[2] or found[1]):
        words = f"is {value!r}; allowed: fewest..most, such as 16..24, or one number"
        raise PydanticCustomError("reasonrl", "{message}", {"message": words})
    return text


Condition = Annotated[Text, BeforeValidator(_condition)]


class EpisodesStage(Stage):
    """Problems with fresh draws of cached answers, in the order in which a `ppo` stage with `shuffle_dataset: false`
    takes them (docs/pacore_training.md).

    Attributes:
        data: the pool: samples of a stage of kind rollout, or a file in the paper's record format.
        keep: a condition over a problem's messages, such as `0 < acc < 9/24`; or one by the value of `column`.
        column: that column.
        least: messages that a problem must have; by default as many as the largest draw.
        messages: of an episode, uniform from fewest to most, without replacement.
        steps, prompts_per_step: of the training, whose episodes are written; or
        visits: passes over all problems, each once a pass.
        problems_data: the problems' own rows (by `id`): their columns go into the episodes, such as a program's tests,
            which samples do not carry.
        only_data: rows that name the problems to keep (`pool_id`, `problem_id` or `id`), such as a rollout stage's that
            keeps problems by their synthesis accuracy.
        compaction, prompt: as of `reasonrl pacore`; `world:NAME` takes a world's.
        policy: of the math verifier, which grades messages that bring no verdict.
    """

    kind: Literal["episodes"] = "episodes"
    data: Data
    keep: Condition | Annotated[dict[Text, Condition], Field(min_length=1)] | None = None
    column: Text = "category"
    least: NonNegativeCount | None = None
    messages: Annotated[Text, BeforeValidator(_law)] = "16..24"
    steps: Annotated[Count | None, EXTENSIBLE] = None
    prompts_per_step: Count | None = None
    visits: Annotated[Count | None, EXTENSIBLE] = None
    problems_data: Data | None = None
    only_data: Data | None = None
    compaction: Text = "after_think"
    prompt: Text | None = None
    policy: Literal["strict", "default", "lenient"] = "default"
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "pool": "data",
        "filter": "keep",
        "instances": "prompts_per_step",
        "max_steps": "steps",
        "epochs": "visits",
        "passes": "visits",
        "law": "messages",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        for name in ("data", "only_data"):
            source = given.get(name)
            there = source if isinstance(source, Mapping) else vars(source) if hasattr(source, "world") else {}
            odd = [key for key in ("world", "hub", "n", "keep", "limit", "shuffle") if there.get(key)]
            issues += [Issue(f"{name}.{key}", "means nothing for a pool", "give path: FILE, or a stage") for key in odd]
        if not {"steps", "prompts_per_step", "visits"} <= given.keys():
            return issues
        if given["visits"] is not None and (given["steps"] or given["prompts_per_step"]):
            issues.append(Issue("visits", "is given beside steps and prompts_per_step", "keep one or the others"))
        elif given["visits"] is None and None in (given["steps"], given["prompts_per_step"]):
            fix = "give steps and prompts_per_step as of the ppo stage, or visits"
            issues.append(Issue("steps", "does not say with prompts_per_step how many episodes", fix))
        return issues
