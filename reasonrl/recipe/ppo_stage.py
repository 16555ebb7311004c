"""The `ppo` stage of a recipe. Leaf names are TRL's and transformers' wherever they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from reasonrl.recipe.advantage_rules import ADVANTAGE_HINTS, Advantage, ScaleRewards, advantage_problems
from reasonrl.recipe.batch import batch_problems
from reasonrl.recipe.fields import (
    EXTENSIBLE,
    OPERATIONAL,
    Count,
    Flag,
    Fraction,
    Issue,
    NonNegative,
    NonNegativeCount,
    Number,
    OpenFraction,
    Positive,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.lora import LORA_HINTS, LoraSettings, lora_problems
from reasonrl.recipe.option_rules import LOSS_HINTS, Band, LossType, RatioLevel, option_problems
from reasonrl.recipe.overlap import OVERLAP_HINTS, ImportanceMode, overlap_problems
from reasonrl.recipe.process_reward import ProcessRewardConfig, process_reward_problems
from reasonrl.recipe.sampling_rules import (
    DEFAULT_HINT_TEMPLATE,
    DEFAULT_ROUNDS,
    SAMPLING_HINTS,
    AlarmNames,
    sampling_problems,
)
from reasonrl.recipe.schedules import Schedules, schedule_problems
from reasonrl.recipe.sources import Data, ModelSource, RewardSpec, RolloutConfig
from reasonrl.recipe.stage_base import Scheduler, TrainingStage
from reasonrl.recipe.streaming import streaming_problems
from reasonrl.recipe.trl_args import check_trl_args


class PPOStage(TrainingStage):
    """PPO with a critic (`advantage: gae`) or without one (docs/algorithms.md).

    One step of `max_steps` is one rollout batch (`prompts_per_step` x `num_generations` samples) with its
    `critic_steps` critic steps and its
    `actor_steps` x `num_iterations` policy steps. With `max_staleness` 1 the next step's samples are drawn meanwhile;
    `vllm_importance_sampling_correction` (null: exactly then) corrects for the weights that drew them. Every pass takes
    the rows in a fresh order; `shuffle_dataset: false` keeps theirs, as a stage of kind `episodes` writes them.
    """

    kind: Literal["ppo"] = "ppo"
    model: ModelSource
    critic_model: ModelSource | None = None
    lora: LoraSettings | None = None
    critic_lora: LoraSettings | None = None
    data: Data
    shuffle_dataset: Flag = True
    reward: RewardSpec
    process_reward: ProcessRewardConfig | None = None
    advantage: Advantage = "gae"
    scale_rewards: ScaleRewards = "group"
    prompts_per_step: Count
    num_generations: Count = 1
    actor_steps: Count = 1
    num_iterations: Count = 1
    critic_steps: Count = 1
    schedules: Schedules | None = None
    gamma: Fraction = 1.0
    lam: Fraction = 1.0
    lam_value: Fraction | None = None
    lam_horizon_fraction: PositiveFraction | None = None
    truncation_bootstrap: Flag = False
    epsilon: PositiveFraction = 0.2
    epsilon_high: Positive | None = None
    delta: Positive | None = None
    ratio: Literal["ppo", "none"] = "ppo"
    importance_sampling_level: RatioLevel = "token"
    loss_type: LossType = "dapo"
    sapo_temperature_pos: Positive = 1.0
    sapo_temperature_neg: Positive = 1.05
    token_ratio_band: Band | None = None
    sequence_ratio_band: Band | None = None
    entropy_coef: NonNegative = 0.0
    top_entropy_quantile: PositiveFraction = 1.0
    positive_weight: NonNegative = 1.0
    positive_nll_coef: NonNegative = 0.0
    positive_above: Number = 0.5
    cliprange_value: Positive | None = 0.2
    freeze: tuple[Literal["vision_tower", "projector"], ...] | None = None
    value_head_init: Literal["normal", "zeros"] = "normal"
    normalize_advantages: Flag = True
    learning_rate: NonNegative = 1e-6
    critic_learning_rate: NonNegative = 5e-6
    lr_scheduler_type: Scheduler = "constant_with_warmup"
    warmup_steps: NonNegativeCount = 0
    critic_warmup_steps: NonNegativeCount = 0
    beta: NonNegative = 0.0
    kl_in: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    use_bias_correction_kl: Flag = True
    reward_requires_stop: Flag = True
    mask_truncated_completions: Flag = False
    train_while_generating: Flag = False
    max_staleness: NonNegativeCount = 0
    vllm_importance_sampling_correction: Flag | None = None
    vllm_importance_sampling_mode: ImportanceMode = "token_truncate"
    vllm_importance_sampling_clip_max: Positive | None = 2.0
    vllm_importance_sampling_clip_min: Positive | None = None
    dynamic_sampling: Flag = False
    dynamic_sampling_max_rounds: NonNegativeCount = DEFAULT_ROUNDS
    hint_column: Text | None = None
    hint_fraction: PositiveFraction = 1.0
    hint_template: Text = DEFAULT_HINT_TEMPLATE
    stop_on: Annotated[AlarmNames, OPERATIONAL] = ()
    temperature: Positive = 1.0
    top_p: PositiveFraction = 1.0
    stop_strings: tuple[Text, ...] = ()
    max_completion_length: Count
    max_prompt_length: Count | None = None
    max_steps: Annotated[Count, EXTENSIBLE]
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    padding_free: Annotated[Flag, OPERATIONAL] = True
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
    track_behaviours: Annotated[NonNegativeCount, OPERATIONAL] = 0
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    trl_args: Annotated[dict[str, Any], AfterValidator(lambda args: check_trl_args("GRPOConfig", args))] = Field(
        default_factory=dict
    )

    trl_config: ClassVar[str] = "GRPOConfig"
    makes: ClassVar[tuple[str, ...]] = ("model", "critic")
    hints: ClassVar[Mapping[str, str]] = {
        "lr": "learning_rate",
        "stop": "stop_strings",
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
        "prm": "process_reward",
        "step_reward": "process_reward",
        **LORA_HINTS,
        **OVERLAP_HINTS,
        **SAMPLING_HINTS,
        **LOSS_HINTS,
        **ADVANTAGE_HINTS,
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*super().cross_checks(given), *batch_problems(given), *overlap_problems(given), *lora_problems(given)]
        issues += [*streaming_problems(given), *option_problems(given), *advantage_problems(given)]
        issues += [*sampling_problems(given), *process_reward_problems(given), *schedule_problems(given)]
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
        save, validate = given.get("save_steps"), given.get("eval_steps")
        if given.get("load_best_model_at_end") and save and validate and save % validate:
            message = f"is {save}, but load_best_model_at_end keeps checkpoints of validated steps, every {validate}"
            issues.append(Issue("save_steps", message, f"use a multiple of {validate}, or leave save_steps out"))
        return issues
