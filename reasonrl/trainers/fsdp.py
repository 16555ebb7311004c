"""PyTorch's FSDP2 under our trainers: settings, a whole model for the time one decodes, whole states of optimizers.

accelerate splits the models (`fully_shard`); weights, gradients and the optimizer's moments then lie in shares on the
processes (DTensors). Whatever is written is put together first, so that any number of processes goes on from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import wraps
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor

from reasonrl.errors import ModelError

#: `launch.fsdp` -> whether a layer's weights are given back between its forward and its backward pass.
RESHARDS = {"full_shard": True, "shard_grad_op": False}
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def fsdp_arguments(name: str) -> dict[str, Any]:
    """The Trainer's arguments for `launch.fsdp`."""
    settings = {"version": 2, "reshard_after_forward": RESHARDS[name], "state_dict_type": "FULL_STATE_DICT"}
    return {"fsdp": True, "fsdp_config": settings}


def fsdp_plugin(name: str) -> FullyShardedDataParallelPlugin:
    """accelerate's settings for `launch.fsdp`, for stages that make their own loop."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=RESHARDS[name],
        state_dict_type="FULL_STATE_DICT",
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )


def ready_for_fsdp() -> None:
    """Let accelerate split models on the CPU too, where it would put DDP in FSDP's place without a word; to be called
    before an Accelerator is made. Nothing is changed where there are accelerators.
    """
    plain = AcceleratorState.__init__
    if torch.cuda.is_available() or hasattr(plain, "__wrapped__"):
        return

    @wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = init


def under_fsdp(accelerator: Accelerator) -> bool:
    """Whether models are split by FSDP2."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def refuse_other_engines(accelerator: Accelerator) -> None:
    """Raises ModelError under Megatron and FSDP's first version, and where FSDP was asked for and is not there."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")
    split = under_fsdp(accelerator)
    old = split and not accelerator.is_fsdp2
    if old or asked != split or accelerator.distributed_type == DistributedType.MEGATRON_LM:
        kind = "FSDP 1" if old else accelerator.distributed_type.value
        raise ModelError(
            f"launch: the processes train under {kind}, which these trainers do not know"
            + (", and FSDP was asked for by the environment" if asked and not split else "")
            + " -> launch: {num_processes: N, fsdp: full_shard} or {num_processes: N, deepspeed: zero3}"
        )


def name_layers(accelerator: Accelerator, model: nn.Module) -> None:
    """Tell accelerate what of the next model is split one by one: its layers, as transformers names them.

    accelerate keeps the names of the first model for all, and refuses a model that lacks one of them (of a composed
    one, transformers also names layers of parts that are not there). Nothing where FSDP is not in use.
    """
    if not under_fsdp(accelerator):
        return
    base: Any = model
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    there = {type(module).__name__ for module in model.modules()}
    names = [name for name in getattr(base, "_no_split_modules", None) or () if name in there]
    plugin = accelerator.state.fsdp_plugin
    plugin.transformer_cls_names_to_wrap = names
    plugin.auto_wrap_policy = transformer_auto_wrap_policy


def forget(accelerator: Accelerator, model: nn.Module) -> None:
    """Take a model off accelerate's list, by which it finds whose gradients it is to clip: it compares parameters of
    equal number there one with the other, and fails on tensors that are not the same.
    """
    accelerator._models = [one for one in accelerator._models if one is not model]


def is_split(model: Any) -> bool:
    """Whether FSDP2 has split a model."""
    return isinstance(model, FSDPModule)


@contextlib.contextmanager
def whole_for_decoding(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Every process holds the whole model meanwhile and runs it by itself: processes decode different numbers of
    tokens, and each would else wait for the others at every layer. A collective call at the beginning.
    """
    reshards = bool(accelerator.state.fsdp_plugin.reshard_after_forward)
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # The outermost part is needed first in the backward pass: it is never given back in between.
            part.set_reshard_after_forward(part is not model and reshards, recurse=False)


def all_finite(accelerator: Accelerator, model: nn.Module) -> bool:
    """Whether every process' share of the gradients holds finite numbers only; a collective call."""
    shares = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]
    sound = all(bool(share.isfinite().all()) for share in shares if share is not None)
    odd = torch.tensor([0.0 if sound else 1.0], device=accelerator.device)
    return not float(accelerator.reduce(odd, reduction="sum"))


def optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """An optimizer's state by the names of parameters, whole, in main memory, on the first process; collective."""
    return dict(get_optimizer_state_dict(model, _bare(optimizer), options=_WHOLE))


def load_optimizer_state(model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Share out what `optimizer_state` gave; every process holds all of it; collective."""
    set_optimizer_state_dict(model, _bare(optimizer), state, options=StateDictOptions(full_state_dict=True))


def load_whole_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Share out whole weights; every process holds all of them; collective. Raises where names differ."""
    set_model_state_dict(model, dict[str, Any](state), options=StateDictOptions(full_state_dict=True))


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner
