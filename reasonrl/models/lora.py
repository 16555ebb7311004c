"""LoRA by peft: adapters over policies and critics, quantised base weights, and whole weights for a checkpoint.

A parameter that ZeRO-3 has split is gathered where it is read: the functions that say so are collective calls.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_weights, full, share_of, whole

BASE_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Lora:
    """An adapter as peft's LoraConfig has it, and how its base is held; see `reasonrl.recipe.lora.LoraSettings`."""

    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    modules_to_save: tuple[str, ...] | None = None
    use_rslora: bool = False
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: str = "nf4"

    @property
    def quantised(self) -> bool:
        """Whether the base weights are."""
        return self.load_in_4bit or self.load_in_8bit

    @classmethod
    def of(cls, settings: Any) -> Lora | None:
        """From a recipe's settings (a pydantic model or a mapping), or None for None."""
        if settings is None:
            return None
        return cls(**(dict(settings) if isinstance(settings, Mapping) else settings.model_dump()))

    def loading_options(self, dtype: torch.dtype) -> dict[str, Any]:
        """What `from_pretrained` needs for a quantised base that computes in `dtype`.

        Raises:
            ModelError: bitsandbytes is not installed.
        """
        if not self.quantised:
            return {}
        which = "load_in_4bit" if self.load_in_4bit else "load_in_8bit"
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ModelError(
                f"lora.{which} = true needs the package bitsandbytes, which is not installed ->"
                f" pip install 'reasonrl[quantization]', or {which}: false"
            )
        from transformers import BitsAndBytesConfig

        four = {"bnb_4bit_quant_type": self.bnb_4bit_quant_type, "bnb_4bit_compute_dtype": dtype}
        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=self.load_in_4bit, load_in_8bit=self.load_in_8bit, **(four if self.load_in_4bit else {})
            )
        }

    def peft_config(self, *, causal: bool = True) -> Any:
        """peft's LoraConfig; `causal` for a language model, else for a bare backbone."""
        from peft import LoraConfig

        values = asdict(self)
        for name in ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"):
            values.pop(name)
        targets, whole_modules = values.pop("target_modules"), values.pop("modules_to_save")
        return LoraConfig(
            **values,
            target_modules=targets if isinstance(targets, str) else list(targets),
            modules_to_save=None if whole_modules is None else list(whole_modules),
            task_type="CAUSAL_LM" if causal else "FEATURE_EXTRACTION",
        )


def add_lora(model: Any, lora: Lora, *, seed: int, causal: bool = True, autocast: bool = True) -> Any:
    """The model with an adapter in it, as peft's model; its first product is zero.

    Args:
        model: changed in place; its own weights are frozen.
        lora: the adapter.
        seed: of A's draw.
        causal: see `Lora.peft_config`.
        autocast: hold the adapter in float32 over a base in half precision.

    Raises:
        ModelError: no module has one of the `target_modules`.
    """
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, lora.peft_config(causal=causal), autocast_adapter_dtype=autocast)
        except ValueError as error:
            raise ModelError(f"lora: {error} -> name linear layers of this model in target_modules") from error


def is_adapted(model: Any) -> bool:
    """Whether a model is peft's."""
    return hasattr(model, "peft_config")


def whole_state(model: Any) -> dict[str, torch.Tensor]:
    """A model's weights as its plain checkpoint has them: adapters merged, split parameters gathered, in main memory.

    A collective call under ZeRO-3. Of a quantised base, use `merged_over`.
    """
    base = model.get_base_model() if is_adapted(model) else model
    state = {name: _to_host(tensor) for name, tensor in checkpoint_weights(model)}
    saved = {name.replace(".base_layer.", ".") for name in base.state_dict()}
    state |= {name: _to_host(buffer) for name, buffer in base.named_buffers() if name in saved}
    return state


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that are trained, under the model's own names, gathered, in main memory (collective)."""
    state = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with whole([parameter]):
                state[name] = _to_host(full(parameter.detach()))
    return state


def load_trained(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `trained_state` gave; raises ModelError where names or shapes differ."""
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ModelError(
            f"the checkpoint holds another adapter: {len(odd)} names differ, such as {odd[0]!r} -> resume with the"
            " lora settings it was made with"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ModelError(
                    f"the checkpoint's {name!r} is {tuple(state[name].shape)}, here it is {tuple(parameter.shape)} ->"
                    " resume with the lora settings it was made with"
                )
            parameter.copy_(share_of(parameter, state[name]))


def merged_over(model: Any, base: Any, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the plain `base` with the adapter of `model` merged in: for a `model` whose own base is quantised."""
    from peft import get_peft_model

    again = get_peft_model(base, next(iter(model.peft_config.values())), autocast_adapter_dtype=False)
    load_trained(again, trained)
    return whole_state(again)


def save_adapter(model: Any, trained: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write the adapter alone, as peft reads it, at once."""
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    # Asked to decide by itself, peft would look the base model up on the hub.
    model.save_pretrained(staging, state_dict=dict(trained), save_embedding_layers=False)
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    # A copy, also of what is in main memory: what was gathered is taken away again.
    return tensor.detach().to("cpu", copy=True).contiguous()
