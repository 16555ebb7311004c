"""DeepSpeed's ZeRO under our trainers: settings, engines of their own, gradients over micro-batches, checkpoints.

The policy's engine is made by transformers' Trainer. accelerate steps that engine on every backward that ends an
accumulation, and binds itself to one engine; so micro-batches go to the engines directly here, and the critic has one
of its own. The functions take plain and DDP models too, which then go through accelerate.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from reasonrl.errors import ModelError
from reasonrl.recipe.launching import ZERO_STAGES
from reasonrl.trainers.fsdp import all_finite, is_split, under_fsdp
from reasonrl.trainers.health import finite_gradient

#: What the library sets itself, and where it is set.
_OWNED = {
    "optimizer": "learning_rate, adam_beta1, …",
    "scheduler": "lr_scheduler_type",
    "fp16": "bf16: true",
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "tokens_per_microbatch",
    "train_batch_size": "prompts_per_step",
    "train_micro_batch_size_per_gpu": "tokens_per_microbatch",
}


def deepspeed_settings(name: str, base_directory: Path | None = None) -> dict[str, Any]:
    """DeepSpeed's settings for `zero1`, `zero2`, `zero3`, or of a JSON file with a `zero_optimization` in it.

    Raises:
        ModelError: DeepSpeed is not installed, the file cannot be read, or it sets what the recipe sets.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ModelError(
            f"launch.deepspeed = {name!r} needs the package deepspeed, which is not installed -> pip install"
            " 'reasonrl[deepspeed]', or remove it for plain data parallelism"
        )
    settings: dict[str, Any] = {"zero_optimization": {"stage": ZERO_STAGES.get(name, 0)}}
    if name not in ZERO_STAGES:
        settings = _read(name, base_directory)
    settings["zero_optimization"].setdefault("stage3_gather_16bit_weights_on_model_save", True)
    return {
        # As the Trainer would report them; how much goes through the model at once is decided by token budgets.
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "steps_per_print": 1 << 40,
        **settings,
    }


def _read(name: str, base_directory: Path | None) -> dict[str, Any]:
    path = Path(name) if base_directory is None else base_directory / name
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"launch.deepspeed: {name!r} cannot be read as JSON: {error} -> zero1, zero2, zero3, or a file"
        ) from error
    stage = settings.get("zero_optimization", {}).get("stage")
    if stage not in (1, 2, 3):
        raise ModelError(f"launch.deepspeed: {name!r} has zero_optimization.stage = {stage!r}; allowed: 1, 2, 3")
    for key, ours in _OWNED.items():
        if key in settings and settings[key] != "auto":
            raise ModelError(f"launch.deepspeed: {name!r} sets {key!r} -> remove it there and set {ours} in the stage")
    return settings


def ready_for_deepspeed() -> None:
    """Choose the CPU where there is no accelerator; to be called before DeepSpeed is imported for the first time."""
    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # gloo does all that is needed. DeepSpeed's own exchange within a host would be compiled at every first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def zero_stage(accelerator: Accelerator) -> int:
    """1, 2 or 3 under DeepSpeed, else 0."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return 0
    return int(accelerator.deepspeed_plugin.zero_stage)


def layout_of(accelerator: Accelerator) -> dict[str, int]:
    """What a checkpoint's parts depend on."""
    processes, stage = accelerator.num_processes, zero_stage(accelerator)
    return {"processes": processes, "zero_stage": stage, "fsdp": int(under_fsdp(accelerator))}


def build_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, max_grad_norm: float
) -> tuple[Any, Any]:
    """An engine over a model beside the policy's, with the policy's settings: (engine, its optimizer)."""
    import deepspeed

    config = copy.deepcopy(accelerator.deepspeed_plugin.deepspeed_config)
    for name in ("optimizer", "scheduler", "train_batch_size"):
        config.pop(name, None)
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    config |= {"gradient_clipping": max_grad_norm, "zero_allow_untested_optimizer": True}
    # The sizes of buffers that follow a model's hidden size are left to DeepSpeed.
    zero = config["zero_optimization"]
    config["zero_optimization"] = {name: value for name, value in zero.items() if value != "auto"}
    engine, optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer


def is_engine(model: Any) -> bool:
    """Whether a model is wrapped in DeepSpeed's engine."""
    return hasattr(model, "set_gradient_accumulation_boundary")


@contextlib.contextmanager
def accumulate(accelerator: Accelerator, model: Any, last: bool) -> Iterator[None]:
    """Around forward and backward of one micro-batch; gradients are exchanged with the last one of a step."""
    if is_engine(model):
        model.set_gradient_accumulation_boundary(last)
        yield
        return
    with contextlib.nullcontext() if last else accelerator.no_sync(model):
        yield


def backward(accelerator: Accelerator, model: Any, loss: torch.Tensor) -> None:
    """Add the gradient of one micro-batch; no step is made."""
    if is_engine(model):
        model.backward(loss, scale_wrt_gas=False)
    else:
        accelerator.backward(loss)


def step(accelerator: Accelerator, model: Any, optimizer: Any, max_grad_norm: float) -> tuple[float, bool]:
    """Clip, step and clear; a gradient that is no finite number is dropped (not under ZeRO).

    Returns:
        The gradient's norm before clipping, over all ranks, and whether the step was made.
    """
    if is_engine(model):
        model.step()
        return float(model.get_global_grad_norm() or 0.0), True
    sound = all_finite(accelerator, model) if is_split(model) else finite_gradient(model.parameters())
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm if max_grad_norm > 0 else float("inf"))
    if sound:
        optimizer.step()
    optimizer.zero_grad()
    return float(norm), sound
