"""PPO's update on one rollout batch: values, targets, critic steps, policy steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator

from reasonrl.algorithms import (
    Importance,
    PolicySums,
    gae,
    group_advantages,
    importance_weights,
    kl_shaped_rewards,
    masked_moments,
    normalize,
    pad_plans,
    plan_microbatches,
    policy_loss,
    shuffled_parts,
    terminal_rewards,
    token_weights,
    value_loss,
)
from reasonrl.trainers.batch import MicroBatch, RolloutBatch, make_micro_batch, rows_of
from reasonrl.trainers.critic import CriticEngine
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.ppo_config import PPOConfig

POLICY_SUMS = ("policy_loss", "clip_fraction", "approx_kl")
LogprobForward = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Targets:
    """What a rollout batch is trained towards; tensors are (B, T), fixed before any step is taken.

    Attributes:
        mask: 1 where a token is trained on (a counting token of a scored sample).
        advantages: of the policy loss, normalised where asked for.
        returns: value targets; None without a critic.
        values: V(s_t) of the critic before its steps; None without a critic.
        logprobs: of the policy before its steps; None when a single on-policy step makes them the current ones.
        kl: log pi - log pi_ref of the drawn tokens; None without a reference.
        importance: what the correction for the engine's distribution makes of each token; None without it.
    """

    mask: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor | None
    values: torch.Tensor | None
    logprobs: torch.Tensor | None
    kl: torch.Tensor | None
    importance: Importance | None = None


class PPOUpdate:
    """The update, given the pieces it works with.

    Args:
        args: settings.
        accelerator: the trainer's.
        critic: the critic's engine, or None.
        forward: log-probabilities and entropy of labelled tokens.
        meter: takes the sums of the metrics.
        pad_token_id: fills padded inputs.
    """

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

    def micro_batches(
        self, batch: RolloutBatch, rows: Sequence[int], together: bool = True
    ) -> Iterator[tuple[MicroBatch, bool]]:
        """Token-budget micro-batches of some rows, and whether each is the last; equally many on every rank, unless
        this rank works for itself (`together` false: no collective call).
        """
        plan = plan_microbatches(rows, batch.lengths, self.args.tokens_per_microbatch)
        most = len(plan)
        if together:
            count = torch.tensor([most], device=self.accelerator.device)
            most = int(self.accelerator.gather(count).max())
        for number, group in enumerate(pad_plans(plan, most)):
            micro = make_micro_batch(batch, group, self.pad_token_id)
            padded = micro.inputs["attention_mask"]
            self.meter.add("padding_fraction", float((padded == 0).sum()), float(padded.numel()))
            yield micro, number == most - 1

    def logprobs(self, model: torch.nn.Module, batch: RolloutBatch, together: bool = True) -> torch.Tensor:
        """(B, T) log-probabilities of the drawn tokens under a model, without gradient."""
        return self._per_token(
            batch, lambda micro: micro.gather(self.forward(model, micro.labels, **micro.inputs)[0]), together
        )

    def values(self, batch: RolloutBatch, together: bool = True) -> torch.Tensor:
        """(B, T) V(s_t), without gradient; s_t is the state before token t."""
        critic = self.critic
        assert critic is not None
        critic.model.eval()
        # DDP's wrapper may exchange buffers in a forward pass, which no rank does alone.
        model = critic.model if together else critic.unwrapped
        return self._per_token(batch, lambda micro: micro.gather(model(**micro.inputs)), together)

    def _per_token(
        self, batch: RolloutBatch, read: Callable[[MicroBatch], torch.Tensor], together: bool
    ) -> torch.Tensor:
        out: torch.Tensor | None = None
        with torch.no_grad():
            for micro, _ in self.micro_batches(batch, range(len(batch)), together):
                read_out = read(micro)
                if out is None:
                    out = torch.zeros(batch.mask.shape, dtype=read_out.dtype, device=read_out.device)
                if micro.rows:
                    out[torch.tensor(micro.rows), : micro.width] = read_out
        assert out is not None
        return out * batch.mask

    def targets(
        self,
        model: torch.nn.Module,
        batch: RolloutBatch,
        ref_logprobs: torch.Tensor | None,
        token_rewards: torch.Tensor | None,
    ) -> Targets:
        """Advantages and value targets of a batch; every number is of the models before this step's updates."""
        args = self.args
        needed = args.actor_steps * args.num_iterations > 1 or args.vllm_importance_sampling_correction
        logprobs = self.logprobs(model, batch) if needed or ref_logprobs is not None else None
        values = self.values(batch) if self.critic is not None else None
        targets = self.raw_targets(batch, values, logprobs, ref_logprobs, token_rewards, self._group_baseline)
        return self.spread(targets)

    def raw_targets(
        self,
        batch: RolloutBatch,
        values: torch.Tensor | None,
        logprobs: torch.Tensor | None,
        ref_logprobs: torch.Tensor | None,
        token_rewards: torch.Tensor | None,
        baseline: Callable[[torch.Tensor], torch.Tensor],
    ) -> Targets:
        """Targets of some samples by themselves, before any normalisation over the batch; `baseline` makes advantages
        of their (B,) total rewards where there are no values. No collective call but the baseline's own.
        """
        args = self.args
        scored = ~batch.scores.isnan()
        mask = batch.mask * scored.unsqueeze(1)
        scores = torch.where(scored, batch.scores, torch.zeros_like(batch.scores))
        dtype = values.dtype if values is not None else scores.dtype
        rewards = terminal_rewards(scores.to(dtype), mask)
        if token_rewards is not None:
            rewards = rewards + token_rewards.to(rewards) * mask
        kl = None
        if ref_logprobs is not None and logprobs is not None:
            kl = (logprobs - ref_logprobs) * mask
            rewards = kl_shaped_rewards(rewards, logprobs, ref_logprobs, mask, args.beta)
        returns = None
        if values is not None:
            advantages, returns = gae(rewards, values, mask, gamma=args.gamma, lam=args.lam)
        else:
            total = torch.where(scored, rewards.sum(dim=1), torch.nan)
            advantages = baseline(total).unsqueeze(1) * mask
        return Targets(mask, advantages, returns, values, logprobs, kl, self._importance(batch, mask, logprobs))

    def _importance(self, batch: RolloutBatch, mask: torch.Tensor, logprobs: torch.Tensor | None) -> Importance | None:
        if not self.args.vllm_importance_sampling_correction:
            return None
        assert logprobs is not None
        masks = self.args.vllm_importance_sampling_mode.endswith("mask")
        what = "sampling/importance_dropped_fraction" if masks else "sampling/importance_truncated_fraction"
        found = importance_weights(
            logprobs,
            batch.sampled_logprobs,
            mask,
            mode=self.args.vllm_importance_sampling_mode,
            clip_max=self.args.vllm_importance_sampling_clip_max,
            clip_min=self.args.vllm_importance_sampling_clip_min,
        )
        count = float(mask.sum())
        self.meter.add("sampling/importance_ratio_mean", found.ratio.sum(), count)
        self.meter.add(what, found.outside.sum(), count)
        return found

    def spread(self, targets: Targets) -> Targets:
        """Record mean and deviation of the advantages over all ranks, and normalise by them where asked for."""
        raw = masked_moments(targets.advantages, targets.mask)
        moments = self.accelerator.reduce(raw, reduction="sum")
        self._record_spread(moments)
        if not self.args.normalize_advantages or targets.values is None:
            return targets
        return replace(targets, advantages=normalize(targets.advantages, targets.mask, moments))

    def _group_baseline(self, total: torch.Tensor) -> torch.Tensor:
        # A prompt's samples may lie on two ranks, so the groups are formed over all of them.
        everyone = self.accelerator.gather(total)
        kind: Literal["group", "rloo"] = "rloo" if self.args.advantage == "rloo" else "group"
        advantages = group_advantages(everyone, self.args.num_generations, kind=kind)
        start = self.accelerator.process_index * len(total)
        return advantages[start : start + len(total)]

    def _record_spread(self, moments: torch.Tensor) -> None:
        count, total, squares = moments.tolist()
        mean = total / max(count, 1.0)
        share = 1 / self.accelerator.num_processes
        self.meter.add("advantage_mean", mean * share, share)
        self.meter.add("advantage_std", max(squares / max(count, 1.0) - mean * mean, 0.0) ** 0.5 * share, share)

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
