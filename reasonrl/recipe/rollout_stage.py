"""The stage kind `rollout`: samples of a policy, verified and kept for training on them later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.recipe.endpoint_source import EndpointSource
from reasonrl.recipe.fields import EXTENSIBLE, Count, Issue, NonNegative, PositiveFraction, Text
from reasonrl.recipe.sources import TRAINING_OPTIONS, Data, DataSource, ModelSource, RewardSpec, RolloutConfig
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


LogColumn = Literal[
    "id",
    "problem_id",
    "problem",
    "prompt",
    "answer",
    "text",
    "correct",
    "reward",
    "finish_reason",
    "length",
    "prompt_ids",
    "completion_ids",
    "logprobs_sampled",
    "seed",
    "index",
    "solution",
    "images",
]


class LogSource(DataSource):
    """Samples that were drawn elsewhere: files of rows, one a sample, or one a problem with lists of samples.

    Attributes:
        columns: our column -> theirs; `text` is the response. What is not named is looked for under common names.
        system_prompt, template: how the problems were asked, for the prompts' token ids where they are not there.
    """

    columns: dict[LogColumn, Text] = Field(default_factory=dict)  # type: ignore[assignment]
    hints: ClassVar[Mapping[str, str]] = {"file": "path", "files": "path", "mapping": "columns"}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        fix = "write keep in the stage, over problems" if given.get("keep") is not None else "remove it"
        odd = [name for name in ("world", "n", "args", "shuffle", "keep") if given.get(name)]
        return [
            *super().cross_checks(given),
            *(Issue(name, f"is {given[name]!r}, which means nothing for logs", fix) for name in odd),
        ]


class RolloutStage(Stage):
    """Samples of one model on one set of problems, each verified, in one parquet file.

    Attributes:
        logs: samples that were drawn elsewhere, instead of samples drawn here: nothing is drawn, and `data`, `n` and
            `endpoint` mean nothing. What they lack is made: verdicts by `reward`, ids by the model's tokenizer.
        verify: which of the logs' samples the reward judges: those without a verdict (`missing`), `all`, or `none`.
        damaged: what becomes of samples of the logs that cannot be used: `set_aside` counts them, `refuse` stops.
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
    data: Data | None = None
    logs: LogSource | None = None
    n: Annotated[Count | None, EXTENSIBLE] = None
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    stop_strings: tuple[Text, ...] = ()
    max_tokens: Count | None = None
    reward: RewardSpec = "math"
    verify: Literal["missing", "all", "none"] = "missing"
    damaged: Literal["set_aside", "refuse"] = "set_aside"
    keep: Annotated[Annotated[Text, BeforeValidator(_keep)] | None, EXTENSIBLE] = None
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "max_new_tokens": "max_tokens",
        "max_completion_length": "max_tokens",
        "num_generations": "n",
        "samples": "n",
        "filter": "keep",
        "stop": "stop_strings",
        "type": "kind",
        "prompts": "data",
        "problems": "data",
        "dataset": "data",
        "import": "logs",
        "imports": "logs",
        "log": "logs",
    }

    def repeated_fields(self) -> tuple[str, ...]:
        drawing = ("data", "n", "temperature", "top_p", "stop_strings", "max_tokens", "endpoint", "rollout")
        return drawing if self.logs is not None else ("verify", "damaged")

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if given.get("logs", "wrong") is not None:
            return []
        issues = [
            Issue(name, "is missing", fix)
            for name, fix in (
                ("data", "name a data source, or logs: {path: …} for samples drawn elsewhere"),
                ("n", "say how many samples a problem"),
                ("max_tokens", "say how long a sample may become"),
            )
            if name in given and given[name] is None
        ]
        if given.get("endpoint") is None and given.get("model") is None and {"model", "endpoint"} <= given.keys():
            issues.append(Issue("model", "is missing", "add model: NAME, or endpoint: {base_url: …, model: …}"))
        if given.get("endpoint") is None and given.get("tokenizer") is not None:
            issues.append(Issue("tokenizer", "is read with an endpoint or logs only: a model has its own", "remove it"))
        if given.get("temperature") == 0 and (given.get("n") or 1) > 1:
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
