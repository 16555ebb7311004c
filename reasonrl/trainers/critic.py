"""The critic's engine: its model, optimizer and schedule, apart from the policy's.

A critic inside the policy's module would be streamed to rollout engines, saved with the policy and clipped with its
gradients; so it lives here. Plain and DDP training go through accelerate, ZeRO through a DeepSpeed engine of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_scheduler

from reasonrl.errors import ModelError
from reasonrl.models.lora import is_adapted, load_trained, trained_state
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.trainers.zero import accumulate, backward, build_engine, is_engine, refuse_fsdp, step

OPTIMIZER_FILE = "optimizer.pt"
#: What an adapter and the head hold, for a critic with LoRA: the whole model can be had from its start.
TRAINED_FILE = "trained.safetensors"


class CriticEngine:
    """Forward, backward and step of a scalar-head model: PPO's critic, or a process reward model.

    Args:
        model: the critic; with LoRA, only the adapter and the head are trained.
        args: learning rate (`critic_learning_rate`), betas, weight decay, clipping and schedule, as PPOConfig and
            PRMConfig have them.
        accelerator: the trainer's.

    Attributes:
        skipped_updates: optimizer steps that were not made, as their gradient was no finite number.
    """

    skipped_updates = 0

    def __init__(self, model: ScalarHeadModel, args: Any, accelerator: Accelerator) -> None:
        refuse_fsdp(accelerator)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
        self.accelerator, self.args = accelerator, args
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                (decay if parameter.ndim > 1 else plain).append(parameter)
        groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )
        # The schedule sets the rates of the optimizer that was built here, whatever is wrapped around it.
        self._basic = optimizer
        if accelerator.distributed_type == "DEEPSPEED":
            self.model, self.optimizer = build_engine(model, optimizer, accelerator, args.max_grad_norm)
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.scheduler: Any = None

    @property
    def unwrapped(self) -> ScalarHeadModel:
        """The critic without DDP's or DeepSpeed's wrapper."""
        return self.model.module if is_engine(self.model) else self.accelerator.unwrap_model(self.model)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def start(self, max_steps: int) -> None:
        """Build the schedule: the policy's kind and warm-up, counted in trainer steps."""
        self.scheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=self._basic if is_engine(self.model) else self.optimizer,
            num_warmup_steps=self.args.get_warmup_steps(max_steps),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )

    def values(self, **inputs: Any) -> torch.Tensor:
        """(b, L) value at every position."""
        return self.model(**inputs)

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Hold back the exchange of gradients until the last micro-batch of a step."""
        with accumulate(self.accelerator, self.model, last):
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient of one micro-batch."""
        backward(self.accelerator, self.model, loss)

    def step(self) -> float:
        """Clip, step and clear; returns the gradient norm before clipping. A gradient that is no finite number is
        dropped.
        """
        norm, made = step(self.accelerator, self.model, self.optimizer, self.args.max_grad_norm)
        self.skipped_updates += not made
        return norm

    def end_step(self) -> None:
        """Advance the schedule: once a trainer step, as the policy's, whatever the number of critic steps in it."""
        self.scheduler.step()

    def save(self, directory: Path) -> None:
        """Write model, optimizer and schedule into `directory`; all ranks call it.

        Under ZeRO weights and optimizer are DeepSpeed's own files, a part from every rank.
        """
        main = self.accelerator.is_main_process
        if main:
            directory.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        state: dict[str, Any] = {"scheduler": self.scheduler.state_dict()}
        if is_engine(self.model):
            self.model.save_checkpoint(str(directory), exclude_frozen_parameters=is_adapted(self.unwrapped.backbone))
        else:
            state["optimizer"] = self.optimizer.state_dict()
            if main:
                self._save_weights(directory)
        if main:
            torch.save(state, directory / OPTIMIZER_FILE)

    def _save_weights(self, directory: Path) -> None:
        if not is_adapted(self.unwrapped.backbone):
            self.unwrapped.save_pretrained(directory)
            return
        from safetensors.torch import save_file

        save_file(trained_state(self.unwrapped), directory / TRAINED_FILE)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, on all ranks; raises ModelError when it is not there."""
        file = directory / OPTIMIZER_FILE
        if not file.is_file():
            raise ModelError(f"{directory}: the checkpoint has no critic -> resume from one that this trainer wrote")
        state = torch.load(file, map_location="cpu", weights_only=True)
        if is_engine(self.model):
            strict = not is_adapted(self.unwrapped.backbone)
            found, _ = self.model.load_checkpoint(str(directory), load_module_strict=strict)
            if found is None:
                raise ModelError(f"{directory}: DeepSpeed finds no checkpoint of the critic -> resume from another one")
        else:
            self._load_weights(directory)
            self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def _load_weights(self, directory: Path) -> None:
        model = self.unwrapped
        if is_adapted(model.backbone):
            from safetensors.torch import load_file

            load_trained(model, load_file(directory / TRAINED_FILE))
            return
        device = next(model.parameters()).device
        saved = ScalarHeadModel.from_pretrained(directory, dtype=next(model.parameters()).dtype)
        model.load_state_dict({name: tensor.to(device) for name, tensor in saved.state_dict().items()})
