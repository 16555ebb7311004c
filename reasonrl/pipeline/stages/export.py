"""The final weights of a training stage, as plain checkpoints that any stage loads: adapters merged, shares put
together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonrl.models import load_policy
from reasonrl.models.lora import Lora, is_adapted, merged_over, save_adapter, trained_state, whole_state
from reasonrl.models.scalar_head import ScalarHeadModel
from reasonrl.pipeline.stages.common import export_model
from reasonrl.trainers.fsdp import under_fsdp
from reasonrl.trainers.zero import zero_stage

ADAPTER_FOLDER = "adapter"


def export_policy(trainer: Any, tokenizer: Any, directory: Path, start: str, lora: Lora | None) -> None:
    """Write `model/`, and with LoRA `adapter/`; all processes call it.

    Over a quantised base the adapter is merged into the weights of `start`, the model that training began with.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model)
    state, main = None, trainer.accelerator.is_main_process
    if lora is not None:
        trained = trained_state(policy)
        if main:
            save_adapter(policy, trained, directory / ADAPTER_FOLDER)
        if lora.quantised:
            if not main:
                return
            base, _ = load_policy(start)
            state = merged_over(policy, base, trained)
            export_model(Weights(base, state), tokenizer, directory / "model")
            return
    if lora is not None or zero_stage(trainer.accelerator) == 3 or under_fsdp(trainer.accelerator):
        state = whole_state(policy)
    if main:
        base = policy.get_base_model() if is_adapted(policy) else policy
        export_model(Weights(base, state), tokenizer, directory / "model")


def export_critic(
    critic: ScalarHeadModel, tokenizer: Any, target: Path, start: str, lora: Lora | None, *, main: bool
) -> None:
    """Write a critic, whole; all processes call it. Over a quantised base the adapter is merged into the weights of
    `start`.
    """
    if lora is not None and lora.quantised:
        if main:
            base = ScalarHeadModel.from_pretrained(start)
            merged = merged_over(critic.backbone, base.backbone, trained_state(critic.backbone))
            state = {f"backbone.{name}": tensor for name, tensor in merged.items()}
            state |= {f"head.{name}": tensor for name, tensor in trained_state(critic.head).items()}
            export_model(_Critic(base, state), tokenizer, target)
        return
    state = critic.whole_state()
    if main:
        export_model(_Critic(critic, state), tokenizer, target)


class Weights:
    """A model that is saved with other weights than those it holds here."""

    def __init__(self, model: Any, state: dict[str, Any] | None) -> None:
        self.model, self.state = model, state

    def save_pretrained(self, directory: Path) -> None:
        """As transformers' own."""
        self.model.save_pretrained(directory, **({} if self.state is None else {"state_dict": self.state}))


class _Critic(Weights):
    def save_pretrained(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory, self.state)
