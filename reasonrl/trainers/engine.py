"""A model with its optimizer and schedule, trained by losses that the caller makes: the critic of PPO, a process reward
model, a policy on logged samples.

Plain, DDP and FSDP training go through accelerate, ZeRO through a DeepSpeed engine of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import get_scheduler

from reasonrl.errors import ModelError
from reasonrl.models.lora import is_adapted, load_trained, trained_state, whole_state
from reasonrl.trainers.fsdp import (
    forget,
    is_split,
    load_optimizer_state,
    load_whole_state,
    name_layers,
    optimizer_state,
    refuse_other_engines,
)
from reasonrl.trainers.zero import accumulate, backward, build_engine, is_engine, step

OPTIMIZER_FILE = "optimizer.pt"
#: What is trained, for a model with LoRA: the whole can be had from its start.
TRAINED_FILE = "trained.safetensors"


class EngineSettings(Protocol):
    """What an engine is told, under transformers' names."""

    @property
    def adam_beta1(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def lr_scheduler_type(self) -> Any: ...
    @property
    def lr_scheduler_kwargs(self) -> Any: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def gradient_checkpointing_kwargs(self) -> Any: ...
    def get_warmup_steps(self, num_training_steps: int) -> int: ...


class ModelEngine:
    """Forward, backward and step of a model.

    Args:
        model: with LoRA, only what carries a gradient is trained.
        args: betas, weight decay, clipping and schedule.
        accelerator: the trainer's.
        learning_rate: at the schedule's top.

    Attributes:
        skipped_updates: optimizer steps that were not made, as their gradient was no finite number.
    """

    #: What a checkpoint's messages call it.
    what = "model"
    skipped_updates = 0

    def __init__(self, model: Any, args: EngineSettings, accelerator: Accelerator, learning_rate: float) -> None:
        refuse_other_engines(accelerator)
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
        self.accelerator, self.args = accelerator, args
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Of a model that was loaded in parts (ZeRO-3), a parameter's own shape is empty.
                shape = getattr(parameter, "ds_shape", parameter.shape)
                (decay if len(shape) > 1 else plain).append(parameter)
        groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )
        # The schedule sets the rates of the optimizer that was built here, whatever is wrapped around it.
        self._basic = optimizer
        if accelerator.distributed_type == "DEEPSPEED":
            self.model, self.optimizer = build_engine(model, optimizer, accelerator, args.max_grad_norm)
        else:
            name_layers(accelerator, model)
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
            if is_split(self.model):
                forget(accelerator, self.model)
        self.scheduler: Any = None

    @property
    def unwrapped(self) -> Any:
        """The model without DDP's or DeepSpeed's wrapper."""
        return self.model.module if is_engine(self.model) else self.accelerator.unwrap_model(self.model)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def start(self, max_steps: int) -> None:
        """Build the schedule, counted in trainer steps."""
        self.scheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=self._basic if is_engine(self.model) else self.optimizer,
            num_warmup_steps=self.args.get_warmup_steps(max_steps),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and the model's own weights are not."""
        return is_adapted(self.unwrapped)

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
        """Advance the schedule: once a trainer step, whatever the number of optimizer steps in it."""
        self.scheduler.step()

    def save(self, directory: Path) -> None:
        """Write model, optimizer and schedule into `directory`; all ranks call it.

        Under ZeRO weights and optimizer are DeepSpeed's own files, a part from every rank; under FSDP both are whole.
        """
        main = self.accelerator.is_main_process
        if main:
            directory.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        state: dict[str, Any] = {"scheduler": self.scheduler.state_dict()}
        if is_engine(self.model):
            self.model.save_checkpoint(str(directory), exclude_frozen_parameters=self.adapted)
        elif is_split(self.model):
            state["optimizer"] = optimizer_state(self.model, self.optimizer)
            self._save_whole(directory, main)
        else:
            state["optimizer"] = self.optimizer.state_dict()
            if main:
                self._save_weights(directory)
        if main:
            torch.save(state, directory / OPTIMIZER_FILE)

    def _save_whole(self, directory: Path, main: bool) -> None:
        """The weights put together from all processes; a collective call."""
        from safetensors.torch import save_file

        state = trained_state(self.unwrapped) if self.adapted else self.whole_state()
        if not main:
            return
        if self.adapted:
            save_file(state, directory / TRAINED_FILE)
        else:
            self._write(directory, state)

    def whole_state(self) -> dict[str, torch.Tensor]:
        """The weights as a checkpoint has them, put together from all processes; a collective call."""
        return whole_state(self.unwrapped)

    def _write(self, directory: Path, state: dict[str, torch.Tensor]) -> None:
        self.unwrapped.save_pretrained(directory, state_dict=state)

    def _save_weights(self, directory: Path) -> None:
        if not self.adapted:
            self.unwrapped.save_pretrained(directory)
            return
        from safetensors.torch import save_file

        save_file(trained_state(self.unwrapped), directory / TRAINED_FILE)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, on all ranks; raises ModelError when it is not there."""
        file = directory / OPTIMIZER_FILE
        if not file.is_file():
            raise ModelError(
                f"{directory}: the checkpoint has no {self.what} -> resume from one that this trainer wrote"
            )
        state = torch.load(file, map_location="cpu", weights_only=True)
        if is_engine(self.model):
            strict = not self.adapted
            found, _ = self.model.load_checkpoint(str(directory), load_module_strict=strict)
            if found is None:
                raise ModelError(
                    f"{directory}: DeepSpeed finds no checkpoint of the {self.what} -> resume from another one"
                )
        else:
            self._load_weights(directory)
            if is_split(self.model):
                load_optimizer_state(self.model, self.optimizer, state["optimizer"])
            else:
                self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def _load_weights(self, directory: Path) -> None:
        model = self.unwrapped
        if self.adapted:
            from safetensors.torch import load_file

            load_trained(model, load_file(directory / TRAINED_FILE))
            return
        first = next(model.parameters())
        state = self.saved_state(directory, first.dtype)
        if is_split(model):
            load_whole_state(model, state)
            return
        model.load_state_dict({name: tensor.to(first.device) for name, tensor in state.items()})

    def saved_state(self, directory: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights of a plain checkpoint."""
        saved: dict[str, torch.Tensor] = type(self.unwrapped).from_pretrained(directory, dtype=dtype).state_dict()
        return saved
