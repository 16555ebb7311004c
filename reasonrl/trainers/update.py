"""PPO's update on one rollout batch: critic steps, policy steps."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from reasonrl.algorithms import PolicySums, policy_loss, shuffled_parts, token_weights, value_loss
from reasonrl.trainers.batch import MicroBatch, RolloutBatch, rows_of
from reasonrl.trainers.targets import TargetMaker, Targets

POLICY_SUMS = ("policy_loss", "clip_fraction", "approx_kl")


class PPOUpdate(TargetMaker):
    """The update, given the pieces it works with (see `Passes`)."""

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
            total += self._policy_minibatch(model, batch, targets, rows)
            if number < len(parts) - 1:
                limit = self.args.max_grad_norm
                if limit > 0:
                    self.accelerator.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
                optimizer.zero_grad()
        return (total / len(parts)).float()

    def _policy_minibatch(
        self, model: torch.nn.Module, batch: RolloutBatch, targets: Targets, rows: list[int]
    ) -> torch.Tensor:
        share = 1 / self.accelerator.num_processes
        weights = self._weights(targets.mask, rows, self.args.loss_type)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for micro, last in self.micro_batches(batch, rows):
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
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
        weights: torch.Tensor,
    ) -> PolicySums:
        """Add the gradient of one micro-batch under these (B, T) token weights; a dummy one adds zero."""
        args = self.args
        logprobs, entropy = self.forward(model, micro.labels, **micro.inputs)
        logprobs = micro.gather(logprobs)
        old = logprobs.detach() if targets.logprobs is None else rows_of(targets.logprobs, micro)
        sums = policy_loss(
            logprobs,
            old,
            rows_of(targets.advantages, micro),
            rows_of(weights, micro),
            epsilon=args.epsilon,
            epsilon_high=args.epsilon_high,
            importance=None if targets.importance is None else rows_of(targets.importance.weights, micro),
        )
        self.accelerator.backward(sums.loss * self.accelerator.num_processes)
        counts = rows_of(targets.mask, micro)
        if args.top_p == 1:
            # The engine and the trainer should agree on what the tokens' probabilities were; they drift apart
            # unseen. (With a nucleus the engine's are of another distribution.)
            drift = (old - rows_of(batch.sampled_logprobs, micro)).abs()
            self.meter.add("sampling/logprob_difference", (drift * counts).sum(), float(counts.sum()))
        if entropy is not None:
            self.meter.add("entropy", (micro.gather(entropy.detach()) * counts).sum(), float(counts.sum()))
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
