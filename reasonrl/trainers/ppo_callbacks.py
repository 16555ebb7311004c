"""What happens between steps, through the Trainer's public callbacks: metrics lines, stopping, and what a checkpoint
holds of ours: the critic, and samples drawn ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from reasonrl.trainers.checkpoints import mark_complete, prune
from reasonrl.trainers.drawn_files import write_held
from reasonrl.trainers.health import finite_gradient
from reasonrl.trainers.zero import layout_of

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer
    from reasonrl.trainers.ppo_config import PPOConfig

CRITIC_FOLDER = "critic"
_log = logging.getLogger(__name__)


class StepCallback(TrainerCallback):
    """Hands out one flat line of metrics a step, before the step's checkpoint; stops the run when asked to."""

    def __init__(
        self, trainer: PPOTrainer, on_metrics: Callable[[dict[str, Any]], None], should_stop: Callable[[], bool]
    ) -> None:
        self.trainer, self.on_metrics, self.should_stop = trainer, on_metrics, should_stop
        self.line: dict[str, Any] | None = None

    def on_pre_optimizer_step(
        self, args: PPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer steps with whatever stands there: one NaN would make all weights NaN. Without gradients its step
        # does nothing.
        if not finite_gradient(self.trainer.model.parameters()):
            self.trainer.update.skipped_updates += 1
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def on_step_end(self, args: PPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log = True
        if self.should_stop():
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self,
        args: PPOConfig,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        self.line = {"step": state.global_step, **self.trainer.step_metrics}
        self.line["learning_rate"] = self.trainer.schedules.rate(state.global_step - 1, logs.get("learning_rate"), args)
        # Left out while only the critic trains: the policy then has no gradient at all.
        if self.line.get("policy_loss") is not None and logs.get("grad_norm") is not None:
            self.line["grad_norm"] = float(logs["grad_norm"])
        self.line |= _skipped(self.trainer)
        self.trainer.health.look(self.line)
        if not control.should_evaluate or self.trainer.health.ends:
            self._flush(state)
        self.trainer.health.refuse(state.global_step)

    def on_evaluate(
        self,
        args: PPOConfig,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if args.load_best_model_at_end:
            # The best step can only be handed on if it was saved.
            control.should_save = True
        if self.line is not None:
            names = {name: "eval/" + name.removeprefix("eval_") for name in metrics or {} if name.startswith("eval_")}
            self.line.update({new: (metrics or {})[old] for old, new in names.items() if old != "eval_time"})
            self.line["time/eval"] = (metrics or {}).get("eval_time", 0.0)
            self._flush(state)

    def _flush(self, state: TrainerState) -> None:
        line, self.line = self.line, None
        if line is not None and state.is_world_process_zero:
            self.on_metrics({name: value for name, value in line.items() if value is not None})


def _skipped(trainer: PPOTrainer) -> dict[str, int]:
    """Optimizer steps of this step that were not made, as their gradients were no finite numbers."""
    counts = {}
    for name, owner in (("skipped_updates", trainer.update), ("skipped_critic_updates", trainer.critic)):
        if owner is not None and owner.skipped_updates:
            counts[name], owner.skipped_updates = owner.skipped_updates, 0
    return counts


class CriticCallback(TrainerCallback):
    """Builds the critic's schedule, saves critic and samples drawn ahead with every checkpoint, loads them on resume,
    and marks checkpoints whole.
    """

    def __init__(self, trainer: PPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: PPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        path = self.trainer.resume_path
        if path is not None:
            self.trainer.lengths.restore(path)
            self.trainer.schedules.restore(path)
            self.trainer.health.restore(path)
            if self.trainer.pool is not None:
                self.trainer.pool.restore(path, state.global_step)
        if self.trainer.critic is not None:
            self.trainer.critic.start(state.max_steps)
            if path is not None:
                self.trainer.critic.load(path / CRITIC_FOLDER)
        if path is not None and args.max_staleness:
            ranks = self.trainer.accelerator.process_index, self.trainer.accelerator.num_processes
            self.trainer.drawing.restore(path, *ranks, self.trainer.order(state.global_step))

    def on_save(self, args: PPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        accelerator = self.trainer.accelerator
        output = Path(str(args.output_dir))
        checkpoint = output / f"checkpoint-{state.global_step}"
        accelerator.wait_for_everyone()
        if args.max_staleness:
            stopping = control.should_training_stop and state.global_step < state.max_steps
            ranks = accelerator.process_index, accelerator.num_processes
            self.trainer.drawing.save(checkpoint, *ranks, stopping=stopping)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process and not write_held(checkpoint, self.trainer.engine):
                _log.warning(
                    "ppo: the drawing of step %d was ended early, and this engine cannot give the weights that drew: a"
                    " resumed run draws its samples by the weights of the checkpoint",
                    state.global_step + 1,
                )
        if self.trainer.critic is not None:
            self.trainer.critic.save(checkpoint / CRITIC_FOLDER)
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.trainer.lengths.save(checkpoint)
            self.trainer.schedules.save(checkpoint)
            self.trainer.health.save(checkpoint)
            if self.trainer.pool is not None:
                self.trainer.pool.save(checkpoint)
            mark_complete(checkpoint, state.global_step, **layout_of(accelerator))
            best = state.best_model_checkpoint
            prune(output, keep_last=self.trainer.keep_checkpoints, keep={Path(best)} if best else set())
        accelerator.wait_for_everyone()
