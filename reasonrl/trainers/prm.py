"""Training of process reward models: binary cross-entropy at the last token of every labelled step.

A step of training is `solutions_per_step` solutions, however they are split into micro-batches and over processes: its
loss is the mean over their labelled steps, -mean(y log p + (1 - y) log(1 - p)) (arXiv:2505.14391, Eq. 1 with its sign
and names put right), y in [0, 1], so soft labels too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from reasonrl.algorithms.batching import pad_plans
from reasonrl.errors import DataError
from reasonrl.prm.encoding import Encoded, plan_rows, step_logits
from reasonrl.prm.scoring import packing_obstacle
from reasonrl.trainers.critic import CriticEngine
from reasonrl.trainers.offline import OfflineConfig, OfflineTrainer

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
class PRMConfig(OfflineConfig):
    """Settings of the training (`OfflineConfig`).

    Attributes:
        solutions_per_step: solutions of one optimizer step, over all processes.
    """

    solutions_per_step: int = 256

    @property
    def rows_per_step(self) -> int:
        """Solutions of one optimizer step."""
        return self.solutions_per_step

    @property
    def critic_learning_rate(self) -> float:
        """The rate, under the name that the engine knows."""
        return self.learning_rate


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


class PRMTrainer(OfflineTrainer[PRMConfig, CriticEngine]):
    """Trains a scalar-head model on labelled solutions; further arguments are `OfflineTrainer`'s.

    Args:
        model: its head has one output.
        tokenizer: saved with checkpoints; a processor where examples have pictures.
        config: the settings.
        examples: what to train on; those without a labelled step are left out.
        accelerator: plain, over several processes, or with DeepSpeed.

    Attributes:
        packed: whether rows of text are packed.
        anchor: a solution with a picture that is read along with those of text: processes then go through the same
            parts of the model together, which shared gradients and weights want. None where nothing asks for it.
    """

    folder = HEAD_FOLDER

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
        accelerator = accelerator or Accelerator(mixed_precision="bf16" if config.bf16 else "no")
        model.to(accelerator.device)
        self.packed = config.padding_free and packing_obstacle(model, tokenizer, half=config.bf16) is None
        self.encoded = [example.encoded for example in self.examples]
        pictured = [one for one in self.encoded if one.pictures is not None]
        self.anchor = min(pictured, key=len) if pictured and accelerator.num_processes > 1 else None
        self.packed = self.packed and self.anchor is None
        super().__init__(
            CriticEngine(model, config, accelerator),
            tokenizer,
            config,
            [len(one) for one in self.encoded],
            accelerator=accelerator,
            output=output,
            on_metrics=on_metrics,
            evaluate=evaluate,
            should_stop=should_stop,
        )
        self._sums = torch.zeros(3, dtype=torch.float64)

    def one_step(self, rows: Sequence[int]) -> float:
        """Gradient over all micro-batches of a step, and the optimizer's step; the gradient's norm."""
        accelerator, world = self.accelerator, self.accelerator.num_processes
        labelled = sum(self.examples[row].labelled for row in rows)
        tokens = self.config.tokens_per_microbatch
        shares = [plan_rows(share, self.encoded, tokens, packed=self.packed) for share in self.share_of(rows)]
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
                    anchor=self.anchor,
                )
                loss = step_loss(logits, targets) if group else 0.0 * logits.sum()
                # Processes' gradients are averaged, and the loss is a mean over the steps of all of them.
                self.engine.backward(loss * world / labelled)
            if group:
                sums += _sums(loss, logits, targets)
        self._sums += sums
        return self.engine.step()

    def figures(self) -> dict[str, Any]:
        """Loss and accuracy on the steps since the last line."""
        sums = self.accelerator.reduce(self._sums.to(self.accelerator.device, torch.float32), reduction="sum").tolist()
        self._sums.zero_()
        loss, hits, labelled = sums
        return {
            "loss": loss / max(1.0, labelled),
            "accuracy": hits / max(1.0, labelled),
            "labelled_steps": int(labelled),
        }

    @property
    def _pad(self) -> int:
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        return int(tokenizer.pad_token_id or 0)


def _sums(loss: torch.Tensor, logits: torch.Tensor, targets: Sequence[float | None]) -> torch.Tensor:
    """(3,) loss, steps called as their label says at 0.5, and labelled steps of a micro-batch."""
    said = (logits.detach() >= 0).tolist()
    pairs = [(yes, target >= 0.5) for yes, target in zip(said, targets, strict=True) if target is not None]
    hits = sum(yes == right for yes, right in pairs)
    return torch.tensor([float(loss.detach()), hits, len(pairs)], dtype=torch.float64)
