"""The critic's engine, apart from the policy's.

A critic inside the policy's module would be streamed to rollout engines, saved with the policy and clipped with its
gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from reasonrl.models.lora import is_adapted
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.trainers.engine import EngineSettings, ModelEngine


class CriticSettings(EngineSettings, Protocol):
    """What a critic's engine is told, as PPOConfig and PRMConfig have it."""

    @property
    def critic_learning_rate(self) -> float: ...


class CriticEngine(ModelEngine):
    """Forward, backward and step of a scalar-head model: PPO's critic, or a process reward model.

    Args:
        model: the critic; with LoRA, only the adapter and the head are trained.
        args: learning rate, betas, weight decay, clipping and schedule.
        accelerator: the trainer's.
    """

    what = "critic"

    def __init__(self, model: ScalarHeadModel, args: CriticSettings, accelerator: Accelerator) -> None:
        super().__init__(model, args, accelerator, args.critic_learning_rate)

    @property
    def unwrapped(self) -> ScalarHeadModel:
        """The critic without DDP's or DeepSpeed's wrapper."""
        model: ScalarHeadModel = super().unwrapped
        return model

    @property
    def adapted(self) -> bool:
        """Whether an adapter and the head are trained, and the backbone's own weights are not."""
        return is_adapted(self.unwrapped.backbone)

    def whole_state(self) -> dict[str, torch.Tensor]:
        """The weights as `save_pretrained` writes them, the head's included; a collective call."""
        return self.unwrapped.whole_state()

    def _write(self, directory: Path, state: dict[str, torch.Tensor]) -> None:
        self.unwrapped.save_pretrained(directory, state)

    def values(self, **inputs: Any) -> torch.Tensor:
        """(b, L) value at every position."""
        return self.model(**inputs)

    def saved_state(self, directory: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights of a plain checkpoint, the head's included."""
        return ScalarHeadModel.from_pretrained(directory, dtype=dtype).state_dict()
