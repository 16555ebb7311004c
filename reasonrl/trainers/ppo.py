"""PPO with a critic on a language model: rollouts through TRL's hooks, and an update of our own.

One step: draw a rollout batch, score it, read values, make advantages, train the critic (`critic_steps` disjoint
mini-batches, one pass), then the policy (`actor_steps` mini-batches, `num_iterations` passes). Mini-batches decide the
mathematics; token-budget micro-batches only the memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from reasonrl.errors import ModelError, RewardError
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.models.vision_parts import freeze_parts
from reasonrl.rollout.engine import Request, RolloutEngine, Sample
from reasonrl.rollout.seeds import sample_seed
from reasonrl.rollout.transfer import Transfer, decodes_with, hand_over
from reasonrl.rollout.transformers_engine import TransformersEngine
from reasonrl.trainers._trl import Collected, RolloutHooks, Scored
from reasonrl.trainers.batch import RolloutBatch, make_batch, nothing, rewards_of_tokens
from reasonrl.trainers.checkpoints import require_layout, to_resume
from reasonrl.trainers.completion_rows import completion_rows
from reasonrl.trainers.critic import CriticEngine
from reasonrl.trainers.drawing import Drawing, Order
from reasonrl.trainers.fsdp import name_layers, refuse_other_engines
from reasonrl.trainers.health import Health
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.pool import PromptPool
from reasonrl.trainers.ppo_callbacks import CriticCallback, StepCallback
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.recompute import checkpointing
from reasonrl.trainers.row_prompts import PromptRenderer, RowPrompts
from reasonrl.trainers.run_lengths import RunLengths
from reasonrl.trainers.sampler import PromptStream
from reasonrl.trainers.sampling_watch import SamplingWatch, refuse_dropout
from reasonrl.trainers.schedules import Schedules
from reasonrl.trainers.step_metrics import (
    Behaviours,
    add_behaviours,
    equal_groups,
    seen_in,
    start_measuring,
    step_metrics,
)
from reasonrl.trainers.streaming import EarlyRewards, StreamedStep, check_streaming
from reasonrl.trainers.targets import Targets
from reasonrl.trainers.update import PPOUpdate
from reasonrl.trainers.validation import judge, summarize
from reasonrl.trainers.zero import layout_of

TokenRewardFunction = Callable[..., Sequence[Sequence[float] | None]]


class PPOTrainer(RolloutHooks):
    """Proximal policy optimisation with a critic, or with group or leave-one-out baselines.

    Args:
        model: the policy.
        args: settings.
        train_dataset: rows with `prompt` (messages or text), `id`, and the columns that reward functions read.
        reward_funcs: functions called as TRL calls them; one that carries `token_level = True` gives a list of
            rewards a sample, one per response token.
        critic: the critic; needed with `advantage = "gae"`.
        engine: draws the samples; by default the policy itself decodes through transformers.
        prompt_ids: turns a row's `prompt` into token ids; the one place where a prompt becomes tokens is the caller's.
            Not asked where `processing_class` is a processor, which reads rows with and without pictures.
        eval_dataset: rows for validation during training.
        on_metrics: called with the flat metrics of every step.
        on_completions: called with the step and its samples as rows.
        should_stop: asked after every step; when true the trainer saves and returns.
        on_alarm: called with the text of an alarm when it begins.
        keep_checkpoints: whole checkpoints to keep (the best one is kept besides); None keeps all.
        behaviours: tells of responses which behaviours each shows; their shares stand in the metrics.
        kwargs: passed on to GRPOTrainer.
    """

    def __init__(
        self,
        model: Any,
        args: PPOConfig,
        train_dataset: Any,
        reward_funcs: Sequence[Callable[..., Any]],
        *,
        prompt_ids: PromptRenderer,
        critic: ScalarHeadModel | None = None,
        engine: RolloutEngine | None = None,
        eval_dataset: Any = None,
        on_metrics: Callable[[dict[str, Any]], None] | None = None,
        on_completions: Callable[[int, list[dict[str, Any]]], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_alarm: Callable[[str], None] | None = None,
        keep_checkpoints: int | None = 2,
        behaviours: Behaviours | None = None,
        **kwargs: Any,
    ) -> None:
        if (critic is None) == (args.advantage == "gae"):
            raise ModelError(
                f"ppo: advantage = {args.advantage!r}, critic = {critic is not None} -> 'gae' needs a critic,"
                " the others take none"
            )
        self.prompts = RowPrompts(prompt_ids, kwargs.get("processing_class"))
        self.prompts.check(model, critic, [rows for rows in (train_dataset, eval_dataset) if rows is not None])
        for part, key in ((model, "model"), (critic, "critic_model")):
            if args.freeze and part is not None:
                freeze_parts(part, args.freeze, key=f"{key}: freeze")
        self.token_functions = [f for f in reward_funcs if getattr(f, "token_level", False)]
        self.only_token_rewards = len(self.token_functions) == len(reward_funcs)
        if kwargs.get("peft_config") is not None:
            torch.manual_seed(args.seed)  # of the adapter's start
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            reward_funcs=[f for f in reward_funcs if not getattr(f, "token_level", False)] or [nothing],
            **kwargs,
        )
        self.args: PPOConfig
        refuse_other_engines(self.accelerator)
        self.prompts.complete(self.processing_class)
        self.schedules, self.behaviours = Schedules(args.schedules), behaviours
        self._build(critic, engine)
        self.early = EarlyRewards(reward_funcs)
        self.streamed: StreamedStep | None = None
        if args.train_while_generating:
            check_streaming(self)
        self.pool = PromptPool(self) if args.dynamic_sampling or args.hint_column is not None else None
        self.health = Health(args.stop_on, on_alarm if self.accelerator.is_main_process else None)
        self.step_metrics: dict[str, Any] = {}
        self.resume_path: Path | None = None
        self.keep_checkpoints = keep_checkpoints
        self._on_completions = on_completions
        self.add_callback(StepCallback(self, on_metrics or (lambda metrics: None), should_stop or (lambda: False)))
        self.add_callback(CriticCallback(self))

    def _build(self, critic: ScalarHeadModel | None, engine: RolloutEngine | None) -> None:
        """What draws and what trains, over the prepared policy."""
        args = self.args
        self.critic = CriticEngine(critic, args, self.accelerator) if critic is not None else None
        self.engine = engine or TransformersEngine(
            self.accelerator.unwrap_model(self.model), self.prompts.tokenizer, processor=self.prompts.processor
        )
        if args.max_staleness and self._engine_is_policy():
            raise ModelError(
                f"ppo: max_staleness = {args.max_staleness}, but the engine draws with the policy's own module, which"
                " is trained meanwhile -> an engine with weights of its own: rollout.own_copy=true (transformers),"
                " rollout.engine=servers or vllm"
            )
        if args.max_staleness:
            refuse_dropout(self.engine, (self.model, critic), self.accelerator.device)
        self.lengths = RunLengths(args.length_aware, self.prompts.tokenizer.decode)
        self.drawing = Drawing(self.engine, args.max_staleness, self._arrived)
        self._watch = SamplingWatch(
            self.accelerator.unwrap_model(self.model),
            self.engine,
            args.max_logprob_gap,
            half=args.bf16 or args.fp16,
            corrected=bool(args.max_staleness or args.vllm_importance_sampling_correction),
        )
        self.meter = Meter(self.accelerator)
        self.update = PPOUpdate(
            args,
            self.accelerator,
            self.critic,
            self.forward_logprobs,
            self.meter,
            self.prompts.tokenizer.pad_token_id,
        )
        if self.accelerator.num_processes > 1:
            self.update.anchor = self.prompts.anchor()

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` is a checkpoint folder of this trainer, or True for the latest whole one."""
        self.resume_path = to_resume(Path(str(self.args.output_dir)), resume_from_checkpoint)
        if self.resume_path is not None:
            require_layout(self.resume_path, **layout_of(self.accelerator))
        name_layers(self.accelerator, self.model)
        try:
            return super().train(resume_from_checkpoint=str(self.resume_path) if self.resume_path else None, **kwargs)
        finally:
            self.drawing.close()
            self.early.close()

    def training_step(
        self, model: torch.nn.Module, inputs: list[dict[str, Any]], num_items_in_batch: Any = None
    ) -> Any:
        """One rollout batch and its updates; the last optimizer step of the policy is left to the Trainer."""
        del num_items_in_batch
        model.train()
        started = time.perf_counter()
        self.meter.clear()
        self.schedules.apply(self)
        start_measuring()
        self.update.choose_rows(model, self.ref_model, self.prompts.tokenizer)
        with self.meter.timed("time/generate"):
            self.drawing.wait()
            self._transfer = self._hand_over()
            if self.args.max_staleness:
                self.drawing.ahead(self.order, self.state.global_step, self.state.max_steps, inputs)
        trains_policy = self.critic is None or self.state.global_step >= self.args.critic_warmup_steps
        if self.args.train_while_generating:
            self.streamed = StreamedStep(self, model, inputs, trains_policy)
        if self.pool is not None:
            inputs = self.pool.fill(self.state.global_step)
        idle = self.pool is not None and not self.pool.kept
        trains_policy = trains_policy and not idle
        collected = self.collect(inputs)
        batch = make_batch(
            collected,
            self.reward_weights,
            requires_stop=self.args.reward_requires_stop,
            images=self.prompts.features(collected.rows, collected.samples),
        )
        if self.pool is not None:
            self.pool.leave_out(batch)
        if self.streamed is not None:
            targets = self.streamed.targets(batch)
            self._refuse_unscored(batch)
        else:
            token_rewards = self.token_rewards(collected.rows, collected.samples, batch)
            self._refuse_unscored(batch)
            with self.meter.timed("time/values"):
                ref_logprobs = self._reference_logprobs(model, batch)
                targets = self.update.targets(model, batch, ref_logprobs, token_rewards)
        if self.critic is not None and not idle:
            with self.meter.timed("time/critic"):
                self.update.train_critic(batch, targets, self.state.global_step)
        loss = torch.zeros((), device=self.accelerator.device)
        if trains_policy:
            with self.meter.timed("time/actor"):
                if self.streamed is not None:
                    loss = self.streamed.finish(batch, targets)
                else:
                    loss = self.update.train_policy(model, self.optimizer, batch, targets, self.state.global_step)
        self.streamed = None
        self.meter.times["time/reward"] = collected.reward_seconds
        self._record(collected, batch, targets, time.perf_counter() - started)
        if self.critic is not None:
            self.critic.end_step()
        self.prompts.end_step()
        return loss

    def draw_samples(self, rows: Sequence[dict[str, Any]]) -> list[Sample]:
        """One sample per row; its seed comes from (seed, stage, step, prompt id, place in the global batch)."""
        if self.pool is not None:
            return self.pool.samples()
        step = self.state.global_step
        with self.meter.timed("time/generate"), self.for_inference():
            if not self.drawing.holds(step):
                self.drawing.draw(self.order(step, rows))
            drawn = self.drawing.take(step, rows)
        if self.streamed is not None:
            self.meter.times["time/generate"] -= self.streamed.work_seconds
        if drawn.seconds is not None:
            self.meter.times["time/generate_ahead"] = drawn.seconds
        return drawn.samples

    def draw_rows(self, step: int, rows: Sequence[dict[str, Any]], places: Sequence[int]) -> list[Sample]:
        """One sample a row, here and now; `places` are theirs among all samples of the step."""
        with self.meter.timed("time/generate"), self.for_inference():
            self.drawing.draw(self.order_of(step, rows, places))
            return self.drawing.take(step, rows).samples

    def order(self, step: int, rows: Sequence[dict[str, Any]] | None = None) -> Order:
        """What this rank draws for a step; without rows, for those that the prompt stream will give it."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        if rows is None:
            places = self.prompt_stream(len(self.train_dataset)).batch(step)
            share = len(places) // ranks
            rows = [self.train_dataset[place] for place in places[rank * share : (rank + 1) * share]]
        return self.order_of(step, rows, range(rank * len(rows), (rank + 1) * len(rows)))

    def order_of(self, step: int, rows: Sequence[dict[str, Any]], places: Sequence[int]) -> Order:
        """What to draw for these rows; their places among all samples of the step are part of the seeds."""
        names = (self.args.seed, self.args.stage_name, step)
        requests = [
            Request(str(turn), prompt.ids, sample_seed(*names, str(row["id"]), place), images=prompt.images)
            for turn, (row, prompt, place) in enumerate(zip(rows, self.prompts.render(rows), places, strict=True))
        ]
        requests = self.lengths.expect(requests, rows)
        return Order(step, rows, requests, self.schedules.sampling(self, step))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Draw `num_generations_eval` samples of every validation row and report accuracy with its 95 % interval."""
        del args, kwargs
        started = time.perf_counter()
        self.drawing.wait()
        self._hand_over()
        samples_per_row = self.args.num_generations_eval or 1
        rows = [row for row in self.eval_dataset for _ in range(samples_per_row)]
        # Every rank takes an equal share; the last one fills up with its last row, which counts once all the same.
        share = -(-len(rows) // self.accelerator.num_processes)
        first = share * self.accelerator.process_index
        places = [min(place, len(rows) - 1) for place in range(first, first + share)]
        judged = dict(sorted(gather_object(judge(self, [(place, rows[place]) for place in places]))))
        metrics = summarize(list(judged.values()), samples_per_row, requires_stop=self.args.reward_requires_stop)
        metrics["eval_time"] = time.perf_counter() - started
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _arrived(self, order: Order, sample: Sample) -> None:
        self.early.begin(order.rows[int(sample.request.id)], sample)
        if self.streamed is not None:
            self.streamed.arrived(sample)

    def begin_rewards(self, samples: Iterator[Sample], rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
        """Pass samples on, and let the rewards that can begin with each as it comes."""
        for sample in samples:
            self.early.begin(rows[int(sample.request.id)], sample)
            yield sample

    def prompt_stream(self, rows: int) -> PromptStream:
        """Which of so many rows each step trains on; any step's can be asked for."""
        return self.schedules.stream(self, rows)

    # The prompt stream replaces TRL's sampler: its shuffles restart at every resumed epoch.
    def _get_train_sampler(self, dataset: Any = None) -> PromptStream:
        return self.prompt_stream(len(dataset if dataset is not None else self.train_dataset))

    def _hand_over(self) -> Transfer:
        return hand_over(self.engine, self.accelerator.unwrap_model(self.model), self.state.global_step)

    def _engine_is_policy(self) -> bool:
        return decodes_with(self.engine, self.accelerator.unwrap_model(self.model))

    @contextlib.contextmanager
    def for_inference(self) -> Iterator[None]:
        """The policy ready to decode, where the engine draws with it; recomputation can keep no key-value cache."""
        gathered = self.gathered(self.model_wrapped) if self._engine_is_policy() else contextlib.nullcontext()
        with checkpointing(self.accelerator.unwrap_model(self.model), self.args, on=False), gathered:
            yield

    def _reference_logprobs(self, model: torch.nn.Module, batch: RolloutBatch) -> torch.Tensor | None:
        if self.args.beta == 0.0:
            return None
        with self.reference(model) as reference:
            return self.update.logprobs(reference, batch)

    def token_rewards(
        self, rows: Sequence[dict[str, Any]], samples: Sequence[Sample], batch: RolloutBatch
    ) -> torch.Tensor | None:
        """(B, T) rewards of single tokens, added up over their functions; None where there is no such function."""
        if not self.token_functions:
            return None
        total = rewards_of_tokens(self.token_functions, rows, samples, batch, self.meter)
        self.meter.add("token_reward", total.sum(), len(rows))
        return total

    def rewards_so_far(self) -> Scored | None:
        """What was scored before the batch was collected: while it was drawn, or to choose it."""
        if self.pool is not None:
            return self.pool.scored()
        return self.streamed.close() if self.streamed is not None else None

    def _refuse_unscored(self, batch: RolloutBatch) -> None:
        scored = (~batch.scores.isnan()).sum().unsqueeze(0)
        if int(self.accelerator.gather(scored).sum()) == 0:
            raise RewardError(
                f"step {self.state.global_step + 1}: none of the {self.args.rollout_size} responses could be scored"
                " -> the rewards returned None for all of them; look at the verdicts in the completions"
            )

    def _record(self, collected: Collected, batch: RolloutBatch, targets: Targets, seconds: float) -> None:
        add_behaviours(self.meter, collected.samples, self.behaviours)
        seen = self.pool.seen() if self.pool is not None else seen_in(collected, batch)
        metrics = step_metrics(seen, batch, targets, self.meter, self.accelerator, self.state.global_step, seconds)
        args = self.args
        groups = (seen, args.num_generations, args.positive_above)
        metrics |= self.pool.metrics() if self.pool is not None else equal_groups(*groups)
        if self.critic is not None:
            metrics["critic_learning_rate"] = self.critic.learning_rate
        metrics |= self._transfer.metrics
        metrics |= self.lengths.observe(seen.rows, seen.samples)
        metrics |= self.schedules.observe(self, metrics)
        if (health := getattr(self.engine, "metrics", None)) is not None:
            metrics |= health() if self.drawing.figures is None else health(self.drawing.figures)
        self._watch.check(metrics, self.state.global_step + 1)
        self.step_metrics = metrics
        self._hand_out_completions(collected, batch, targets)

    def _hand_out_completions(self, collected: Collected, batch: RolloutBatch, targets: Targets) -> None:
        if self._on_completions is None:
            return
        counts = targets.mask.sum(dim=1).clamp(min=1)
        advantages = ((targets.advantages * targets.mask).sum(dim=1) / counts).tolist()
        decode = self.prompts.decode
        rows = completion_rows(self.state.global_step + 1, collected, batch.scores.tolist(), advantages, decode)
        everyone = gather_object(rows if self.pool is None else self.pool.completions(self.state.global_step + 1, rows))
        if self.accelerator.is_main_process:
            self._on_completions(self.state.global_step + 1, everyone)
