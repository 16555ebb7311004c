"""Work on samples while others are still being drawn: rewards that begin early, and gradients that add up early.

`EarlyRewards` starts the rewards' work on a sample the moment it ends. `StreamedStep` (`train_while_generating`; the
synchronous form of StreamRL, arXiv 2504.15930, section 3.1) goes on from there: as soon as a unit is whole (a sample
with a critic, a prompt's group without) it is scored, valued and given its advantages, and the gradient of its tokens
is added up. The weights of the tokens want the number of all counting tokens, which nobody knows before the last
sample: a number known beforehand stands in for it, and one factor makes the whole gradient right before it is clipped.

Between the first and the last sample a rank calls no other one.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType

from reasonrl.algorithms import counted_by
from reasonrl.algorithms.importance import Importance
from reasonrl.algorithms.losses import PolicySums
from reasonrl.errors import ModelError
from reasonrl.recipe.advantage_rules import GROUPED
from reasonrl.rewards.combining import Journal
from reasonrl.rewards.early import begin, can_begin, forget, wants_whole_batch
from reasonrl.rollout.assemble import Closed, StepAssembler, Unit, Wanted
from reasonrl.rollout.engine import Sample
from reasonrl.trainers._trl import Scored, as_completion
from reasonrl.trainers.batch import RolloutBatch, batch_of_samples
from reasonrl.trainers.loss_masks import reads_engine_ratio
from reasonrl.trainers.loss_terms import Counts, local_counts, loss_weights
from reasonrl.trainers.recompute import checkpointing
from reasonrl.trainers.targets import Targets
from reasonrl.trainers.update import POLICY_SUMS

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer


TENSORS = ("mask", "advantages", "returns", "values", "logprobs", "kl", "ref_logprobs", "kept", "positive")
"""Fields of `Targets` that are (B, T) tensors or None."""


class EarlyRewards:
    """Starts the work of those rewards that can begin with a sample before the batch is whole (`rewards.early`)."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        self._functions = [function for function in functions if can_begin(function)]

    def begin(self, row: dict[str, Any], sample: Sample) -> None:
        """A sample of this row has ended; returns without waiting for any verdict."""
        if not self._functions:
            return
        prompt = row["prompt"]
        known = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        known |= {"finish_reason": sample.finish_reason, "completion_ids": list(sample.token_ids)}
        for function in self._functions:
            begin(function, prompt, as_completion(prompt, sample), known)

    def close(self) -> None:
        """Nobody will ask for what was begun and not taken: give it up."""
        for function in self._functions:
            forget(function)


def check_streaming(trainer: PPOTrainer) -> None:
    """Refuse what `train_while_generating` cannot do and only a built trainer knows.

    Raises:
        ModelError: says what, and what to change.
    """
    kind = trainer.accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ModelError(
            f"ppo: train_while_generating adds gradients up in each process by itself, which {kind} does not allow ->"
            " plain or DDP training (launch.num_processes), or train_while_generating: false"
        )
    for function in (*trainer.reward_funcs, *trainer.token_functions):
        name = getattr(function, "__name__", type(function).__name__)
        waits = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        if isinstance(function, torch.nn.Module) or waits:
            raise ModelError(
                f"ppo: the reward {name} is a {'model' if isinstance(function, torch.nn.Module) else 'coroutine'}, and"
                " train_while_generating calls rewards on a few samples at a time, as plain functions -> wrap it in"
                " one, or train_while_generating: false"
            )
        if wants_whole_batch(function):
            raise ModelError(
                f"ppo: the reward {name} compares the samples of a batch (whole_batch = True), and"
                " train_while_generating scores them as they come -> train_while_generating: false"
            )


class StreamedStep:
    """One rank's share of a step, trained on while its samples come in.

    Args:
        trainer: whose policy, critic, rewards and update these are.
        model: the policy as the Trainer wraps it.
        rows: the dataset rows, one a sample.
        trains_policy: false in steps that train the critic only.
    """

    def __init__(
        self, trainer: PPOTrainer, model: torch.nn.Module, rows: Sequence[dict[str, Any]], trains_policy: bool
    ) -> None:
        args = trainer.args
        self.trainer, self.model, self.rows, self.trains_policy = trainer, model, list(rows), trains_policy
        self.update, self.meter = trainer.update, trainer.meter
        self.policy = trainer.accelerator.unwrap_model(model)
        self.samples: list[Sample | None] = [None] * len(self.rows)
        self.work_seconds = 0.0
        self.reward_seconds = 0.0
        unit: Unit = "group" if args.advantage in GROUPED else "sample"
        wanted = [Wanted(str(place), str(place // args.num_generations)) for place in range(len(self.rows))]
        self._units: StepAssembler[int] = StepAssembler(wanted, unit)
        self._pending: list[int] = []
        self._parts: list[tuple[list[int], RolloutBatch, Targets]] = []
        self._sums: list[PolicySums] = []
        # Stand-ins for the number of counting tokens and of responses; near enough to keep gradients in their range.
        self._stand_in = (args.rollout_size * args.max_completion_length, args.rollout_size)
        self._start_rewards()

    # --- while samples come ---

    def arrived(self, sample: Sample) -> None:
        """Take in a sample; trains on what is whole once it fills a micro-batch."""
        started = time.perf_counter()
        place = int(sample.request.id)
        self.samples[place] = sample
        closed = self._units.add(sample.request.id, place)
        if closed is not None:
            self._add(closed)
        self.work_seconds += time.perf_counter() - started

    def _add(self, closed: Closed[int]) -> None:
        together = [len(s.request.prompt_ids) + len(s.token_ids) for s in self._of([*self._pending, *closed.items])]
        if self._pending and self.update.tokens_of(together) > self.trainer.args.tokens_per_microbatch:
            self._train()
        self._pending += closed.items

    def _of(self, places: Sequence[int]) -> list[Sample]:
        return [sample for place in places if (sample := self.samples[place]) is not None]

    def _train(self) -> None:
        """Score the pending samples, make their targets and add their gradient."""
        # In the order of the request, as rewards are called with a whole batch; a group's samples stay together.
        places, self._pending = sorted(self._pending), []
        with self._for_training():
            batch, token_rewards = self._score(places)
            with self.meter.timed("time/values"):
                targets = self._targets(batch, token_rewards)
            self._parts.append((places, batch, targets))
            if self.trains_policy:
                with self.meter.timed("time/actor"):
                    self._add_gradient(batch, targets)

    def _targets(self, batch: RolloutBatch, token_rewards: torch.Tensor | None) -> Targets:
        args, update = self.trainer.args, self.update
        values, last_values = update.read_values(batch, together=False)
        logprobs = ref_logprobs = None
        if (args.beta != 0.0 and args.kl_in == "reward") or reads_engine_ratio(args):
            logprobs = update.logprobs(self.policy, batch, together=False)
        if args.beta != 0.0:
            with self.trainer.reference(self.policy) as reference:
                ref_logprobs = update.logprobs(reference, batch, together=False)
        return update.raw_targets(batch, values, logprobs, ref_logprobs, token_rewards, update.baseline, last_values)

    def _add_gradient(self, batch: RolloutBatch, targets: Targets) -> None:
        args = self.trainer.args
        tokens, responses = self._stand_in
        weights = loss_weights(args, targets, Counts(tokens, responses, bonus=tokens, positive=tokens))
        # The policy without DDP's wrapper: its gradients stay here until `finish` has them exchanged.
        for micro, _ in self.update.micro_batches(batch, range(len(batch)), together=False):
            sums = self.update.policy_micro_batch(self.policy, batch, targets, micro, weights)
            self._sums.append(PolicySums(sums.loss.detach(), sums.clipped, sums.approx_kl, sums.log_ratio))

    @contextlib.contextmanager
    def _for_training(self) -> Iterator[None]:
        """The policy as it is trained, whatever the engine that is drawing with it has set."""
        policy, args = self.policy, self.trainer.args
        was_training = policy.training
        policy.train()
        try:
            with checkpointing(policy, args, on=True), torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            policy.train(was_training)

    # --- rewards ---

    def _start_rewards(self) -> None:
        count = len(self.rows)
        self._completions: list[Any] = [None] * count
        self._ids: list[Any] = [None] * count
        self._ends: list[Any] = [None] * count
        self._rewards = torch.full(
            (count, len(self.trainer.reward_funcs)), torch.nan, device=self.trainer.accelerator.device
        )
        self._logged: dict[str, list[Any]] = {}
        self._scalars: dict[str, float] = {}
        # As TRL names them; the lists fill as samples come.
        names = [key for key in self.rows[0] if key not in ("prompt", "completion", "completion_ids")]
        columns: dict[str, Any] = {key: [row[key] for row in self.rows] for key in names}
        columns |= {"finish_reason": self._ends, "trainer_state": self.trainer.state}
        columns |= {"log_extra": self._logged.__setitem__, "log_metric": self._scalars.__setitem__}
        prompts = [row["prompt"] for row in self.rows]
        self._journal = Journal(prompts, self._completions, self._ids, columns)

    def _score(self, places: list[int]) -> tuple[RolloutBatch, torch.Tensor | None]:
        trainer, samples = self.trainer, self._of(places)
        started = time.perf_counter()
        for place, sample in zip(places, samples, strict=True):
            self._completions[place] = as_completion(self.rows[place]["prompt"], sample)
            self._ids[place], self._ends[place] = list(sample.token_ids), sample.finish_reason
        for number, function in enumerate(trainer.reward_funcs):
            given = self._journal.call(function, trainer.reward_func_names[number], places)
            scores = [torch.nan if score is None else score for score in given]
            self._rewards[places, number] = torch.tensor(scores, dtype=torch.float32, device=self._rewards.device)
        self.reward_seconds += time.perf_counter() - started
        rewards = self._rewards[places]
        batch = batch_of_samples(
            samples,
            rewards,
            trainer.reward_weights,
            requires_stop=trainer.args.reward_requires_stop,
            images=trainer.prompts.features([self.rows[place] for place in places], samples),
        )
        return batch, trainer.token_rewards([self.rows[place] for place in places], samples, batch)

    # --- after the last sample ---

    def close(self) -> Scored:
        """Train on what is left; every sample must be in.

        Raises:
            ValueError: samples are missing.
        """
        self._units.close()
        if self._pending:
            self._train()
        self._journal.hand_on()
        return Scored(self._rewards, self._logged, self._scalars, self.reward_seconds)

    def targets(self, batch: RolloutBatch) -> Targets:
        """The targets of all samples in the shape of the whole batch, whose scores are set to what was trained on."""
        places = [place for of_part, _, _ in self._parts for place in of_part]
        parts = [targets for _, _, targets in self._parts]
        batch.scores[places] = torch.cat([part.scores for _, part, _ in self._parts])

        def whole(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
            there = [tensor for tensor in tensors if tensor is not None]
            if len(there) < len(tensors):
                return None
            joined = torch.zeros(batch.mask.shape, dtype=there[0].dtype, device=there[0].device)
            for (of_part, _, _), tensor in zip(self._parts, there, strict=True):
                joined[torch.tensor(of_part, device=joined.device), : tensor.shape[1]] = tensor
            return joined

        fields = {name: whole([getattr(part, name) for part in parts]) for name in TENSORS}
        bounds = [part.importance for part in parts if part.importance is not None]
        importance = None
        if bounds:
            names = ("weights", "ratio", "outside")
            importance = Importance(**{name: whole([getattr(one, name) for one in bounds]) for name in names})  # type: ignore[arg-type]
        return self.update.spread(Targets(**fields, importance=importance))  # type: ignore[arg-type]

    def finish(self, batch: RolloutBatch, targets: Targets) -> torch.Tensor:
        """Exchange the gradients of the ranks and make them those of the final counts.

        Returns:
            The policy loss on this rank, for the Trainer's log.
        """
        args, accelerator = self.trainer.args, self.trainer.accelerator
        if accelerator.num_processes > 1:
            # DDP exchanges what has been added up with the gradient of this one, which is zero.
            weights = loss_weights(args, targets, Counts(*self._stand_in, *self._stand_in))
            dummy = self.update.micro_batch(batch, [])
            self.update.policy_micro_batch(self.model, batch, targets, dummy, weights)
        tokens, responses, *_ = accelerator.reduce(local_counts(targets), reduction="sum").tolist()
        factor = counted_by(args.loss_type, *self._stand_in) / counted_by(args.loss_type, tokens, responses)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        for sums in self._sums:
            self.update.add_policy_sums(sums, factor)
            total += sums.loss.double() * factor
        for name in POLICY_SUMS:
            self.meter.add(name, 0.0, 1 / accelerator.num_processes)
        return total.float()
