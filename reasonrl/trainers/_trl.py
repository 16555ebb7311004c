"""The only file that touches private names of TRL.

`RolloutHooks` turns GRPOTrainer's private hooks into three plain methods: `draw_samples` (to override), `collect`
(one rollout batch, with the raw reward of every function) and `forward_logprobs`. Contract tests hold these names,
signatures and output keys to the installed TRL.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from accelerate.utils import gather
from trl import DPOTrainer, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import use_adapter

from reasonrl.data_tools.pictures import COLUMNS as PICTURE_COLUMNS
from reasonrl.models.lm_head import LogprobReader
from reasonrl.rewards.combining import joined
from reasonrl.rollout.engine import Sample
from reasonrl.trainers.checkpoint_names import LoadsByNames
from reasonrl.trainers.fsdp import under_fsdp, whole_for_decoding
from reasonrl.trainers.zero import zero_stage

#: Private names this file relies on, for the contract test.
PRIVATE_NAMES = (
    "_generate_and_score_completions",
    "_calculate_rewards",
    "_metrics",
    "_logs",
    "_pending_extra_logs",
    "_pending_metrics",
    "_get_train_sampler",
)
#: Keys of a collected batch this file relies on.
BATCH_KEYS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


@dataclass(frozen=True)
class Collected:
    """One rank's share of a rollout batch, as TRL assembled it.

    Attributes:
        rows: the dataset rows, one a sample.
        samples: what the engine drew, in the order of the rows.
        tensors: TRL's padded tensors: prompts on the left, completions on the right, and multimodal inputs where
            there are any.
        rewards_per_function: (B, F) raw rewards; NaN where a function gave none.
        extra: per-sample columns that reward functions logged, such as `verdict`.
        metrics: scalars that reward functions logged.
        reward_seconds: wall time of the reward functions.
    """

    rows: list[dict[str, Any]]
    samples: list[Sample]
    tensors: dict[str, Any]
    rewards_per_function: torch.Tensor
    extra: dict[str, list[Any]]
    metrics: dict[str, float]
    reward_seconds: float


@dataclass(frozen=True)
class Scored:
    """What the reward functions gave for one rank's samples: (B, F) rewards (NaN: none), the columns and scalars they
    logged, and how long they were waited for.
    """

    rewards: torch.Tensor
    extra: dict[str, list[Any]]
    metrics: dict[str, float]
    seconds: float


class RolloutHooks(LoadsByNames, GRPOTrainer):
    """GRPOTrainer with its rollout opened up; the update is the subclass's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rollout_func.*")
            super().__init__(*args, rollout_func=self._rollout, **kwargs)
        # Passes over a batch are made by our own update; TRL must see one pass, or it would compute log-
        # probabilities of the whole padded batch that nobody reads.
        self.num_iterations = 1
        # Which samples were cut the engine says, and what that means our own targets.
        self.mask_truncated_completions = False
        self.logprob_reader = LogprobReader(self.temperature)
        self._rows: list[dict[str, Any]] = []
        self._samples: list[Sample] = []
        self._raw_rewards: torch.Tensor | None = None
        self._extra: dict[str, list[Any]] = {}
        self._scalars: dict[str, float] = {}
        self._reward_seconds = 0.0
        self._collecting = False

    def draw_samples(self, rows: Sequence[dict[str, Any]]) -> list[Sample]:
        """Draw one sample per row, in the order of the rows; the subclass says how."""
        raise NotImplementedError(f"{type(self).__name__} must say how samples are drawn")

    def rewards_so_far(self) -> Scored | None:
        """The rewards of all samples of this rank, if they were made while the samples were drawn; a subclass says."""
        return None

    def collect(self, rows: list[dict[str, Any]]) -> Collected:
        """Generate and score one rollout batch through TRL, without TRL's reference pass and advantages."""
        self._rows, self._collecting = rows, True
        beta, self.beta = self.beta, 0.0
        try:
            # Without their pictures, which TRL would process anew for every sample; rewards get them back.
            tensors = self._generate_and_score_completions(
                [{name: value for name, value in row.items() if name not in PICTURE_COLUMNS} for row in rows]
            )
        finally:
            self.beta, self._collecting = beta, False
        assert self._raw_rewards is not None
        # TRL's own summaries are replaced by ours; left alone they would pile up until the next log.
        self._metrics["train"].clear()
        start = self.accelerator.process_index * len(rows)
        return Collected(
            rows=rows,
            samples=self._samples,
            tensors=tensors,
            rewards_per_function=self._raw_rewards[start : start + len(rows)],
            extra=self._extra,
            metrics=self._scalars,
            reward_seconds=self._reward_seconds,
        )

    def score(self, rows: list[dict[str, Any]], samples: Sequence[Sample]) -> Scored:
        """Score this rank's samples outside `collect`, as many on every rank. A collective call."""
        rows = [{**row, "finish_reason": sample.finish_reason} for row, sample in zip(rows, samples, strict=True)]
        prompts = [row["prompt"] for row in rows]
        completions = _as_completions(prompts, samples)
        ids = [list(sample.token_ids) for sample in samples]
        rewards = self._calculate_rewards(rows, prompts, completions, ids)
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        start = self.accelerator.process_index * len(rows)
        return Scored(rewards[start : start + len(rows)], self._extra, self._scalars, self._reward_seconds)

    def forward_logprobs(
        self, model: torch.nn.Module, labels: torch.Tensor, entropy_grad: bool = False, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probability and entropy (nats) of every labelled token at the sampling temperature, without their logits
        where those would be large (models/lm_head.py).

        Args:
            model: the policy or the reference model, as wrapped for training.
            labels: (b, L), -100 where a token is not scored.
            entropy_grad: whether the entropies carry gradient.
            inputs: `input_ids`, `attention_mask` (b, L) and multimodal inputs.

        Returns:
            (b, L - 1) tensors; position j belongs to token j + 1. Zero where not scored. The reference model gives no
            entropy.
        """
        wants_entropy = model is not self.ref_model
        return self.logprob_reader(model, labels, inputs, entropy=wants_entropy, entropy_grad=entropy_grad)

    @contextlib.contextmanager
    def reference(self, model: torch.nn.Module) -> Iterator[torch.nn.Module]:
        """The reference model: a frozen copy of the start, or the policy with its adapter off (or its `ref` adapter
        on).
        """
        if self.ref_model is not None:
            yield self.ref_model
            return
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            yield model

    @contextlib.contextmanager
    def gathered(self, model: torch.nn.Module) -> Iterator[None]:
        """Under ZeRO-3 and FSDP every rank holds the whole model meanwhile and runs it by itself: ranks decode
        different numbers of tokens, and each would else wait for the others at every layer. Nothing elsewhere.
        """
        if under_fsdp(self.accelerator):
            with whole_for_decoding(model, self.accelerator):
                yield
            return
        if zero_stage(self.accelerator) < 3:
            yield
            return
        with unwrap_model_for_generation(model, self.accelerator):
            yield

    def _rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        self._samples = self.draw_samples(self._rows)
        return {
            "prompt_ids": [list(sample.request.prompt_ids) for sample in self._samples],
            "completion_ids": [list(sample.token_ids) for sample in self._samples],
            "logprobs": [list(sample.logprobs_sampled) for sample in self._samples],
            "finish_reason": [sample.finish_reason for sample in self._samples],
        }

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        if self._collecting:
            # TRL takes a reply apart where the tokenizer says how (reasoning, tools); a reward judges all that was
            # written, in training as in validation.
            completions = _as_completions(prompts, self._samples)
            inputs = [{**row, **given} for row, given in zip(self._rows, inputs, strict=True)]
            if (known := self.rewards_so_far()) is not None:
                self._raw_rewards, self._extra, self._scalars = gather(known.rewards), known.extra, known.metrics
                self._reward_seconds = known.seconds
                return self._raw_rewards
        started = time.perf_counter()
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._reward_seconds = time.perf_counter() - started
        self._raw_rewards = rewards
        self._extra = {name: list(values) for name, values in self._pending_extra_logs.items()}
        self._scalars = {name: joined(name, values) for name, values in self._pending_metrics.items() if values}
        return rewards


def set_generation_backend(trainer: GRPOTrainer, backend: Any) -> None:
    """Put an object with `sync_weights()` and `generate(...)` where a GRPOTrainer keeps its vLLM."""
    trainer.use_vllm = True
    trainer.vllm_generation = backend
    trainer._last_loaded_step = -1  # so that the weights go over before the first sample


def as_completion(prompt: Any, sample: Sample) -> Any:
    """What reward functions are given of a sample: text for a text prompt, one assistant turn for a conversation."""
    return sample.text if isinstance(prompt, str) else [{"role": "assistant", "content": sample.text}]


def _as_completions(prompts: Sequence[Any], samples: Sequence[Sample]) -> list[Any]:
    return [as_completion(prompt, sample) for prompt, sample in zip(prompts, samples, strict=True)]


class TokenisedDPO(LoadsByNames, DPOTrainer):
    """DPOTrainer on rows that are tokens already: `prompt_ids`, `chosen_ids`, `rejected_ids`."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset
