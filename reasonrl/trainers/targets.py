"""What a rollout batch is trained towards: advantages, value targets, old log-probabilities, importance weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from reasonrl.algorithms import Importance, importance_weights, masked_moments, normalize
from reasonrl.algorithms.advantages import (
    GroupKind,
    decoupled_gae,
    group_advantages,
    kl_shaped_rewards,
    length_adaptive_lambda,
    rewards_to_go,
    terminal_rewards,
)
from reasonrl.recipe.advantage_rules import NORMALIZED, PLUGINS
from reasonrl.trainers.advantage_plugins import plugin_advantages
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.loss_masks import high_entropy_tokens, loss_masks, reads_engine_ratio
from reasonrl.trainers.passes import Passes


@dataclass(frozen=True)
class Targets:
    """What a rollout batch is trained towards; tensors are (B, T), fixed before any step is taken.

    Attributes:
        mask: 1 where a token is trained on: a counting token of a scored sample, and with
            `mask_truncated_completions` of one that ended by itself.
        advantages: of the policy loss, normalised where asked for.
        returns: value targets; None without a critic.
        values: V(s_t) of the critic before its steps; None without a critic.
        logprobs: of the policy before its steps; None when a single on-policy step makes them the current ones.
        ref_logprobs: of the reference model; None without one.
        kl: log pi - log pi_ref of the drawn tokens; None without a reference.
        importance: what the correction for the engine's distribution makes of each token; None without it.
        kept: 1 where the bands of pi_old / pi_engine keep a token of the mask; None without bands.
        positive: 1 at tokens of the mask whose sample is positive; None where nothing asks.
        selected: 1 at the tokens of highest entropy that the policy is trained on; None: all.
    """

    mask: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor | None
    values: torch.Tensor | None
    logprobs: torch.Tensor | None
    kl: torch.Tensor | None
    importance: Importance | None = None
    ref_logprobs: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    positive: torch.Tensor | None = None
    selected: torch.Tensor | None = None

    @property
    def policy_mask(self) -> torch.Tensor:
        """(B, T), 1 where a token counts for the policy: what its loss is divided by."""
        return self.mask if self.kept is None else self.kept


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
        needed = args.actor_steps * args.num_iterations > 1 or reads_engine_ratio(args)
        needed = needed or (ref_logprobs is not None and args.kl_in == "reward")
        logprobs = entropies = None
        if args.top_entropy_quantile < 1:
            logprobs, entropies = self.logprobs_and_entropies(model, batch)
        elif needed:
            logprobs = self.logprobs(model, batch)
        values, last_values = self.read_values(batch)
        targets = self.raw_targets(
            batch, values, logprobs, ref_logprobs, token_rewards, self._group_baseline, last_values
        )
        if entropies is not None:
            selected = high_entropy_tokens(args, self.meter, self.accelerator, targets.policy_mask, entropies)
            targets = replace(targets, selected=selected)
        return self.spread(targets)

    def read_values(
        self, batch: RolloutBatch, together: bool = True
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(B, T) V(s_t), None without a critic; and with `truncation_bootstrap` (B,) the value of the state after the
        last token of those responses that were cut, 0 of others.
        """
        if self.critic is None:
            return None, None
        if not self.args.truncation_bootstrap:
            return self.values(batch, together), None
        ends = torch.zeros(len(batch), dtype=torch.float64, device=batch.mask.device)
        values = self.values(batch, together, ends)
        last_values = torch.where(batch.finished, 0, ends)
        cut = ~batch.finished & ~batch.scores.isnan()
        self.meter.add("value_after_cut_mean", last_values[cut].sum(), float(cut.sum()))
        return values, last_values

    def raw_targets(
        self,
        batch: RolloutBatch,
        values: torch.Tensor | None,
        logprobs: torch.Tensor | None,
        ref_logprobs: torch.Tensor | None,
        token_rewards: torch.Tensor | None,
        baseline: Callable[[torch.Tensor], torch.Tensor],
        last_values: torch.Tensor | None = None,
    ) -> Targets:
        """Targets of some samples by themselves, before any normalisation over the batch; `baseline` makes advantages
        of their (B,) total rewards where there are no values. No collective call but the baseline's own.
        """
        args = self.args
        scored = ~batch.scores.isnan()
        counts = batch.mask * scored.unsqueeze(1)
        scores = torch.where(scored, batch.scores, torch.zeros_like(batch.scores))
        dtype = values.dtype if values is not None else torch.float64
        rewards = terminal_rewards(scores.to(dtype), counts)
        if token_rewards is not None:
            rewards = rewards + token_rewards.to(rewards) * counts
        kl, shaped = None, rewards
        if ref_logprobs is not None and logprobs is not None:
            kl = (logprobs - ref_logprobs) * counts
            if args.kl_in == "reward":
                shaped = kl_shaped_rewards(rewards, logprobs, ref_logprobs, counts, args.beta, args.kl_estimator)
        returns = None
        if values is not None:
            advantages, returns = self._gae(shaped, values, counts, last_values)
        else:
            # What counts nowhere (its prompt was dropped) is no part of any baseline.
            compared = scored & (batch.mask > 0).any(dim=1)
            advantages = self._without_critic(rewards, shaped, counts, compared, baseline)
        mask = counts
        if args.mask_truncated_completions:
            # After the baselines: what a cut response scored is still an outcome of its prompt.
            mask = counts * batch.finished.unsqueeze(1)
            advantages = advantages * mask
            kl = None if kl is None else kl * mask
        importance = self._importance(batch, mask, logprobs)
        masks = loss_masks(args, self.meter, batch, mask, logprobs)
        return Targets(mask, advantages, returns, values, logprobs, kl, importance, ref_logprobs, **masks)

    def _gae(
        self, rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, last_values: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        args = self.args
        lam: float | torch.Tensor = args.lam
        if args.lam_horizon_fraction is not None:
            lam = length_adaptive_lambda(mask, args.lam_horizon_fraction)
        return decoupled_gae(
            rewards, values, mask, gamma=args.gamma, lam=lam, lam_value=args.lam_value, last_values=last_values
        )

    def _without_critic(
        self,
        rewards: torch.Tensor,
        shaped: torch.Tensor,
        mask: torch.Tensor,
        compared: torch.Tensor,
        baseline: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """(B, T) advantages from (B, T) rewards and the same less the KL (`shaped`); `compared`: (B,), which responses
        the baselines are made of.
        """
        kind = self.args.advantage
        if kind == "reinforce_pp":
            return rewards_to_go(shaped, mask, gamma=self.args.gamma)
        if kind == "reinforce_pp_baseline":
            # The group's mean is that of the task's reward; the KL of each token goes to those before it.
            total = rewards.sum(dim=1)
            mean = total - baseline(torch.where(compared, total, torch.nan))
            return (rewards_to_go(shaped, mask, gamma=1.0) - mean.unsqueeze(1)) * mask
        total = torch.where(compared, shaped.sum(dim=1), torch.nan)
        return baseline(total).unsqueeze(1) * mask

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
        if not self.args.normalize_advantages or self.args.advantage not in NORMALIZED:
            return targets
        return replace(targets, advantages=normalize(targets.advantages, targets.mask, moments))

    def baseline(self, total: torch.Tensor) -> torch.Tensor:
        """(B,) advantages of the total rewards of whole groups, as `advantage` and `scale_rewards` say."""
        kinds: dict[str, GroupKind] = {"group": "group", "rloo": "rloo", "reinforce_pp_baseline": "mean"}
        args = self.args
        if args.advantage in PLUGINS:
            return plugin_advantages(args.advantage, total, args.num_generations)
        return group_advantages(total, args.num_generations, kind=kinds[args.advantage], scale=args.scale_rewards)  # type: ignore[arg-type]

    def _group_baseline(self, total: torch.Tensor) -> torch.Tensor:
        # A prompt's samples may lie on two ranks, so the groups are formed over all of them.
        advantages = self.baseline(self.accelerator.gather(total))
        start = self.accelerator.process_index * len(total)
        return advantages[start : start + len(total)]

    def _record_spread(self, moments: torch.Tensor) -> None:
        count, total, squares = moments.tolist()
        mean = total / max(count, 1.0)
        share = 1 / self.accelerator.num_processes
        self.meter.add("advantage_mean", mean * share, share)
        self.meter.add("advantage_std", max(squares / max(count, 1.0) - mean * mean, 0.0) ** 0.5 * share, share)
