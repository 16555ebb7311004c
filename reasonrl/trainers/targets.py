"""What a rollout batch is trained towards: advantages, value targets, old log-probabilities, importance weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from reasonrl.algorithms import (
    Importance,
    gae,
    group_advantages,
    importance_weights,
    kl_shaped_rewards,
    masked_moments,
    normalize,
    terminal_rewards,
)
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.passes import Passes


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


class TargetMaker(Passes):
    """Makes a batch's targets."""

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
