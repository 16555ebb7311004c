"""The stages of a recipe, one model a kind. Leaf names are TRL's and transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import AfterValidator, Discriminator, Field, Tag

from reasonrl.recipe.annotate_stage import AnnotateStage
from reasonrl.recipe.average_stage import AverageStage
from reasonrl.recipe.bcpg_stage import BCPGStage
from reasonrl.recipe.curate_stage import CurateStage
from reasonrl.recipe.dpo_stage import DPOStage
from reasonrl.recipe.endpoint_source import EndpointSource
from reasonrl.recipe.episodes_stage import EpisodesStage
from reasonrl.recipe.fields import (
    EXTENSIBLE,
    OPERATIONAL,
    Config,
    Count,
    Flag,
    Issue,
    NonNegative,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.gate_stage import GateStage
from reasonrl.recipe.metric_names import metric_faults
from reasonrl.recipe.pacore_eval_stage import PacoreEvalStage
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.prm_eval_stage import PRMEvalStage
from reasonrl.recipe.prm_stage import PRMStage
from reasonrl.recipe.references import Reference
from reasonrl.recipe.rollout_stage import RolloutStage
from reasonrl.recipe.segment_stage import SegmentStage
from reasonrl.recipe.sources import (
    TRAINING_OPTIONS,
    Data,
    ModelSource,
    RewardSpec,
    RolloutConfig,
    Seconds,
    read_system_prompt,
    system_prompt_issues,
)
from reasonrl.recipe.stage_base import Stage, TrainingStage
from reasonrl.recipe.stage_plugins import stage_plugins
from reasonrl.recipe.training_fields import DataTraining
from reasonrl.recipe.trl_args import check_trl_args

AVAILABLE: tuple[str, ...] = (
    "curate",
    "sft",
    "ppo",
    "rollout",
    "episodes",
    "segment",
    "annotate",
    "prm",
    "bcpg",
    "dpo",
    "average",
    "prm_eval",
    "pacore_eval",
    "eval",
    "gate",
    "compare",
)
EVALUATIONS = ("eval", "prm_eval", "pacore_eval")
"""Kinds whose results stand in comparisons."""
LATER: tuple[str, ...] = ()


class SFTStage(DataTraining, TrainingStage):
    """Supervised fine-tuning on solutions (TRL's SFTTrainer); a step is one optimizer step."""

    kind: Literal["sft"] = "sft"
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    max_length: Count | None = None
    packing: Flag = False
    padding_free: Annotated[Flag, OPERATIONAL] = True
    completion_only_loss: Flag = True
    max_cpu_seconds: Seconds | None = None
    trl_args: Annotated[dict[str, Any], AfterValidator(lambda args: check_trl_args("SFTConfig", args))] = Field(
        default_factory=dict
    )

    trl_config: ClassVar[str] = "SFTConfig"
    hints: ClassVar[Mapping[str, str]] = {**DataTraining.hints, "batch_size": "per_device_train_batch_size"}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = super().cross_checks(given)
        if given.get("packing") and "max_length" in given and given["max_length"] is None:
            text = "is true, but max_length does not say how long a packed row is"
            issues.append(Issue("packing", text, "set max_length"))
        return issues

    def derived_identity(self) -> dict[str, Any]:
        sequences = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.launch.num_processes
        return {"global_batch_size": sequences}


SUITE_DEFAULTS = ("n", "temperature", "top_p", "stop_strings", "max_tokens", "k", "reward", "greedy", "metrics")


class SuiteConfig(Config):
    """One set of problems and how it is sampled and judged.

    Attributes:
        n: samples a problem; k: the k of the reported pass@k, each at most n; greedy: one more sample a problem at
            temperature 0.
        metrics: further figures by name, such as maj@8, pass^8, worst_case (`metric_names`).
    """

    data: Data
    n: Annotated[Count, EXTENSIBLE] = 1
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    stop_strings: tuple[Text, ...] = ()
    max_tokens: Count
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    reward: RewardSpec = "math"
    greedy: Flag = False
    metrics: Annotated[tuple[Text, ...], EXTENSIBLE] = ()
    hints: ClassVar[Mapping[str, str]] = {
        "metric": "metrics",
        "max_new_tokens": "max_tokens",
        "stop": "stop_strings",
        "max_completion_length": "max_tokens",
        "num_generations": "n",
        "samples": "n",
        "pass_at_k": "k",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        faults = metric_faults(
            given.get("metrics", ()), given.get("n"), given.get("reward"), given.get("greedy", False)
        )
        issues = [Issue("metrics", message, fix) for message, fix in faults]
        over = [k for k in given["k"] if k > given["n"]] if "k" in given and "n" in given else []
        if over:
            message = f"asks for pass@{over[0]} from n = {given['n']} samples a problem; k is at most n"
            issues.append(Issue("k", message, f"raise n to {max(over)}"))
        return issues


class EvalStage(Stage):
    """Evaluation of one model on suites; the sampling settings may stand at stage level as the suites' defaults.

    Attributes:
        suites: suites by name, or a list of names (of shipped suites, or `my.yaml`), whose own settings hold.
        protocol: whose sampling settings the named suites are sampled with.
        system_prompt: first message of the named suites; system_prompt_file names a file with it, or one of ours.
        endpoint: a server that answers instead of a rollout engine; `model` and `rollout` mean nothing then.
    """

    kind: Literal["eval"] = "eval"
    model: ModelSource | None = None
    endpoint: EndpointSource | None = None
    suites: Annotated[
        Annotated[dict[str, SuiteConfig], Field(min_length=1), Tag("@mapping")]
        | Annotated[tuple[Text, ...], Field(min_length=1), Tag("@list")],
        Discriminator(lambda value: "@list" if isinstance(value, (list, tuple)) else "@mapping"),
    ]
    protocol: Text | None = None
    system_prompt: str | None = None
    system_prompt_file: Annotated[Text | None, OPERATIONAL] = None
    n: Annotated[Count | None, EXTENSIBLE] = None
    temperature: NonNegative | None = None
    top_p: PositiveFraction | None = None
    stop_strings: tuple[Text, ...] | None = None
    max_tokens: Count | None = None
    k: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    reward: RewardSpec | None = None
    greedy: Flag | None = None
    metrics: Annotated[tuple[Text, ...] | None, EXTENSIBLE] = None
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    hints: ClassVar[Mapping[str, str]] = {**SuiteConfig.hints, "type": "kind", "data": "suites", "benchmarks": "suites"}

    def repeated_fields(self) -> tuple[str, ...]:
        return SUITE_DEFAULTS if isinstance(self.suites, dict) else ()

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        suites = read_system_prompt(raw).get("suites")
        if isinstance(suites, Mapping):
            own = {key: raw[key] for key in SUITE_DEFAULTS if raw.get(key) is not None}
            raw["suites"] = {
                name: {**own, **suite} if isinstance(suite, Mapping) else suite for name, suite in suites.items()
            }
        return raw

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        rollout = given.get("rollout", {})
        if issues := system_prompt_issues(given):
            return issues
        if given.get("system_prompt") is not None and isinstance(given.get("suites"), Mapping):
            text = "belongs to suites that are named: [math500, aime24]"
            return [Issue("system_prompt", text, "give it to the suites' data, or name the suites in a list")]
        if given.get("endpoint") is None and given.get("model") is None and {"model", "endpoint"} <= given.keys():
            return [Issue("model", "is missing", "add model: NAME, or endpoint: {base_url: …, model: …}")]
        if given.get("protocol") is not None and isinstance(given.get("suites"), Mapping):
            text = f"is {given['protocol']!r}, and belongs to suites that are named: [math500, aime24]"
            return [Issue("protocol", text, "remove it, or name the suites in a list")]
        there = rollout if isinstance(rollout, Mapping) else {key: getattr(rollout, key) for key in TRAINING_OPTIONS}
        return [
            Issue(f"rollout.{key}", f"is {there[key]}, which means something in training only", "remove it")
            for key in TRAINING_OPTIONS
            if there.get(key) not in (None, False)
        ]


class CompareStage(Stage):
    """One table of evaluation stages, each row's paired difference to the baseline with its interval.

    Attributes:
        gates: stages of kind gate; the table says so where one failed.
    """

    kind: Literal["compare"] = "compare"
    rows: Annotated[dict[str, Reference], Field(min_length=1)]
    baseline: Text
    gates: tuple[Reference, ...] = ()
    confidence: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.95
    hints: ClassVar[Mapping[str, str]] = {"type": "kind", "stages": "rows", "alpha": "confidence"}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if "rows" in given and "baseline" in given and given["baseline"] not in given["rows"]:
            return [
                Issue(
                    "baseline",
                    f"is {given['baseline']!r}, which is no row; rows: {', '.join(given['rows'])}",
                    "name one of the rows",
                )
            ]
        return []


StageConfig = Annotated[
    SFTStage
    | PPOStage
    | RolloutStage
    | EpisodesStage
    | SegmentStage
    | AnnotateStage
    | PRMStage
    | BCPGStage
    | DPOStage
    | AverageStage
    | CurateStage
    | PRMEvalStage
    | PacoreEvalStage
    | EvalStage
    | GateStage
    | CompareStage,
    Field(discriminator="kind"),
]
STAGES: dict[str, type[Stage]] = {
    "sft": SFTStage,
    "ppo": PPOStage,
    "rollout": RolloutStage,
    "episodes": EpisodesStage,
    "segment": SegmentStage,
    "annotate": AnnotateStage,
    "prm": PRMStage,
    "bcpg": BCPGStage,
    "dpo": DPOStage,
    "average": AverageStage,
    "curate": CurateStage,
    "prm_eval": PRMEvalStage,
    "pacore_eval": PacoreEvalStage,
    "eval": EvalStage,
    "gate": GateStage,
    "compare": CompareStage,
}
if PLUGINS := stage_plugins():
    # Kinds of installed packages join before the recipe's own model is made of these.
    STAGES |= {kind: plugin.config for kind, plugin in PLUGINS.items()}
    AVAILABLE += tuple(PLUGINS)
    if not TYPE_CHECKING:
        StageConfig = Annotated[Union[tuple(STAGES.values())], Field(discriminator="kind")]  # noqa: UP007
