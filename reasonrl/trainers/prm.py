"""Training of process reward models: binary cross-entropy at the last token of every labelled step.

A step of training is `solutions_per_step` solutions, however they are split into micro-batches and over processes: its
loss is the mean over their labelled steps, -mean(y log p + (1 - y) log(1 - p)) (arXiv:2505.14391, Eq. 1 with its sign
and names put right), y in [0, 1], so soft labels too.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from reasonrl.algorithms.batching import pad_plans, plan_microbatches, plan_packed_rows
from reasonrl.errors import DataError
from reasonrl.prm.encoding import Encoded, step_logits
from reasonrl.prm.scoring import packing_obstacle
from reasonrl.trainers.checkpoints import mark_complete, prune, require_layout
from reasonrl.trainers.critic import CriticEngine
from reasonrl.trainers.zero import layout_of

if TYPE_CHECKING:
    from reasonrl.models.scalar_head import ScalarHeadModel

HEAD_FOLDER = "prm"


@dataclass(frozen=True)
class Example:
    """A solution to train on.

    Attributes:
        encoded: its tokens.
        targets: of every step: its label, a probability in [0, 1], or None where it is not trained on.
    """

    encoded: Encoded
    targets: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.encoded.ends):
            raise DataError(f"prm: {len(self.targets)} labels for {len(self.encoded.ends)} steps -> one for each")

    @property
    def trained(self) -> list[float | None]:
        """[S] targets of the steps that were not cut off."""
        return [y for y, end in zip(self.targets, self.encoded.ends, strict=True) if end is not None]

    @property
    def labelled(self) -> int:
        """Steps that count in the loss."""
        return sum(y is not None for y in self.trained)


@dataclass(frozen=True)
class PRMConfig:
    """Settings of the training; names are transformers' where they exist.

    Attributes:
        solutions_per_step: solutions of one optimizer step, over all processes.
        num_train_epochs: passes over the examples; `max_steps` rules where it is given.
        warmup_steps: of the schedule.
        seed: of the order and of dropout.
        tokens_per_microbatch: tokens that go through the model at once; changes memory, not the result.
        padding_free: set solutions end to end in rows, where the model can read those.
    """

    solutions_per_step: int = 256
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
    def critic_learning_rate(self) -> float:
        """The rate, under the name that the engine knows."""
        return self.learning_rate

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As transformers' arguments have it."""
        return self.warmup_steps

    def total_steps(self, examples: int) -> int:
        """Optimizer steps of the whole training."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(math.floor(self.num_train_epochs * examples) / self.solutions_per_step))


def step_loss(logits: torch.Tensor, targets: Sequence[float | None]) -> torch.Tensor:
    """Sum over labelled steps of the binary cross-entropy (nats).

    Args:
        logits: (S,) what the model reads at step ends.
        targets: [S] in [0, 1], None where a step is not trained on.
    """
    known = [index for index, target in enumerate(targets) if target is not None]
    chosen = logits[torch.tensor(known, dtype=torch.long, device=logits.device)]
    wanted = torch.tensor([target for target in targets if target is not None]).to(chosen)
    return nn.functional.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum")


class PRMTrainer:
    """Trains a scalar-head model on labelled solutions.

    Args:
        model: its head has one output.
        tokenizer: saved with checkpoints.
        config: the settings.
        examples: what to train on; those without a labelled step are left out.
        accelerator: plain, over several processes, or with DeepSpeed.
        output: where checkpoints go; None writes none.
        on_metrics: takes a line every `logging_steps`.
        evaluate: makes figures of the model as it is, every `eval_steps` and after the last one; on all processes.
        should_stop: asked after every step, on all processes.

    Attributes:
        step: optimizer steps made.
        packed: whether rows are packed.
        interrupted: whether `should_stop` ended the training.
    """

    def __init__(
        self,
        model: ScalarHeadModel,
        tokenizer: Any,
        config: PRMConfig,
        examples: Sequence[Example],
        *,
        accelerator: Accelerator | None = None,
        output: Path | None = None,
        on_metrics: Callable[[dict[str, Any]], None] = lambda line: None,
        evaluate: Callable[[ScalarHeadModel], dict[str, Any]] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.examples = [example for example in examples if example.labelled]
        if not self.examples:
            raise DataError(f"prm: none of {len(examples)} solutions has a labelled step within max_length -> raise it")
        self.config, self.tokenizer, self.output = config, tokenizer, output
        self.accelerator = accelerator or Accelerator(mixed_precision="bf16" if config.bf16 else "no")
        model.to(self.accelerator.device)
        self.packed = config.padding_free and packing_obstacle(model, tokenizer, half=config.bf16) is None
        self.engine = CriticEngine(model, config, self.accelerator)
        self.total = config.total_steps(len(self.examples))
        self.engine.start(self.total)
        self.on_metrics, self.evaluate, self.should_stop = on_metrics, evaluate, should_stop
        self.step = 0
        self.tokens = 0
        self.interrupted = False
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._since, self._logged = time.perf_counter(), 0

    @property
    def model(self) -> ScalarHeadModel:
        """The model without what wraps it."""
        return self.engine.unwrapped

    def order(self, step: int) -> list[int]:
        """The examples of a step, the first being 0: the same on every process and after every resume."""
        size, count = self.config.solutions_per_step, len(self.examples)
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
            self.engine.load(resume_from / HEAD_FOLDER)
            self.step = int(resume_from.name.removeprefix("checkpoint-"))
            self.tokens = sum(self._length(self.order(step)) for step in range(self.step))
        self.engine.model.train()
        self._since, self._logged = time.perf_counter(), self.step
        while self.step < self.total:
            norm = self._one_step(self.order(self.step))
            self.step += 1
            self.interrupted = self.should_stop() and self.step < self.total
            self._after(norm)
            if self.interrupted:
                break
        return self.step

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

    def _one_step(self, rows: Sequence[int]) -> float:
        """Gradient over all micro-batches of a step, and the optimizer's step; the gradient's norm."""
        accelerator, world = self.accelerator, self.accelerator.num_processes
        # Dropout is drawn anew for each step, so that a resumed run draws what an unbroken one does.
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * world + accelerator.process_index)
        labelled = sum(self.examples[row].labelled for row in rows)
        shares = [self._plan(share) for share in _shares(rows, [len(e.encoded) for e in self.examples], world)]
        plan = pad_plans(shares[accelerator.process_index], max(map(len, shares)))
        sums = torch.zeros(3, dtype=torch.float64)
        for number, group in enumerate(plan):
            chosen = [self.examples[row] for row in group] or [min(self.examples, key=lambda e: len(e.encoded))]
            targets = [target for example in chosen for target in example.trained]
            with self.engine.accumulate(number == len(plan) - 1):
                logits = step_logits(
                    self.engine.values,
                    [example.encoded for example in chosen],
                    accelerator.device,
                    packed=self.packed,
                    pad_token_id=self._pad,
                )
                loss = step_loss(logits, targets) if group else 0.0 * logits.sum()
                # Processes' gradients are averaged, and the loss is a mean over the steps of all of them.
                self.engine.backward(loss * world / labelled)
            if group:
                sums += _sums(loss, logits, targets)
        norm = self.engine.step()
        self.engine.end_step()
        self._sums += sums
        self.tokens += self._length(rows)
        return norm

    def _line(self, norm: float) -> dict[str, Any]:
        sums = self.accelerator.reduce(self._sums.to(self.accelerator.device, torch.float32), reduction="sum").tolist()
        self._sums.zero_()
        now = time.perf_counter()
        seconds = (now - self._since) / max(1, self.step - self._logged)
        self._since, self._logged = now, self.step
        loss, hits, labelled = sums
        seen = self.step * self.config.solutions_per_step
        line = {
            "step": self.step,
            "loss": loss / max(1.0, labelled),
            "accuracy": hits / max(1.0, labelled),
            "labelled_steps": int(labelled),
            "grad_norm": norm,
            "learning_rate": self.engine.learning_rate,
            "epoch": min(seen, self.total * self.config.solutions_per_step) / len(self.examples),
            "num_tokens": self.tokens,
            "time/step": seconds,
        }
        if self.engine.skipped_updates:
            line["skipped_updates"] = self.engine.skipped_updates
        return line

    def _save(self) -> None:
        assert self.output is not None
        folder = self.output / f"checkpoint-{self.step}"
        self.engine.save(folder / HEAD_FOLDER)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.tokenizer.save_pretrained(folder / HEAD_FOLDER)
            mark_complete(folder, self.step, **layout_of(self.accelerator))
            prune(self.output, keep_last=self.config.save_total_limit, keep=set())
        self.accelerator.wait_for_everyone()

    def _plan(self, rows: Sequence[int]) -> list[list[int]]:
        lengths = [len(example.encoded) for example in self.examples]
        planner = plan_packed_rows if self.packed else plan_microbatches
        return planner(rows, lengths, self.config.tokens_per_microbatch)

    def _length(self, rows: Sequence[int]) -> int:
        return sum(len(self.examples[row].encoded) for row in rows)

    @property
    def _pad(self) -> int:
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        return int(tokenizer.pad_token_id or 0)

    def _shuffled(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            order = list(range(len(self.examples)))
            random.Random(f"{self.config.seed}/{epoch}").shuffle(order)
            self._epoch, self._order = epoch, order
        return self._order


def _shares(rows: Sequence[int], lengths: Sequence[int], world: int) -> list[list[int]]:
    """Each process's part of a step: the longest solution goes to whom has the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(world)]
    load = [0] * world
    for row in sorted(rows, key=lambda i: (-lengths[i], i)):
        least = load.index(min(load))
        shares[least].append(row)
        load[least] += lengths[row]
    return shares


def _sums(loss: torch.Tensor, logits: torch.Tensor, targets: Sequence[float | None]) -> torch.Tensor:
    """(3,) loss, steps called as their label says at 0.5, and labelled steps of a micro-batch."""
    said = (logits.detach() >= 0).tolist()
    pairs = [(yes, target >= 0.5) for yes, target in zip(said, targets, strict=True) if target is not None]
    hits = sum(yes == right for yes, right in pairs)
    return torch.tensor([float(loss.detach()), hits, len(pairs)], dtype=torch.float64)
