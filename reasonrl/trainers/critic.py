"""The critic's engine: its model, optimizer and schedule, apart from the policy's.

A critic inside the policy's module would be streamed to rollout engines, saved with the policy and clipped with its
gradients; so it lives here. Plain and DDP training go through accelerate; DeepSpeed needs an engine of its own and is
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import get_scheduler

from reasonrl.errors import ModelError
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.trainers.ppo_config import PPOConfig

OPTIMIZER_FILE = "optimizer.pt"


class CriticEngine:
    """Forward, backward and step of a critic.

    Args:
        model: the critic.
        args: learning rate, betas, weight decay, clipping and schedule.
        accelerator: the trainer's.
    """

    def __init__(self, model: ScalarHeadModel, args: PPOConfig, accelerator: Accelerator) -> None:
        if accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_CPU,
            DistributedType.MULTI_GPU,
        ):
            raise ModelError(
                f"ppo: a critic cannot be trained under {accelerator.distributed_type} in this version -> use plain or"
                " DDP training (launch.num_processes), or advantage: group | rloo, which need no critic"
            )
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
        self.accelerator, self.args = accelerator, args
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                (decay if parameter.ndim > 1 else plain).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.scheduler: Any = None

    @property
    def unwrapped(self) -> ScalarHeadModel:
        """The critic without DDP's wrapper."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def start(self, max_steps: int) -> None:
        """Build the schedule: the policy's kind and warm-up, counted in trainer steps."""
        self.scheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=self.optimizer,
            num_warmup_steps=self.args.get_warmup_steps(max_steps),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )

    def values(self, **inputs: Any) -> torch.Tensor:
        """(b, L) value at every position."""
        return self.model(**inputs)

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Hold back DDP's gradient exchange until the last micro-batch of a step."""
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient of one micro-batch."""
        self.accelerator.backward(loss)

    def step(self) -> float:
        """Clip, step and clear; returns the gradient norm before clipping."""
        limit = self.args.max_grad_norm if self.args.max_grad_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def end_step(self) -> None:
        """Advance the schedule: once a trainer step, as the policy's, whatever the number of critic steps in it."""
        self.scheduler.step()

    def save(self, directory: Path) -> None:
        """Write model, optimizer and schedule into `directory`."""
        self.unwrapped.save_pretrained(directory)
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        torch.save(state, directory / OPTIMIZER_FILE)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote; raises ModelError when it is not there."""
        file = directory / OPTIMIZER_FILE
        if not file.is_file():
            raise ModelError(f"{directory}: the checkpoint has no critic -> resume from one that this trainer wrote")
        device = next(self.unwrapped.parameters()).device
        saved = ScalarHeadModel.from_pretrained(directory, dtype=next(self.unwrapped.parameters()).dtype)
        self.unwrapped.load_state_dict({name: tensor.to(device) for name, tensor in saved.state_dict().items()})
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
