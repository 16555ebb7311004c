"""Passes of the models over a rollout batch: token-budget micro-batches, log-probabilities, values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from reasonrl.algorithms import pad_plans, plan_microbatches, plan_packed_rows
from reasonrl.trainers.batch import Anchor, MicroBatch, RolloutBatch, make_micro_batch
from reasonrl.trainers.critic import CriticEngine
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.packed_batch import make_packed_micro_batch
from reasonrl.trainers.packing import backbone_reader, first_obstacle
from reasonrl.trainers.ppo_config import PPOConfig

LogprobForward = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
logger = logging.getLogger(__name__)


class Passes:
    """Reads a rollout batch through policy, reference and critic.

    Args:
        args: settings.
        accelerator: the trainer's.
        critic: the critic's engine, or None.
        forward: log-probabilities and entropy of labelled tokens.
        meter: takes the sums of the metrics.
        pad_token_id: fills padded inputs.

    Attributes:
        packed: whether rows of text are packed; None until a run's first step.
        anchor: see `Anchor`; None where processes have nothing to agree on.
    """

    anchor: Anchor | None = None

    def __init__(
        self,
        args: PPOConfig,
        accelerator: Accelerator,
        critic: CriticEngine | None,
        forward: LogprobForward,
        meter: Meter,
        pad_token_id: int,
    ) -> None:
        self.args, self.accelerator, self.critic = args, accelerator, critic
        self.forward, self.meter, self.pad_token_id = forward, meter, pad_token_id
        self.packed: bool | None = None

    def choose_rows(self, policy: torch.nn.Module, reference: torch.nn.Module | None, tokenizer: Any) -> None:
        """Packed rows if `padding_free` asks for them and every model reads them right, else padded ones; decided at a
        run's first step. A collective call.

        Args:
            policy: as the Trainer wraps it.
            reference: the reference model, where it is one of its own.
            tokenizer: of the policy; gives the tokens that are read to find out.
        """
        if self.packed is not None:
            return
        reason = "padding_free is false"
        if self.args.padding_free:
            unwrap = self.accelerator.unwrap_model
            texts = [unwrap(model) for model in (policy, reference) if model is not None]
            readers = [(model, self._logprob_reader(model)) for model in texts]
            if self.critic is not None:
                readers.append((self.critic.unwrapped, backbone_reader(self.critic.unwrapped)))
            half = self.args.bf16 or self.args.fp16
            reason = first_obstacle(readers, tokenizer, self.accelerator.device, half=half) or ""
        refused = torch.tensor([float(bool(reason))], device=self.accelerator.device)
        self.packed = not bool(self.accelerator.gather(refused).any())
        if not self.packed and self.args.padding_free and self.accelerator.is_main_process:
            logger.warning("sequences are padded, not packed: %s", reason or "another process cannot pack them")

    def _logprob_reader(self, model: torch.nn.Module) -> Callable[[MicroBatch], torch.Tensor]:
        return lambda micro: micro.gather(self.forward(model, micro.labels, **micro.inputs)[0])

    def plan(self, batch: RolloutBatch, rows: Sequence[int]) -> list[list[int]]:
        """Samples of each micro-batch, within `tokens_per_microbatch`: packed rows, then padded pictures."""
        budget, lengths = self.args.tokens_per_microbatch, batch.lengths
        padded = [row for row in rows if not self._packs(batch, [row])]
        packed = sorted({*rows} - {*padded})
        return plan_packed_rows(packed, lengths, budget) + plan_microbatches(padded, lengths, budget)

    def tokens_of(self, lengths: Sequence[int]) -> int:
        """What samples of these lengths in one micro-batch count against `tokens_per_microbatch`."""
        return sum(lengths) if self.packed else len(lengths) * max(lengths)

    def micro_batch(self, batch: RolloutBatch, rows: Sequence[int]) -> MicroBatch:
        """One micro-batch, packed or padded; no rows give a dummy that weighs nothing."""
        if self._packs(batch, rows or range(len(batch))):
            return make_packed_micro_batch(batch, rows)
        return make_micro_batch(batch, rows, self.pad_token_id, self.anchor)

    def _packs(self, batch: RolloutBatch, rows: Sequence[int]) -> bool:
        # Models place pictures by positions of their own making, which those of a packed row would replace.
        return bool(self.packed) and self.anchor is None and not any(batch.has_inputs(row) for row in rows)

    def micro_batches(
        self, batch: RolloutBatch, rows: Sequence[int], together: bool = True
    ) -> Iterator[tuple[MicroBatch, bool]]:
        """Token-budget micro-batches of some rows, and whether each is the last; equally many on every rank, unless
        this rank works for itself (`together` false: no collective call).
        """
        plan = self.plan(batch, rows)
        most = len(plan)
        if together:
            count = torch.tensor([most], device=self.accelerator.device)
            most = int(self.accelerator.gather(count).max())
        for number, group in enumerate(pad_plans(plan, most)):
            micro = self.micro_batch(batch, group)
            size = micro.inputs["input_ids"].numel()
            self.meter.add("padding_fraction", size - sum(batch.lengths[row] for row in micro.rows), size)
            self.meter.add("packed", float(micro.packed), 1.0)
            yield micro, number == most - 1

    def logprobs(self, model: torch.nn.Module, batch: RolloutBatch, together: bool = True) -> torch.Tensor:
        """(B, T) log-probabilities of the drawn tokens under a model, without gradient."""
        return self._per_token(
            batch, lambda micro: micro.gather(self.forward(model, micro.labels, **micro.inputs)[0]), together
        )

    def logprobs_and_entropies(self, model: torch.nn.Module, batch: RolloutBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """As `logprobs`, and the (B, T) entropies of the same distributions, nats."""

        def read(micro: MicroBatch) -> torch.Tensor:
            logprobs, entropy = self.forward(model, micro.labels, **micro.inputs)
            assert entropy is not None
            return torch.stack([micro.gather(logprobs), micro.gather(entropy).to(logprobs)], dim=-1)

        logprobs, entropies = self._per_token(batch, read, True).unbind(dim=-1)
        return logprobs, entropies

    def values(self, batch: RolloutBatch, together: bool = True, ends: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) V(s_t), without gradient; s_t is the state before token t. `ends`, (B,), takes the value of the state
        after each response's last token.
        """
        critic = self.critic
        assert critic is not None
        critic.model.eval()
        # DDP's wrapper may exchange buffers in a forward pass, which no rank does alone.
        model = critic.model if together else critic.unwrapped

        def read(micro: MicroBatch) -> torch.Tensor:
            values = model(**micro.inputs)
            if ends is not None and micro.rows:
                # One place on from that of a token's own state stands the state after it.
                after = micro.gather(torch.cat([values[:, 1:], values[:, -1:]], dim=1))
                lasts = [len(batch.sequences[row]) - batch.prompt_lengths[row] - 1 for row in micro.rows]
                ends[micro.rows] = after[range(len(lasts)), lasts].to(ends)
            return micro.gather(values)

        return self._per_token(batch, read, together)

    def _per_token(
        self, batch: RolloutBatch, read: Callable[[MicroBatch], torch.Tensor], together: bool
    ) -> torch.Tensor:
        out: torch.Tensor | None = None
        with torch.no_grad():
            for micro, _ in self.micro_batches(batch, range(len(batch)), together):
                read_out = read(micro)
                if out is None:
                    shape = (*batch.mask.shape, *read_out.shape[2:])
                    out = torch.zeros(shape, dtype=read_out.dtype, device=read_out.device)
                if micro.rows:
                    out[torch.tensor(micro.rows), : micro.width] = read_out
        assert out is not None
        return out * batch.mask.view(*batch.mask.shape, *[1] * (out.dim() - 2))
