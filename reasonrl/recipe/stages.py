"""The stages of a recipe, one model a kind. Leaf names are TRL's and transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from reasonrl.recipe.batch import batch_problems
from reasonrl.recipe.fields import (
    EXTENSIBLE,
    OPERATIONAL,
    Config,
    Count,
    Flag,
    Fraction,
    Issue,
    NonNegative,
    NonNegativeCount,
    OpenFraction,
    Positive,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.overlap import OVERLAP_HINTS, ImportanceMode, overlap_problems
from reasonrl.recipe.references import Reference
from reasonrl.recipe.sources import Data, LaunchConfig, ModelSource, RewardSpec, RolloutConfig, Seconds
from reasonrl.recipe.streaming import streaming_problems
from reasonrl.recipe.trl_args import check_trl_args, split_trl_args

AVAILABLE = ("sft", "ppo", "eval", "compare")
LATER = ("bcpg", "dpo", "prm", "rollout", "annotate", "curate", "average")

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


class SFTStage(TrainingStage):
    """Supervised fine-tuning on solutions (TRL's SFTTrainer); a step is one optimizer step."""

    kind: Literal["sft"] = "sft"
    model: ModelSource
    data: Data
    eval_data: Data | None = None
    learning_rate: NonNegative = 1e-5
    lr_scheduler_type: Scheduler = "cosine"
    warmup_steps: NonNegativeCount = 0
    max_steps: Annotated[Count | None, EXTENSIBLE] = None
    num_train_epochs: Positive | None = None
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    max_length: Count | None = None
    packing: Flag = False
    completion_only_loss: Flag = True
    weight_decay: NonNegative = 0.0
    adam_beta1: OpenFraction = 0.9
    adam_beta2: OpenFraction = 0.999
    max_grad_norm: NonNegative = 1.0
    bf16: Flag = False
    gradient_checkpointing: Flag = False
    max_cpu_seconds: Seconds | None = None
    save_steps: Annotated[Count | None, OPERATIONAL] = None
    save_total_limit: Annotated[Count, OPERATIONAL] = 2
    logging_steps: Annotated[Count, OPERATIONAL] = 10
    trl_args: Annotated[dict[str, Any], AfterValidator(lambda args: check_trl_args("SFTConfig", args))] = Field(
        default_factory=dict
    )

    trl_config: ClassVar[str] = "SFTConfig"
    makes: ClassVar[tuple[str, ...]] = ("model",)
    hints: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "epochs": "num_train_epochs",
        "batch_size": "per_device_train_batch_size",
        "max_seq_length": "max_length",
        "train_data": "data",
        "dataset": "data",
        "type": "kind",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if given.get("max_steps") is not None and given.get("num_train_epochs") is not None:
            steps, epochs = given["max_steps"], given["num_train_epochs"]
            message = f"max_steps ({steps}) and num_train_epochs ({epochs}) both say how long to train"
            return [Issue("max_steps", message, "keep one and remove the other, or set it to null")]
        if given.get("packing") and "max_length" in given and given["max_length"] is None:
            return [Issue("packing", "is true, but max_length does not say how long a packed row is", "set max_length")]
        return []

    @property
    def epochs(self) -> float | None:
        """Epochs to train: `num_train_epochs`, 1.0 without it and `max_steps`, None if `max_steps` rules."""
        if self.max_steps is not None:
            return None
        return self.num_train_epochs if self.num_train_epochs is not None else 1.0

    def derived_identity(self) -> dict[str, Any]:
        sequences = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.launch.num_processes
        return {"global_batch_size": sequences}


class PPOStage(TrainingStage):
    """PPO with a critic (`advantage: gae`) or without one (`group`, `rloo`).

    One step of `max_steps` is one rollout batch (`prompts_per_step` x `num_generations` samples) with its
    `critic_steps` critic steps and its
    `actor_steps` x `num_iterations` policy steps. With `max_staleness` 1 the next step's samples are drawn meanwhile;
    `vllm_importance_sampling_correction` (null: exactly then) corrects for the weights that drew them.
    """

    kind: Literal["ppo"] = "ppo"
    model: ModelSource
    critic_model: ModelSource | None = None
    data: Data
    reward: RewardSpec
    advantage: Literal["gae", "group", "rloo"] = "gae"
    prompts_per_step: Count
    num_generations: Count = 1
    actor_steps: Count = 1
    num_iterations: Count = 1
    critic_steps: Count = 1
    gamma: Fraction = 1.0
    lam: Fraction = 1.0
    epsilon: PositiveFraction = 0.2
    epsilon_high: Positive | None = None
    cliprange_value: Positive | None = 0.2
    value_head_init: Literal["normal", "zeros"] = "normal"
    normalize_advantages: Flag = True
    learning_rate: NonNegative = 1e-6
    critic_learning_rate: NonNegative = 5e-6
    lr_scheduler_type: Scheduler = "constant_with_warmup"
    warmup_steps: NonNegativeCount = 0
    critic_warmup_steps: NonNegativeCount = 0
    beta: NonNegative = 0.0
    reward_requires_stop: Flag = True
    train_while_generating: Flag = False
    max_staleness: NonNegativeCount = 0
    vllm_importance_sampling_correction: Flag | None = None
    vllm_importance_sampling_mode: ImportanceMode = "token_truncate"
    vllm_importance_sampling_clip_max: Positive | None = 2.0
    vllm_importance_sampling_clip_min: Positive | None = None
    temperature: Positive = 1.0
    top_p: PositiveFraction = 1.0
    max_completion_length: Count
    max_prompt_length: Count | None = None
    max_steps: Annotated[Count, EXTENSIBLE]
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    adam_beta1: OpenFraction = 0.9
    adam_beta2: OpenFraction = 0.95
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    bf16: Flag = False
    gradient_checkpointing: Flag = False
    eval_data: Data | None = None
    eval_steps: Count | None = None
    num_generations_eval: Count = 1
    early_stopping_patience: Count | None = None
    load_best_model_at_end: Flag = False
    save_steps: Annotated[Count | None, OPERATIONAL] = None
    save_total_limit: Annotated[Count, OPERATIONAL] = 2
    log_completions_steps: Annotated[Count, OPERATIONAL] = 1
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    trl_args: Annotated[dict[str, Any], AfterValidator(lambda args: check_trl_args("GRPOConfig", args))] = Field(
        default_factory=dict
    )

    trl_config: ClassVar[str] = "GRPOConfig"
    makes: ClassVar[tuple[str, ...]] = ("model", "critic")
    hints: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "critic_lr": "critic_learning_rate",
        "kl": "beta",
        "kl_coef": "beta",
        "clip_range": "epsilon",
        "cliprange": "epsilon",
        "clip_range_vf": "cliprange_value",
        "gae_lambda": "lam",
        "lambda": "lam",
        "n": "num_generations",
        "samples_per_prompt": "num_generations",
        "group_size": "num_generations",
        "train_batch_size": "prompts_per_step",
        "rollout_batch_size": "prompts_per_step",
        "batch_size": "prompts_per_step",
        "ppo_epochs": "num_iterations",
        "max_tokens": "max_completion_length",
        "max_new_tokens": "max_completion_length",
        "response_length": "max_completion_length",
        "steps": "max_steps",
        "train_data": "data",
        "dataset": "data",
        "type": "kind",
        "adv_estimator": "advantage",
        **OVERLAP_HINTS,
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*batch_problems(given), *overlap_problems(given), *streaming_problems(given)]
        advantage, samples = given.get("advantage"), given.get("num_generations")
        if advantage in ("group", "rloo") and isinstance(samples, int) and samples < 2:
            message = (
                f"is {samples}, but advantage: {advantage} compares the samples of one prompt and needs at least 2"
            )
            issues.append(Issue("num_generations", message, "raise num_generations, or use advantage: gae"))
        if "eval_data" in given and given["eval_data"] is None:
            for key, idle in (
                ("eval_steps", None),
                ("early_stopping_patience", None),
                ("load_best_model_at_end", False),
            ):
                if given.get(key) != idle:
                    issues.append(
                        Issue(
                            key,
                            f"is {given[key]}, but there is no eval_data to validate on",
                            f"give eval_data or remove {key}",
                        )
                    )
        elif "eval_steps" in given and given.get("eval_data") is not None and given["eval_steps"] is None:
            issues.append(
                Issue("eval_data", "is given, but eval_steps does not say how often to validate", "add eval_steps: 10")
            )
        if advantage in ("group", "rloo") and given.get("critic_warmup_steps"):
            message = f"is {given['critic_warmup_steps']}, but advantage: {advantage} has no critic to warm up"
            issues.append(Issue("critic_warmup_steps", message, "remove it, or use advantage: gae"))
        save, validate = given.get("save_steps"), given.get("eval_steps")
        if given.get("load_best_model_at_end") and save and validate and save % validate:
            message = f"is {save}, but load_best_model_at_end keeps checkpoints of validated steps, every {validate}"
            issues.append(Issue("save_steps", message, f"use a multiple of {validate}, or leave save_steps out"))
        return issues


SUITE_DEFAULTS = ("n", "temperature", "top_p", "max_tokens", "k", "reward", "greedy")


class SuiteConfig(Config):
    """One set of problems and how it is sampled and judged.

    Attributes:
        n: samples a problem; k: the k of the reported pass@k, each at most n; greedy: one more sample a problem at
            temperature 0.
    """

    data: Data
    n: Annotated[Count, EXTENSIBLE] = 1
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    max_tokens: Count
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    reward: RewardSpec = "math"
    greedy: Flag = False
    hints: ClassVar[Mapping[str, str]] = {
        "max_new_tokens": "max_tokens",
        "max_completion_length": "max_tokens",
        "num_generations": "n",
        "samples": "n",
        "pass_at_k": "k",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if "k" not in given or "n" not in given:
            return []
        over = [k for k in given["k"] if k > given["n"]]
        return (
            [
                Issue(
                    "k",
                    f"asks for pass@{over[0]} from n = {given['n']} samples a problem; k is at most n",
                    f"raise n to {max(over)}",
                )
            ]
            if over
            else []
        )


class EvalStage(Stage):
    """Evaluation of one model on suites; the sampling settings may stand at stage level as the suites' defaults."""

    kind: Literal["eval"] = "eval"
    model: ModelSource
    suites: Annotated[
        Annotated[dict[str, SuiteConfig], Field(min_length=1), Tag("@mapping")]
        | Annotated[tuple[Text, ...], Field(min_length=1), Tag("@list")],
        Discriminator(lambda value: "@list" if isinstance(value, (list, tuple)) else "@mapping"),
    ]
    n: Annotated[Count | None, EXTENSIBLE] = None
    temperature: NonNegative | None = None
    top_p: PositiveFraction | None = None
    max_tokens: Count | None = None
    k: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    reward: RewardSpec | None = None
    greedy: Flag | None = None
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    hints: ClassVar[Mapping[str, str]] = {**SuiteConfig.hints, "type": "kind", "data": "suites", "benchmarks": "suites"}

    def repeated_fields(self) -> tuple[str, ...]:
        return SUITE_DEFAULTS if isinstance(self.suites, dict) else ()

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        suites = raw.get("suites")
        if isinstance(suites, Mapping):
            own = {key: raw[key] for key in SUITE_DEFAULTS if raw.get(key) is not None}
            raw["suites"] = {
                name: {**own, **suite} if isinstance(suite, Mapping) else suite for name, suite in suites.items()
            }
        return raw


class CompareStage(Stage):
    """One table of evaluation stages, each row's paired difference to the baseline with its interval."""

    kind: Literal["compare"] = "compare"
    rows: Annotated[dict[str, Reference], Field(min_length=1)]
    baseline: Text
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


StageConfig = Annotated[SFTStage | PPOStage | EvalStage | CompareStage, Field(discriminator="kind")]
STAGES: dict[str, type[Stage]] = {"sft": SFTStage, "ppo": PPOStage, "eval": EvalStage, "compare": CompareStage}
