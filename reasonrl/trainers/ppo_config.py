"""Settings of the PPO trainer: TRL's GRPOConfig plus what a critic needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from trl import GRPOConfig

from reasonrl.algorithms.importance import ImportanceMode, check_bounds
from reasonrl.recipe.advantage_rules import GROUPED, Advantage, advantage_problems
from reasonrl.recipe.fields import Issue
from reasonrl.recipe.option_rules import option_problems
from reasonrl.recipe.sampling_rules import DEFAULT_HINT_TEMPLATE, DEFAULT_ROUNDS, sampling_problems
from reasonrl.trainers.fsdp import ready_for_fsdp
from reasonrl.trainers.zero import ready_for_deepspeed


@dataclass
class PPOConfig(GRPOConfig):
    """PPO with a critic (or without: `advantage: group | rloo | reinforce_pp | reinforce_pp_baseline`).

    One step of the trainer is one rollout batch of `prompts_per_step * num_generations` responses, then
    `critic_steps` optimizer steps of the critic, then `actor_steps * num_iterations` optimizer steps of the policy.
    `max_steps`, `save_steps`, `eval_steps` and `warmup_steps` count such steps. Checkpoints therefore always fall
    between rollouts, and a resumed run is exact.

    Parameters whose names are TRL's mean what they mean there: `num_generations` (samples a prompt, 1 is allowed with
    `gae`), `num_iterations` (passes over a rollout batch), `epsilon`, `epsilon_high`, `beta` (here: of the KL penalty
    in the reward), `temperature`, `top_p`, `max_completion_length`. `vllm_importance_sampling_*` correct for what any
    engine drew by other weights or kernels; `vllm_importance_sampling_correction` left at None is on exactly when
    samples may be stale, and with `token_truncate` at 2 where TRL has `sequence_mask` at 3.
    """

    prompts_per_step: int = field(default=8, metadata={"help": "Prompts of a rollout batch, all ranks together."})
    advantage: Advantage = field(default="gae", metadata={"help": "How advantages are made."})
    actor_steps: int = field(default=1, metadata={"help": "Policy mini-batches a pass over the rollout batch."})
    critic_steps: int = field(default=1, metadata={"help": "Disjoint critic mini-batches a step; one pass in all."})
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=1.0, metadata={"help": "Lambda of GAE."})
    lam_value: float | None = field(default=None, metadata={"help": "Lambda of the value targets; None: the same."})
    lam_horizon_fraction: float | None = field(
        default=None, metadata={"help": "1 / (1 - lambda) as a share of each response's length; in the place of lam."}
    )
    truncation_bootstrap: bool = field(
        default=False, metadata={"help": "A cut response ends in the value of the state after it."}
    )
    cliprange_value: float | None = field(default=0.2, metadata={"help": "Clip range of values; None: no clip."})
    value_head_init: Literal["normal", "zeros"] = field(default="normal", metadata={"help": "Start of the value head."})
    normalize_advantages: bool = field(default=True, metadata={"help": "Over all response tokens of the batch."})
    critic_learning_rate: float = field(default=5e-6, metadata={"help": "Learning rate of the critic."})
    critic_warmup_steps: int = field(default=0, metadata={"help": "First steps that train the critic only."})
    reward_requires_stop: bool = field(default=True, metadata={"help": "A response cut by its length scores 0."})
    tokens_per_microbatch: int = field(
        default=16384, metadata={"help": "Tokens of a micro-batch and rank: real ones, or padded without padding_free."}
    )
    padding_free: bool = field(default=True, metadata={"help": "Pack sequences into rows where the models can."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW, policy and critic."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Of policy and critic."})
    train_while_generating: bool = field(
        default=False, metadata={"help": "Add gradients up as samples end, before the last one is drawn."}
    )
    length_aware: bool = field(default=False, metadata={"help": "Draw by lengths predicted from the run's own log."})
    stage_name: str = field(default="ppo", metadata={"help": "Part of every sample's seed."})
    freeze: list[str] | None = field(
        default=None, metadata={"help": "Parts that stay as they are: vision_tower, projector; policy and critic."}
    )
    schedules: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Values that change with the step (reasonrl.recipe.schedules), as mappings."},
    )
    max_staleness: int = field(
        default=0, metadata={"help": "1: a step's samples are drawn while the step before trains, by older weights."}
    )
    dynamic_sampling: bool = field(default=False, metadata={"help": "Drop groups of equal scores, draw further ones."})
    dynamic_sampling_max_rounds: int = field(
        default=DEFAULT_ROUNDS, metadata={"help": "Further rounds a step at most."}
    )
    hint_column: str | None = field(default=None, metadata={"help": "Column of hints for groups that are all wrong."})
    hint_fraction: float = field(default=1.0, metadata={"help": "Share of a hint's words that is given."})
    hint_template: str = field(default=DEFAULT_HINT_TEMPLATE, metadata={"help": "The user's message with a hint."})
    stop_strings: Sequence[str] = field(default=(), metadata={"help": "Texts that end a response; they stay in it."})
    stop_on: Sequence[str] = field(default=(), metadata={"help": "Alarms that stop the run; `all`: all of them."})
    max_logprob_gap: float | None = field(
        default=None, metadata={"help": "Largest mean difference of engine and trainer on drawn tokens, nats; stops."}
    )
    vllm_importance_sampling_correction: bool | None = field(
        default=None, metadata={"help": "Weigh tokens by pi_old / pi_engine; None: when max_staleness is above 0."}
    )
    vllm_importance_sampling_mode: ImportanceMode = field(
        default="token_truncate", metadata={"help": "How ratios are bounded."}
    )
    vllm_importance_sampling_clip_max: float | None = field(default=2.0, metadata={"help": "Upper bound of ratios."})
    vllm_importance_sampling_clip_min: float | None = field(default=None, metadata={"help": "Lower bound of ratios."})
    ratio: Literal["ppo", "none"] = field(default="ppo", metadata={"help": "none: policy gradient without a ratio."})
    token_ratio_band: list[float] | None = field(
        default=None, metadata={"help": "Bounds of pi_old / pi_engine; a token outside is left out."}
    )
    sequence_ratio_band: list[float] | None = field(
        default=None, metadata={"help": "Bounds of the geometric mean of these over a response; left out outside."}
    )
    kl_in: Literal["reward", "loss"] = field(default="reward", metadata={"help": "Where beta's penalty stands."})
    kl_estimator: Literal["k1", "k2", "k3"] = field(default="k1", metadata={"help": "How the KL is estimated."})
    positive_weight: float = field(default=1.0, metadata={"help": "Of positive samples in the policy loss."})
    positive_nll_coef: float = field(default=0.0, metadata={"help": "Of the NLL of positive samples."})
    positive_above: float = field(default=0.5, metadata={"help": "A sample of a higher score is positive."})

    def __post_init__(self) -> None:
        samples = self.num_generations
        self._check(samples)
        if isinstance(self.scale_rewards, bool):  # as in TRL
            self.scale_rewards = "group" if self.scale_rewards else "none"
        given = vars(self)
        _refuse([*option_problems(given), *advantage_problems(given), *sampling_problems(given)])
        if self.vllm_importance_sampling_correction is None:
            self.vllm_importance_sampling_correction = self.max_staleness > 0
        self._check_correction()
        # TRL asks for two samples a prompt or more, since its baseline is the group, and sizes its batches in its own
        # way; what is drawn here is decided by our sampler, so it is shown a batch it accepts, and then the real one.
        self.num_generations = max(2, samples)
        self.per_device_train_batch_size = self.num_generations
        self.per_device_eval_batch_size = self.num_generations_eval or self.num_generations
        self.gradient_accumulation_steps = 1
        self.generation_batch_size = None
        self.steps_per_generation = 1
        if self.deepspeed:
            ready_for_deepspeed()
        if self.fsdp:
            ready_for_fsdp()
        super().__post_init__()
        self.num_generations = samples
        self.generation_batch_size = self.rollout_size
        if self.rollout_size % self.world_size:
            raise ValueError(
                f"prompts_per_step * num_generations = {self.rollout_size} cannot be split over"
                f" {self.world_size} processes"
            )
        self.per_device_train_batch_size = self.rollout_size // self.world_size
        if self.device.type == "cpu":
            # One of several processes without accelerators is on "cpu:1", where torch can restore no optimizer.
            self.__dict__["_setup_devices"] = torch.device("cpu")
        self._check_streaming()

    @property
    def rollout_size(self) -> int:
        """Responses of a rollout batch, all ranks together."""
        return self.prompts_per_step * self.num_generations

    def _check_streaming(self) -> None:
        """What `train_while_generating` could not do exactly."""
        if not self.train_while_generating:
            return
        share = self.rollout_size // self.world_size
        refused = (
            (
                self.actor_steps * self.num_iterations > 1,
                f"actor_steps = {self.actor_steps} and num_iterations = {self.num_iterations}: every step after the"
                " first wants samples that are all there -> 1 and 1",
            ),
            (
                self.advantage in GROUPED and share % self.num_generations != 0,
                f"{share} samples on each of {self.world_size} processes and groups of num_generations ="
                f" {self.num_generations}: a group would lie on two of them -> a number of processes that divides"
                f" prompts_per_step = {self.prompts_per_step}",
            ),
            (
                self.max_staleness > 0,
                f"max_staleness = {self.max_staleness}: then the samples of a step are drawn while another one trains"
                " -> max_staleness = 0",
            ),
        )
        for problem, message in refused:
            if problem:
                raise ValueError(f"train_while_generating = True, but {message}, or train_while_generating = False")

    def _check(self, samples: int) -> None:
        for name in ("actor_steps", "critic_steps"):
            parts = getattr(self, name)
            if parts < 1 or (self.prompts_per_step * samples) % parts:
                raise ValueError(
                    f"{name} = {parts} does not divide the rollout batch of {self.prompts_per_step} prompts x"
                    f" {samples} samples = {self.prompts_per_step * samples}"
                )

    def _check_correction(self) -> None:
        if self.max_staleness not in (0, 1):
            raise ValueError(
                f"max_staleness = {self.max_staleness}, allowed are 0 (samples of the current weights) and 1 (drawn"
                " while the step before trains)"
            )
        if not self.vllm_importance_sampling_correction:
            return
        check_bounds(
            self.vllm_importance_sampling_mode,
            self.vllm_importance_sampling_clip_max,
            self.vllm_importance_sampling_clip_min,
        )
        if self.top_p < 1:
            raise ValueError(
                f"top_p = {self.top_p}, but the importance correction compares probabilities of the whole distribution,"
                " and a nucleus is another one -> top_p = 1, or vllm_importance_sampling_correction = False"
            )


def _refuse(issues: list[Issue]) -> None:
    """Raises ValueError with every problem that the shared rules (reasonrl/recipe) found."""
    if issues:
        raise ValueError("; ".join(f"{i.key} {i.message} -> {i.fix}" for i in issues))
