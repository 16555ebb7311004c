"""Checkpoints whose weights have other names than the model's own.

transformers saves some vision-language models (Qwen2.5-VL) under the names of their first release, and its Trainer
loads a checkpoint by the names of the module: nothing fits, and a resumed run would go on from its start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reasonrl.models.loading import load_weights
from reasonrl.trainers.fsdp import is_split

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def has_other_names(model: torch.nn.Module, folder: str | Path) -> bool:
    """Whether a checkpoint holds a whole model under names that the module does not have."""
    from safetensors import safe_open

    single, index = (Path(folder) / name for name in _WEIGHTS)
    if single.is_file():
        with safe_open(single, framework="pt") as opened:
            names = set(opened.keys())
    elif index.is_file():
        import json

        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    else:
        return False
    return not names <= set(model.state_dict())


def load_by_names(model: Any, folder: str | Path) -> None:
    """Take over a checkpoint's weights as `from_pretrained` reads them; raises ModelError where some are missing."""
    saved = load_weights(type(model), str(folder), dtype=model.dtype)
    model.load_state_dict(saved.state_dict())


class LoadsByNames(Base):
    """A Trainer that resumes from such checkpoints, and puts the best of them back."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own = self.accelerator.unwrap_model(self.model if model is None else model)
        # What FSDP writes has the module's own names.
        if not is_split(own) and has_other_names(own, resume_from_checkpoint):
            load_by_names(own, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        own, best = self.accelerator.unwrap_model(self.model), self.state.best_model_checkpoint
        split = self.is_deepspeed_enabled or is_split(own)
        if best is not None and not split and has_other_names(own, best):
            load_by_names(own, best)
        else:
            super()._load_best_model()
