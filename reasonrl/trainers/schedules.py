"""Values of a run that change at given steps or when a figure stops rising: applied, reported, kept in checkpoints."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import SamplingParams
from reasonrl.trainers.sampler import MixedStream, PromptStream

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer
    from reasonrl.trainers.ppo_config import PPOConfig

FILE = "schedules.json"


class Scheduled:
    """One value.

    Args:
        given: `values`, and `at` (with `between`) or `plateau`, as `reasonrl.recipe.schedules.Schedule` has them.

    Attributes:
        switches: steps made when each value but the first began to hold.
        history: the watched figure since the last of them.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.values = [float(value) for value in given["values"]]
        self.at = list(given["at"]) if given.get("at") is not None else None
        self.linear = given.get("between") == "linear"
        self.plateau: Mapping[str, Any] | None = given.get("plateau")
        self.switches: list[int] = []
        self.history: list[float] = []

    def at_step(self, step: int) -> float:
        """The value of the step that comes after so many."""
        if self.at is None:
            return self.values[min(bisect.bisect_right(self.switches, step), len(self.values) - 1)]
        if not self.linear:
            return self.values[bisect.bisect_right(self.at, step)]
        place = bisect.bisect_right(self.at, step)
        if place in (0, len(self.at)):
            return self.values[min(place, len(self.values) - 1)]
        before, after = self.at[place - 1], self.at[place]
        share = (step - before) / (after - before)
        return self.values[place - 1] + share * (self.values[place] - self.values[place - 1])

    def observe(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Look at a step's figures; `step` steps were made before it. A change holds from the next step on.

        Raises:
            ModelError: the figure that is watched is not there.
        """
        if self.plateau is None or len(self.switches) >= len(self.values) - 1:
            return
        name, window = self.plateau["metric"], int(self.plateau["window"])
        if name not in metrics:
            known = ", ".join(sorted(metrics))
            raise ModelError(f"ppo: schedules: there is no figure {name!r} -> plateau.metric is one of {known}")
        self.history = [*self.history, float(metrics[name])][-2 * window :]
        if len(self.history) < 2 * window:
            return
        earlier, later = sum(self.history[:window]), sum(self.history[window:])
        if later <= (1 + float(self.plateau["rise"])) * earlier:
            self.switches.append(step + 1)
            self.history = []


class Schedules:
    """All schedules of a run.

    Args:
        given: by name, as `reasonrl.recipe.schedules.Schedules` has them; None: none.
    """

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        held = {name: value for name, value in (given or {}).items() if value is not None}
        self.mix: Mapping[str, Any] | None = held.pop("data", None)
        self.scheduled = {name: Scheduled(value) for name, value in held.items()}
        self._stream: MixedStream | None = None

    def of(self, name: str, step: int, otherwise: float) -> float:
        """The value of a name in the step after so many, or what holds where it has no schedule."""
        found = self.scheduled.get(name)
        return otherwise if found is None else found.at_step(step)

    def sampling(self, trainer: PPOTrainer, step: int) -> SamplingParams:
        """How the samples of a step are drawn."""
        args = trainer.args
        length = int(self.of("max_completion_length", step, args.max_completion_length or 0))
        temperature = self.of("temperature", step, args.temperature)
        return SamplingParams(length, temperature, args.top_p, tuple(args.stop_strings))

    def apply(self, trainer: PPOTrainer) -> None:
        """Put the values of the coming step in place; called when it begins."""
        step, args = trainer.state.global_step, trainer.args
        params = self.sampling(trainer, step)
        trainer.max_completion_length, trainer.temperature = params.max_tokens, params.temperature
        trainer.logprob_reader.temperature = params.temperature
        # What the scheduler says is kept there; a group's own rate is only what the coming steps take.
        if "learning_rate" in self.scheduled and trainer.lr_scheduler is not None:
            rates = trainer.lr_scheduler.get_last_lr()
            _scale(trainer.optimizer, rates, self.of("learning_rate", step, 1.0) / args.learning_rate)
        critic = trainer.critic
        if "critic_learning_rate" in self.scheduled and critic is not None:
            factor = self.of("critic_learning_rate", step, 1.0) / args.critic_learning_rate
            _scale(critic.optimizer, critic.scheduler.get_last_lr(), factor)

    def rate(self, step: int, scheduled: float | None, args: PPOConfig) -> float | None:
        """The policy's learning rate of a step, of what the Trainer's scheduler says."""
        if scheduled is None or "learning_rate" not in self.scheduled:
            return scheduled
        return scheduled * self.of("learning_rate", step, 1.0) / args.learning_rate

    def stream(self, trainer: PPOTrainer, rows: int) -> PromptStream:
        """Which rows each step trains on."""
        args = trainer.args
        settings: dict[str, Any] = {
            "prompts_per_step": args.prompts_per_step,
            "num_generations": args.num_generations,
            "steps": args.max_steps,
            "seed": args.seed,
            "shuffle": args.shuffle_dataset is not False,
        }
        if self.mix is None:
            return PromptStream(rows, **settings)
        if self._stream is None:
            column = self.mix["column"]
            if column not in trainer.train_dataset.column_names:
                there = ", ".join(trainer.train_dataset.column_names)
                raise ModelError(f"ppo: schedules.data: rows have no column {column!r} -> one of {there}")
            labels = [str(label) for label in trainer.train_dataset[column]]
            self._stream = MixedStream(labels, self.mix["weights"], self.mix["at"], **settings)
        return self._stream

    def observe(self, trainer: PPOTrainer, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Look at a step's figures, and say what held in it."""
        step = trainer.state.global_step
        told = {f"schedule/{name}": one.at_step(step) for name, one in self.scheduled.items()}
        if self.mix is not None:
            stream = self.stream(trainer, 0)
            shares = stream.shares(step) if isinstance(stream, MixedStream) else {}
            told |= {f"schedule/mix_{name}": share for name, share in shares.items()}
        for one in self.scheduled.values():
            one.observe(step, metrics)
        return told

    def save(self, checkpoint: Path) -> None:
        """Write what the past has decided into a checkpoint."""
        if any(one.plateau is not None for one in self.scheduled.values()):
            state = {name: [one.switches, one.history] for name, one in self.scheduled.items()}
            (checkpoint / FILE).write_text(json.dumps(state))

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        if (checkpoint / FILE).is_file():
            state: dict[str, Sequence[Any]] = json.loads((checkpoint / FILE).read_text())
            for name, (switches, history) in state.items():
                if name in self.scheduled:
                    self.scheduled[name].switches, self.scheduled[name].history = list(switches), list(history)


def _scale(optimizer: Any, rates: Sequence[float], factor: float) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
