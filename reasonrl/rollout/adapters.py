"""A LoRA policy's weights in two parts: what no training changes, and the adapter that every step changes.

An engine that computes the adapter's product by itself gets the first part once, and after that only the small factors
A and B of each layer, under the names of a saved adapter (`base_model.model.<module>.lora_A.weight`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from reasonrl.errors import ModelError
from reasonrl.models.weights import PEFT_PREFIX, checkpoint_weights, full, no_plain_delta, plain_name, whole

#: How a LoRA policy goes over: merged into whole weights at every step, or the base once and then the adapter alone.
LoraTransfer = Literal["merge", "adapter"]
LORA_TRANSFERS = ("merge", "adapter")
#: The adapter's name and number in vLLM; there is one.
ADAPTER_NAME, ADAPTER_ID = "policy-adapter", 1
#: Between the label of a base and that of an adapter over it.
ADAPTER_MARK = "+"
#: Ranks that vLLM 0.31 makes room for; an adapter takes the next larger one.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_FACTORS = (".lora_A.weight", ".lora_B.weight")


def is_factor(name: str) -> bool:
    """Whether a name is that of an adapter's tensor."""
    return name.endswith(_FACTORS)


def adapter_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The factors of every LoRA layer: A (r, in) and alpha / r B (out, r), so that the reader multiplies by nothing.

    Factors that are split over ranks (ZeRO-3, FSDP2) are gathered layer by layer, so every rank has to iterate to the
    end.

    Raises:
        ModelError: see `require_adapter`.
    """
    for name, layer, adapter in require_adapter(model):
        first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        with whole([first, second]):
            factors = full(first.detach()).clone(), full(second.detach()) * layer.scaling[adapter]
        yield f"{PEFT_PREFIX}{name}{_FACTORS[0]}", factors[0]
        yield f"{PEFT_PREFIX}{name}{_FACTORS[1]}", factors[1]


def base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of a policy without what its adapters add, under the names of its checkpoint."""
    for layer in _lora_layers(model).values():
        if layer.merged:
            raise ModelError("sync_weights: the adapter is merged into the base weights -> unmerge_adapter() first")
    return checkpoint_weights(model, adapters=False)


def require_adapter(model: Any) -> list[tuple[str, Any, str]]:
    """(module, LoRA layer, name of its active adapter) of every layer that the adapter changes.

    Raises:
        ModelError: the policy has no LoRA, or trains what an adapter of plain factors cannot hold.
    """
    merge = "-> use plain LoRA on linear layers alone, or lora='merge'"
    found = []
    for name, layer in _lora_layers(model).items():
        active = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
        linear = all(isinstance(layer.lora_A[adapter], torch.nn.Linear) for adapter in active)
        if no_plain_delta(layer) or len(layer.active_adapters) > 1 or not linear or not active:
            raise ModelError(f"sync_weights: the adapter of {name!r} is more than one pair of plain factors {merge}")
        if layer.disable_adapters:
            raise ModelError(f"sync_weights: the adapter of {name!r} is switched off {merge}")
        found.append((name, layer, active[0]))
    if not found:
        raise ModelError(
            "sync_weights: lora='adapter', but the policy has no LoRA layers -> train an adapter, or lora='merge'"
        )
    trained = [plain_name(n) for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n]
    if trained:
        raise ModelError(
            f"sync_weights: lora='adapter' sends the base weights once, but {len(trained)} of them are trained too"
            f" ({', '.join(trained[:3])}) {merge}"
        )
    return found


def adapter_room(lora: LoraTransfer, model: Any, max_lora_rank: int | None) -> dict[str, Any]:
    """vLLM's options for one adapter of this policy's rank, or with room for `max_lora_rank`; none for `merge`.

    Raises:
        ModelError: there is no policy in training, or the rank is above what vLLM holds, or not known: the policy has
            no LoRA yet and none is given.
    """
    if lora not in LORA_TRANSFERS:
        raise ModelError(f"rollout: lora={lora!r} -> one of {', '.join(LORA_TRANSFERS)}")
    if lora == "merge":
        if max_lora_rank is not None:
            raise ModelError(f"rollout: max_lora_rank={max_lora_rank} means something with lora='adapter' -> remove it")
        return {}
    if model is None:
        raise ModelError("rollout: lora='adapter' needs a policy in training, and this engine has a path -> remove it")
    ranks = [max(layer.r.values()) for layer in _lora_layers(model).values()]
    rank = max_lora_rank or max(ranks, default=0)
    if not rank:
        raise ModelError(
            "rollout: lora='adapter', but the policy has no LoRA layers yet -> build the engine after get_peft_model,"
            " or say max_lora_rank"
        )
    if rank > _RANKS[-1]:
        raise ModelError(f"rollout: an adapter of rank {rank}, but vLLM holds up to {_RANKS[-1]} -> lora='merge'")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(room for room in _RANKS if room >= rank)}


class Parts:
    """Weights on their way, base and adapter apart: read `base()` to its end, then `factors` is whole.

    Args:
        weights: base weights, if any, before the adapter's.
    """

    def __init__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._weights, self.factors = iter(weights), dict[str, torch.Tensor]()

    def base(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The base weights, one by one."""
        for name, tensor in self._weights:
            if is_factor(name):
                self.factors[name] = tensor.detach()
            else:
                yield name, tensor

    def require_factors(self) -> Mapping[str, torch.Tensor]:
        """The adapter; raises ModelError where there is none, or half a pair."""
        for name in self.factors:
            module, which = name.rsplit(".lora_", 1)
            if f"{module}.lora_{'B' if which[0] == 'A' else 'A'}.weight" not in self.factors:
                raise ModelError(f"sync_weights: {name!r} came without its other factor -> give both")
        if not self.factors:
            raise ModelError(
                "sync_weights: lora='adapter', but no adapter came -> give what weights_of(policy) of the engine yields"
            )
        return self.factors


def write_adapter(factors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """An adapter as vLLM and peft read it from a folder; the scale is in B already.

    Raises:
        ModelError: the folder is full.
    """
    from safetensors.torch import save_file

    rank = max(tensor.shape[0] for name, tensor in factors.items() if name.endswith(_FACTORS[0]))
    targets = sorted({name.split(".")[-3] for name in factors})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    try:
        save_file({name: tensor.to("cpu").contiguous() for name, tensor in factors.items()}, folder / _FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(config))
    except OSError as problem:
        raise ModelError(
            f"sync_weights: the adapter cannot be written to {str(folder)!r}: {problem} -> make room there"
        ) from None


def holds_adapter(folder: Path) -> bool:
    """Whether a folder was written by `write_adapter`."""
    return (folder / CONFIG_FILE).is_file()


CONFIG_FILE, _FILE = "adapter_config.json", "adapter_model.safetensors"


def _lora_layers(model: Any) -> dict[str, Any]:
    """LoRA layers by the name of their module in the checkpoint; others raise ModelError."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {plain_name(name): m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in found.items():
        if not isinstance(layer, LoraLayer):
            raise ModelError(f"sync_weights: the adapter of {name!r} ({type(layer).__name__}) is not LoRA -> use LoRA")
    return found
