"""A policy's weights as another engine loads them: under the names of its checkpoint, whole, with LoRA merged in.

Nothing is changed in the policy itself: a merged weight is made for the moment it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from reasonrl.errors import ModelError

#: What peft puts before the names of the model under it.
PEFT_PREFIX = "base_model.model."


def checkpoint_names(model: Any) -> frozenset[str]:
    """Names that `checkpoint_weights` yields; no tensor is touched."""
    return frozenset(name for name, _, _ in _parameters(model))


def checkpoint_weights(model: Any, *, adapters: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of a policy once, in the order of its modules, under the name that its checkpoint has.

    A LoRA layer yields W + (alpha / r) B A of its active adapters, without `adapters` W alone. Parameters that are
    split over ranks (ZeRO-3, FSDP2) are gathered one by one, a copy of one at a time: every rank has to iterate to the
    end. A tied head goes under one name.

    Raises:
        ModelError: an adapter changes its layer in a way that no single weight expresses (DoRA, LoRA with a bias, other
            kinds than LoRA).
    """
    for name, parameter, adapted in _parameters(model):
        deltas = _adapters_to_add(adapted) if adapters else []
        with whole([parameter, *_adapter_parameters(adapted)] if deltas else [parameter]) as split:
            tensor = full(parameter.detach())
            for adapter in deltas:
                tensor = tensor + full(adapted.get_delta_weight(adapter).detach()).to(tensor)
            if split and not deltas:
                tensor = tensor.clone()  # what was gathered is taken away again below
        yield name, tensor
        del tensor  # not held while the next one is gathered


def _parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter, Any]]:
    """(checkpoint name, parameter, the LoRA layer whose base weight it is or None), adapters' own left out."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    tuned = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    copies = {name: module for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    for name, layer in tuned.items():
        if not isinstance(layer, LoraLayer) or no_plain_delta(layer):
            raise ModelError(
                f"sync_weights: the adapter of {name!r} ({type(layer).__name__}) cannot be merged into one weight ->"
                " use plain LoRA (no DoRA, no lora_bias), or rollout.engine=transformers"
            )
    for name, parameter in model.named_parameters():
        owner = _owner(name, tuned)
        if owner is not None:
            inner = name[len(owner) + 1 :]
            if not inner.startswith("base_layer."):
                continue
            layer = tuned[owner] if inner == "base_layer.weight" else None
            yield plain_name(f"{owner}.{inner.removeprefix('base_layer.')}"), parameter, layer
            continue
        owner = _owner(name, copies)
        if owner is not None:
            place = _copy_in_use(copies[owner])
            inner = name[len(owner) + 1 :]
            if inner.startswith(place + "."):
                yield plain_name(f"{owner}.{inner[len(place) + 1 :]}"), parameter, None
            continue
        yield plain_name(name), parameter, None


def _owner(name: str, modules: dict[str, Any]) -> str | None:
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules), None)


def _copy_in_use(module: Any) -> str:
    """Where a module that was copied for training (`modules_to_save`) holds what its forward pass uses."""
    if module.disable_adapters or not module.active_adapters:
        return "original_module"
    return f"modules_to_save.{module.active_adapters[0]}"


def plain_name(name: str) -> str:
    """A name without what peft puts before it."""
    return name.removeprefix(PEFT_PREFIX)


def no_plain_delta(layer: Any) -> bool:
    """Whether an active adapter of a LoRA layer does more than add B A."""
    adapters = layer.active_adapters
    variants = getattr(layer, "lora_variant", {})
    return any(layer.use_dora.get(a) or layer.lora_bias.get(a) or a in variants for a in adapters)


def _adapters_to_add(layer: Any) -> list[str]:
    """Adapters whose product is not in the layer's weight yet."""
    if layer is None or layer.merged or layer.disable_adapters:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A or name in layer.lora_embedding_A]


def _adapter_parameters(layer: Any) -> list[torch.nn.Parameter]:
    return [p for name, p in layer.named_parameters() if not name.startswith("base_layer.")]


@contextlib.contextmanager
def whole(parameters: list[torch.nn.Parameter]) -> Iterator[bool]:
    """The parameters gathered, where ZeRO-3 has split them over the ranks; whether it has. A collective call."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield False
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield True


def share_of(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """This process' share of a whole tensor, where FSDP2 has split the parameter that it is for."""
    mesh, placements = (getattr(parameter, name, None) for name in ("device_mesh", "placements"))
    if mesh is None or placements is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every process holds the whole: nothing is exchanged.
    return distribute_tensor(tensor.to(parameter.device), mesh, placements, src_data_rank=None)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP2 has split, put together; a collective call."""
    gather = getattr(tensor, "full_tensor", None)  # FSDP2 splits into DTensors
    return tensor if gather is None else gather()
