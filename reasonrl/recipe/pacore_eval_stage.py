"""The stage kind `pacore_eval`: coordinated rounds against plain sampling at equal tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import (
    EXTENSIBLE,
    Config,
    Count,
    Flag,
    Issue,
    Name,
    NonNegative,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.rollout_stage import engine_issues
from reasonrl.recipe.sources import Data, ModelSource, RewardSpec, RolloutConfig
from reasonrl.recipe.stage_base import Stage

LEVELS = ("low", "medium", "high")
"""Names of rounds; a contract test holds them to `reasonrl.pacore.plan`."""


class RoundsRun(Config):
    """One way of going through rounds.

    Attributes:
        rounds: calls of each round, the last one of one call left out; or a level.
        first: who answers the first round: cached answers of `data`, or the stage's model.
        control: what the messages of the first round are replaced by: nothing (`none`), those of the next problem
            (`foreign`), the same without marks (`erased`, of worlds that know how), or the same the other way round
            (`reversed`).
        compaction: in place of the stage's.
    """

    rounds: Annotated[tuple[Count, ...], Field(min_length=1)] | Literal["low", "medium", "high"]
    first: Literal["cached", "model"] = "cached"
    control: Literal["none", "foreign", "erased", "reversed"] | None = None
    compaction: Text | None = None
    hints: ClassVar[Mapping[str, str]] = {"k": "rounds", "K": "rounds", "level": "rounds"}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if given.get("control") is not None and given.get("first") == "model":
            return [Issue("control", "replaces messages of cached answers, and first is model", "use first: cached")]
        return []


class PacoreEvalStage(Stage):
    """Examines a model's synthesis (docs/pacore_training.md); its figures stand in `compare` and in studies.

    Attributes:
        model: answers all calls that are not cached; null examines plain sampling alone.
        data: samples of a stage of kind rollout, as many a problem as are needed: the first round's answers, and what
            votes are counted on.
        runs: ways of going through rounds, by name.
        majority, pass_k: sizes of votes and of pass@k on the cached answers.
        equal_tokens: the vote on as many cached answers as each run has generated tokens, and the difference to it.
        max_tokens, temperature, top_p: of every call.
        compaction, prompt: as of `reasonrl pacore`; `world:NAME` takes a world's.
        reward: judges last answers, and those of rounds before.
        draws: orders of the cached answers that votes are averaged over.
    """

    kind: Literal["pacore_eval"] = "pacore_eval"
    model: ModelSource | None = None
    data: Data
    suite: Name = "rounds"
    runs: dict[Text, RoundsRun] = Field(default_factory=dict)
    majority: Annotated[tuple[Count, ...], EXTENSIBLE] = ()
    pass_k: Annotated[tuple[Count, ...], EXTENSIBLE] = ()
    equal_tokens: Flag = True
    max_tokens: Count
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    compaction: Text = "after_think"
    prompt: Text | None = None
    reward: RewardSpec = "math"
    draws: Count = 64
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "rounds": "runs",
        "samples": "data",
        "max_new_tokens": "max_tokens",
        "max_completion_length": "max_tokens",
        "k": "pass_k",
        "maj": "majority",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*engine_issues(given.get("rollout", {}))]
        if given.get("runs") and given.get("model", "") is None:
            issues.append(Issue("model", "is missing, and runs ask it", "add model: ${stage:NAME}"))
        if {"runs", "majority", "pass_k"} <= given.keys() and not (
            given["runs"] or given["majority"] or given["pass_k"]
        ):
            issues.append(Issue("runs", "is empty, and so are majority and pass_k", 'runs: {"[4]": {rounds: [4]}}'))
        return issues
