"""Policy gradients on logged samples: BCPG with weights on the steps of wrong answers, and what it is compared with.

A step of training is the mean of the objective (`reasonrl.algorithms.bcpg`) over `samples_per_step` samples. What a
sample counts for, its advantage, its tokens' weights and the reference's log-probabilities, is fixed before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from accelerate import Accelerator

from reasonrl.algorithms.bcpg import LoggedMethod, LoggedSums, Quadratic, logged_loss
from reasonrl.models.lm_head import LogprobReader
from reasonrl.trainers.batch import MicroBatch, RolloutBatch, rows_of
from reasonrl.trainers.engine import ModelEngine
from reasonrl.trainers.logged_rows import LoggedData, LoggedSample
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.offline import OfflineConfig, OfflineTrainer
from reasonrl.trainers.passes import Passes
from reasonrl.trainers.reference_logprobs import ReferenceLogprobs

POLICY_FOLDER = "policy"


@dataclass(frozen=True)
class BCPGConfig(OfflineConfig):
    """Settings of the training (`OfflineConfig`), in the terms of `reasonrl.algorithms.bcpg`.

    Attributes:
        samples_per_step: samples of one optimizer step, over all processes.
        beta: weight of the mined tokens of wrong answers.
        uniform: give all tokens of wrong answers the same weight, the mean of what they would have.
        epsilon: of the clip of `grpo_offline`.
    """

    samples_per_step: int = 512
    method: LoggedMethod = "bcpg"
    tau: float = 1e-3
    beta: float = 0.5
    quadratic: Quadratic = "sequence"
    epsilon: float = 0.2
    uniform: bool = False

    @property
    def rows_per_step(self) -> int:
        """Samples of one optimizer step."""
        return self.samples_per_step

    @property
    def fp16(self) -> bool:
        """Half precision is bfloat16 here."""
        return False


class BCPGTrainer(OfflineTrainer[BCPGConfig, ModelEngine]):
    """Trains a policy on logged samples; further arguments are `OfflineTrainer`'s.

    Args:
        model: the policy, from which the samples were drawn or which is to learn from them.
        tokenizer: the policy's.
        config: the settings.
        data: the samples.
        reference: folder where the reference's log-probabilities are kept.
        reference_name: whose they are.

    Attributes:
        reference: the reference's log-probabilities.
        uniform_weight: of the tokens of wrong answers where they all have the same, else None.
    """

    folder = POLICY_FOLDER

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: BCPGConfig,
        data: LoggedData,
        *,
        accelerator: Accelerator | None = None,
        output: Path | None = None,
        reference: Path,
        reference_name: str = "policy",
        on_metrics: Callable[[dict[str, Any]], None] = lambda line: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        accelerator = accelerator or Accelerator(mixed_precision="bf16" if config.bf16 else "no")
        model.to(accelerator.device)
        self.samples: list[LoggedSample] = data.samples
        super().__init__(
            ModelEngine(model, config, accelerator, config.learning_rate),
            tokenizer,
            config,
            [len(sample) for sample in data.samples],
            accelerator=accelerator,
            output=output,
            on_metrics=on_metrics,
            should_stop=should_stop,
        )
        self.advantages = data.advantages
        self.uniform_weight = 1 + (config.beta - 1) * data.mined_share if config.uniform else None
        self.reader = LogprobReader(1.0)
        self.meter = Meter(accelerator)
        self.passes = Passes(
            cast(Any, config), accelerator, None, self._forward, self.meter, int(_text(tokenizer).pad_token_id or 0)
        )
        made_by = {"model": reference_name, "bf16": config.bf16}
        self.reference = ReferenceLogprobs(reference, data.samples, made_by, accelerator)
        self._lowest = torch.inf

    def make_reference(self, model: Any = None, report: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Read the log-probabilities that are missing, from `model`, or from the policy as it is now; all processes
        call it. Returns the number of files made.
        """
        read_with = self.engine.model if model is None else model
        self._choose_rows()
        training = read_with.training
        read_with.eval()

        def read(rows: Sequence[int]) -> list[torch.Tensor]:
            batch = self._batch(rows or [self._shortest])
            found = self.passes.logprobs(read_with, batch)
            return [found[place, : len(self.samples[row].completion_ids)] for place, row in enumerate(rows)]

        try:
            return self.reference.make(read, report)
        finally:
            read_with.train(training)
            self.meter.clear()

    def train(self, resume_from: Path | None = None) -> int:
        """Train to the end, or until asked to stop, after the reference was read; returns the steps made in all."""
        self.make_reference()
        return super().train(resume_from)

    def one_step(self, rows: Sequence[int]) -> float:
        """Gradient over all micro-batches of a step, and the optimizer's step; the gradient's norm."""
        accelerator, world = self.accelerator, self.accelerator.num_processes
        mine = self.share_of(rows)[accelerator.process_index]
        chosen = mine or [self._shortest]
        batch = self._batch(chosen)
        targets = _Targets.of([self.samples[row] for row in chosen], batch.mask, self.config.beta, self.uniform_weight)
        advantages = torch.tensor([self.advantages[row] for row in chosen], dtype=torch.float64)
        ref = self.reference.rows(chosen, batch.mask.shape[1])
        # The mean goes over all samples of the step, whoever holds them.
        share = 1 / (len(rows) * batch.mask.sum(dim=1).double())
        tensors = [tensor.to(accelerator.device) for tensor in (ref, advantages, targets.weights, share)]
        for micro, last in self.passes.micro_batches(batch, range(len(mine))):
            with self.engine.accumulate(last):
                logprobs, entropy = self._forward(self.engine.model, micro.labels, **micro.inputs)
                sums = self._loss(micro.gather(logprobs), batch, micro, *tensors)
                # Processes' gradients are averaged, and the loss is a mean over the samples of all of them.
                self.engine.backward(sums.loss.to(logprobs.dtype) * world)
            assert entropy is not None
            self._record(sums, micro.gather(entropy), batch, targets, micro)
        for name in ("loss", "objective", "penalty", "clip_fraction"):
            self.meter.add(name, 0.0, 1 / world)
        return self.engine.step()

    def figures(self) -> dict[str, Any]:
        """What the steps since the last line were like."""
        lowest = torch.tensor([self._lowest], device=self.accelerator.device)
        means = self.meter.means() | {"log_ratio/lowest": float(self.accelerator.gather(lowest).min())}
        if self.config.method in ("bcpg", "w_reinforce"):
            means.pop("clip_fraction", None)
        self.meter.clear()
        self._lowest = torch.inf
        return means

    def _loss(
        self,
        logprobs: torch.Tensor,
        batch: RolloutBatch,
        micro: MicroBatch,
        ref: torch.Tensor,
        advantages: torch.Tensor,
        weights: torch.Tensor,
        share: torch.Tensor,
    ) -> LoggedSums:
        config = self.config
        return logged_loss(
            logprobs,
            rows_of(ref, micro),
            rows_of(batch.mask, micro),
            rows_of(advantages.unsqueeze(1), micro)[:, 0],
            rows_of(weights, micro),
            rows_of(share.unsqueeze(1), micro)[:, 0],
            tau=config.tau,
            method=config.method,
            quadratic=config.quadratic,
            epsilon=config.epsilon,
        )

    def _record(
        self, sums: LoggedSums, entropy: torch.Tensor, batch: RolloutBatch, targets: _Targets, micro: MicroBatch
    ) -> None:
        add, rows = self.meter.add, micro.rows
        add("loss", sums.loss.detach(), 0)
        add("objective", sums.policy - sums.penalty, 0)
        add("penalty", sums.penalty, 0)
        add("clip_fraction", sums.clipped, 0)
        counts = rows_of(batch.mask, micro)
        tokens = float(counts.sum())
        add("entropy", (entropy.detach() * counts).sum(), tokens)
        add("log_ratio/mean", sums.log_ratio.sum(), tokens)
        per_token = sums.rho / counts.sum(dim=1).clamp(min=1)
        wrong = targets.wrong[rows] if rows else torch.zeros(1, dtype=torch.bool)
        wrong = wrong.to(per_token.device)
        for name, of in (("positive", ~wrong), ("negative", wrong)):
            add(f"rho_per_token/{name}", per_token[of].sum(), float(of.sum()) if rows else 0.0)
        labels = rows_of(targets.labels, micro, fill=-1).to(counts.device)
        for name, value in (("wrong_steps", 0), ("right_steps", 1)):
            of = labels == value
            add(f"log_ratio/{name}", torch.where(of, sums.log_ratio, 0).sum(), float(of.sum()))
        changed = (rows_of(targets.weights, micro).to(counts.device) != 1) & (counts > 0)
        add("reweighted", float(changed.sum()), float((counts * wrong.unsqueeze(1)).sum()))
        if rows:
            self._lowest = min(self._lowest, float(sums.log_ratio.min()))

    def _forward(self, model: Any, labels: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.reader(model, labels, inputs)

    def _choose_rows(self) -> None:
        self.passes.choose_rows(self.engine.model, None, self.tokenizer)

    def _batch(self, rows: Sequence[int]) -> RolloutBatch:
        samples, device = [self.samples[row] for row in rows], self.accelerator.device
        mask = torch.zeros((len(samples), max(len(s.completion_ids) for s in samples)), dtype=torch.long, device=device)
        for row, sample in enumerate(samples):
            mask[row, : len(sample.completion_ids)] = 1
        ids = [torch.from_numpy(numpy.concatenate([s.prompt_ids, s.completion_ids])).long() for s in samples]
        nothing = torch.zeros(len(samples), device=device)
        lengths = [len(sample.prompt_ids) for sample in samples]
        return RolloutBatch([one.to(device) for one in ids], lengths, mask, nothing, nothing.bool(), mask)

    @property
    def _shortest(self) -> int:
        return min(range(len(self.lengths)), key=self.lengths.__getitem__)


@dataclass(frozen=True)
class _Targets:
    """(B, T) weights and labels (-1: none) of some samples' tokens, on the CPU; (B,) whether they are wrong."""

    weights: torch.Tensor
    labels: torch.Tensor
    wrong: torch.Tensor

    @classmethod
    def of(cls, samples: Sequence[LoggedSample], mask: torch.Tensor, beta: float, uniform: float | None) -> _Targets:
        """`uniform`: the weight of every token of wrong answers, where they have the same."""
        weights = torch.ones(mask.shape, dtype=torch.float64)
        labels = torch.full(mask.shape, -1, dtype=torch.int8)
        for row, sample in enumerate(samples):
            if sample.wrong and uniform is not None:
                weights[row] = uniform
            elif sample.mined is not None:
                weights[row, : len(sample.mined)][torch.from_numpy(sample.mined)] = beta
            if sample.labels is not None:
                labels[row, : len(sample.labels)] = torch.from_numpy(sample.labels)
        return cls(weights, labels, torch.tensor([sample.wrong for sample in samples]))


def _text(tokenizer: Any) -> Any:
    return getattr(tokenizer, "tokenizer", tokenizer)
