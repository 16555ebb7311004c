"""PPO's update on one rollout batch: critic steps, policy steps."""

from __future__ import annotations

from typing import Any

import torch

from reasonrl.algorithms import PolicySums, shuffled_parts, token_weights, value_loss
from reasonrl.trainers.batch import MicroBatch, RolloutBatch, rows_of
from reasonrl.trainers.loss_terms import (
    Counts,
    LossWeights,
    added_terms,
    local_counts,
    loss_weights,
    surrogate_term,
)
from reasonrl.trainers.targets import TargetMaker, Targets
from reasonrl.trainers.zero import accumulate, backward, is_engine
from reasonrl.trainers.zero import step as step_on

POLICY_SUMS = ("policy_loss", "clip_fraction", "approx_kl")


class PPOUpdate(TargetMaker):
    """The update, given the pieces it works with (see `Passes`).

    Attributes:
        skipped_updates: optimizer steps of the policy not made in this step, as their gradient was no finite number.
    """

    skipped_updates = 0

    def train_critic(self, batch: RolloutBatch, targets: Targets, step: int) -> None:
        """`critic_steps` optimizer steps, one on each of as many disjoint parts of the shuffled rollout batch."""
        critic = self.critic
        assert critic is not None and targets.values is not None and targets.returns is not None
        share = 1 / self.accelerator.num_processes
        critic.model.train()
        for rows in self._parts(len(batch), self.args.critic_steps, "critic", step):
            weights = self._weights(targets.mask, rows, "dapo")
            for micro, last in self.micro_batches(batch, rows):
                with critic.accumulate(last):
                    sums = value_loss(
                        micro.gather(critic.values(**micro.inputs)),
                        rows_of(targets.values, micro),
                        rows_of(targets.returns, micro),
                        rows_of(weights, micro),
                        cliprange_value=self.args.cliprange_value,
                    )
                    critic.backward(sums.loss * self.accelerator.num_processes)
                self.meter.add("value_loss", sums.loss, 0)
                self.meter.add("value_clip_fraction", sums.clipped, 0)
            for name in ("value_loss", "value_clip_fraction"):
                self.meter.add(name, 0.0, share)
            self.meter.add("critic_grad_norm", critic.step() * share, share)

    def train_policy(
        self, model: torch.nn.Module, optimizer: Any, batch: RolloutBatch, targets: Targets, step: int
    ) -> torch.Tensor:
        """`actor_steps` mini-batches in each of `num_iterations` passes; the last optimizer step is left to the caller.

        Returns:
            The mean policy loss of the mini-batches on this rank, for the Trainer's log.
        """
        parts = [
            part
            for epoch in range(self.args.num_iterations)
            for part in self._parts(len(batch), self.args.actor_steps, "actor", step, epoch)
        ]
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for number, rows in enumerate(parts):
            self.meter.forget("ratio_mean")  # of the last mini-batch alone: there it is farthest from 1
            total += self._policy_minibatch(model, batch, targets, rows)
            # DeepSpeed's engine makes every step itself; the Trainer's own is then nothing.
            if number < len(parts) - 1 or is_engine(model):
                self.skipped_updates += not step_on(self.accelerator, model, optimizer, self.args.max_grad_norm)[1]
        return (total / len(parts)).float()

    def _policy_minibatch(
        self, model: torch.nn.Module, batch: RolloutBatch, targets: Targets, rows: list[int]
    ) -> torch.Tensor:
        share = 1 / self.accelerator.num_processes
        counts = Counts(*self.accelerator.reduce(local_counts(targets, rows), reduction="sum").tolist())
        weights = loss_weights(self.args, targets, counts, rows)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for micro, last in self.micro_batches(batch, rows):
            with accumulate(self.accelerator, model, last):
                sums = self.policy_micro_batch(model, batch, targets, micro, weights)
            total += sums.loss.detach().double()
            self.add_policy_sums(sums)
        for name in POLICY_SUMS:
            self.meter.add(name, 0.0, share)
        return total

    def policy_micro_batch(
        self,
        model: torch.nn.Module,
        batch: RolloutBatch,
        targets: Targets,
        micro: MicroBatch,
        weights: LossWeights,
    ) -> PolicySums:
        """Add the gradient of one micro-batch under these token weights; a dummy one adds zero."""
        args = self.args
        bonus = {"entropy_grad": True} if weights.bonus is not None else {}
        logprobs, entropy = self.forward(model, micro.labels, **bonus, **micro.inputs)
        logprobs = micro.gather(logprobs)
        entropy = None if entropy is None else micro.gather(entropy)
        old = logprobs.detach() if targets.logprobs is None else rows_of(targets.logprobs, micro)
        sums = surrogate_term(args, logprobs, old, targets, micro, weights)
        added = added_terms(args, logprobs, old, entropy, targets, micro, weights, self.meter)
        loss = sums.loss if added is None else sums.loss + added
        backward(self.accelerator, model, loss * self.accelerator.num_processes)
        counts = rows_of(targets.mask, micro)
        ratio = torch.where(counts > 0, logprobs.detach() - old, 0).exp() * counts
        self.meter.add("ratio_mean", ratio.sum(), float(counts.sum()))
        if args.top_p == 1:
            # The engine and the trainer should agree on what the tokens' probabilities were; they drift apart
            # unseen. (With a nucleus the engine's are of another distribution.)
            drift = (old - rows_of(batch.sampled_logprobs, micro)).abs()
            self.meter.add("sampling/logprob_difference", (drift * counts).sum(), float(counts.sum()))
        if entropy is not None:
            self.meter.add("entropy", (entropy.detach() * counts).sum(), float(counts.sum()))
        return sums

    def add_policy_sums(self, sums: PolicySums, factor: float = 1.0) -> None:
        """Take a micro-batch's share of the loss and its companions into the metrics."""
        for name, value in zip(POLICY_SUMS, (sums.loss, sums.clipped, sums.approx_kl), strict=True):
            self.meter.add(name, value.detach() * factor, 0)

    def _parts(self, size: int, parts: int, *name: str | int) -> list[list[int]]:
        # The whole rollout batch is shuffled, and each rank takes what it holds of every part: mini-batches, and so the
        # trajectory, do not depend on the number of ranks.
        start = self.accelerator.process_index * size
        everyone = size * self.accelerator.num_processes
        return [
            [place - start for place in part if start <= place < start + size]
            for part in shuffled_parts(everyone, parts, self.args.seed, self.args.stage_name, *name)
        ]

    def _weights(self, mask: torch.Tensor, rows: list[int], loss_type: Any) -> torch.Tensor:
        part = torch.zeros_like(mask)
        part[rows] = mask[rows]
        counts = torch.stack([part.sum(), (part.sum(dim=1) > 0).sum()]).double()
        tokens, responses = self.accelerator.reduce(counts, reduction="sum").tolist()
        return token_weights(
            part,
            loss_type=loss_type,
            total_tokens=tokens,
            total_rows=responses,
            max_tokens=self.args.max_completion_length,
        )
