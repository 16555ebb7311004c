"""Training on rows that lie there: order, steps, lines, checkpoints, resuming; what the loss is, subclasses say.

A step is so many rows, however they are split into micro-batches and over processes.
"""

from __future__ import annotations

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator

from reasonrl.trainers.checkpoints import mark_complete, prune, require_layout
from reasonrl.trainers.engine import ModelEngine
from reasonrl.trainers.zero import layout_of


@dataclass(frozen=True)
class OfflineConfig(ABC):
    """Settings of the training; names are transformers' where they exist.

    Attributes:
        num_train_epochs: passes over the rows; `max_steps` rules where it is given.
        warmup_steps: of the schedule.
        seed: of the order and of dropout.
        tokens_per_microbatch: tokens that go through the model at once; changes memory, not the result.
        padding_free: set sequences end to end in rows, where the model can read those.
    """

    learning_rate: float = 1e-6
    num_train_epochs: float = 1.0
    max_steps: int | None = None
    lr_scheduler_type: str = "constant_with_warmup"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    bf16: bool = False
    seed: int = 0
    tokens_per_microbatch: int = 16384
    padding_free: bool = True
    logging_steps: int = 10
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int = 2

    @property
    @abstractmethod
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all processes."""

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As transformers' arguments have it."""
        return self.warmup_steps

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of the whole training."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(math.floor(self.num_train_epochs * rows) / self.rows_per_step))


Config = TypeVar("Config", bound=OfflineConfig)
Engine = TypeVar("Engine", bound=ModelEngine)


class OfflineTrainer(ABC, Generic[Config, Engine]):
    """Trains a model on rows.

    Args:
        engine: the model with its optimizer.
        tokenizer: saved with checkpoints.
        config: the settings.
        lengths: tokens of every row.
        accelerator: plain, over several processes, or with DeepSpeed.
        output: where checkpoints go; None writes none.
        on_metrics: takes a line every `logging_steps`.
        evaluate: makes figures of the model as it is, every `eval_steps` and after the last one; on all processes.
        should_stop: asked after every step, on all processes.

    Attributes:
        step: optimizer steps made.
        interrupted: whether `should_stop` ended the training.
    """

    #: Folder of model and optimizer within a checkpoint.
    folder: str

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        config: Config,
        lengths: Sequence[int],
        *,
        accelerator: Accelerator,
        output: Path | None = None,
        on_metrics: Callable[[dict[str, Any]], None] = lambda line: None,
        evaluate: Callable[[Any], dict[str, Any]] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine, self.tokenizer, self.config, self.lengths = engine, tokenizer, config, lengths
        self.accelerator, self.output = accelerator, output
        self.total = config.total_steps(len(lengths))
        self.engine.start(self.total)
        self.on_metrics, self.evaluate, self.should_stop = on_metrics, evaluate, should_stop
        self.step = 0
        self.tokens = 0
        self.interrupted = False
        self._since, self._logged = time.perf_counter(), 0

    @property
    def model(self) -> Any:
        """The model without what wraps it."""
        return self.engine.unwrapped

    @abstractmethod
    def one_step(self, rows: Sequence[int]) -> float:
        """Gradient over all micro-batches of a step, and the optimizer's step; the gradient's norm."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """What a line says of the steps since the last one; on all processes."""

    def order(self, step: int) -> list[int]:
        """The rows of a step, the first being 0: the same on every process and after every resume."""
        size, count = self.config.rows_per_step, len(self.lengths)
        end = (step + 1) * size
        if self.config.max_steps is None:
            end = min(end, max(1, math.floor(self.config.num_train_epochs * count)))
        chosen: list[int] = []
        for place in range(step * size, end):
            epoch, within = divmod(place, count)
            chosen.append(self._shuffled(epoch)[within])
        return chosen

    def train(self, resume_from: Path | None = None) -> int:
        """Train to the end, or until asked to stop; returns the steps made in all."""
        if resume_from is not None:
            require_layout(resume_from, **layout_of(self.accelerator))
            self.engine.load(resume_from / self.folder)
            self.step = int(resume_from.name.removeprefix("checkpoint-"))
            self.tokens = sum(self._length(self.order(step)) for step in range(self.step))
        self.engine.model.train()
        self._since, self._logged = time.perf_counter(), self.step
        while self.step < self.total:
            rows = self.order(self.step)
            # Dropout is drawn anew for each step, so that a resumed run draws what an unbroken one does.
            world, rank = self.accelerator.num_processes, self.accelerator.process_index
            torch.manual_seed((self.config.seed * 1_000_003 + self.step) * world + rank)
            norm = self.one_step(rows)
            self.engine.end_step()
            self.tokens += self._length(rows)
            self.step += 1
            self.interrupted = self.should_stop() and self.step < self.total
            self._after(norm)
            if self.interrupted:
                break
        return self.step

    def share_of(self, rows: Sequence[int]) -> list[list[int]]:
        """Each process's part of a step: the longest row goes to whom has the fewest tokens so far."""
        shares: list[list[int]] = [[] for _ in range(self.accelerator.num_processes)]
        load = [0] * len(shares)
        for row in sorted(rows, key=lambda i: (-self.lengths[i], i)):
            least = load.index(min(load))
            shares[least].append(row)
            load[least] += self.lengths[row]
        return shares

    def _after(self, norm: float) -> None:
        config, last = self.config, self.step == self.total
        validate = self.evaluate is not None and (
            last or (config.eval_steps is not None and self.step % config.eval_steps == 0)
        )
        save = self.output is not None and (
            last or self.interrupted or (config.save_steps is not None and self.step % config.save_steps == 0)
        )
        # A line at every checkpoint: those of a resumed run are then the ones of an unbroken one.
        if last or save or validate or self.step % config.logging_steps == 0:
            line = self._line(norm)
            if validate and self.evaluate is not None:
                self.engine.model.eval()
                line |= {f"eval/{name}": value for name, value in self.evaluate(self.model).items()}
                self.engine.model.train()
            if self.accelerator.is_main_process:
                self.on_metrics(line)
        if save:
            self._save()

    def _line(self, norm: float) -> dict[str, Any]:
        now = time.perf_counter()
        seconds = (now - self._since) / max(1, self.step - self._logged)
        self._since, self._logged = now, self.step
        size = self.config.rows_per_step
        line = {
            "step": self.step,
            **self.figures(),
            "grad_norm": norm,
            "learning_rate": self.engine.learning_rate,
            "epoch": min(self.step * size, self.total * size) / len(self.lengths),
            "num_tokens": self.tokens,
            "time/step": seconds,
        }
        if self.engine.skipped_updates:
            line["skipped_updates"] = self.engine.skipped_updates
        return line

    def _save(self) -> None:
        assert self.output is not None
        folder = self.output / f"checkpoint-{self.step}"
        self.engine.save(folder / self.folder)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.tokenizer.save_pretrained(folder / self.folder)
            mark_complete(folder, self.step, **layout_of(self.accelerator))
            prune(self.output, keep_last=self.config.save_total_limit, keep=set())
        self.accelerator.wait_for_everyone()

    def _length(self, rows: Sequence[int]) -> int:
        return sum(self.lengths[row] for row in rows)

    def _shuffled(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            order = list(range(len(self.lengths)))
            random.Random(f"{self.config.seed}/{epoch}").shuffle(order)
            self._epoch, self._order = epoch, order
        return self._order
