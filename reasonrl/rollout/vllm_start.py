"""Starting vLLM inside the trainer's process without leaving marks on it, and ending it again.

vLLM expects to own its process: it seeds the global generators, replaces `torch.set_num_threads` on CPU, opens a
process group and reports usage. Here the trainer owns the process, so all of this is put back or left out.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib.util
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasonrl.errors import ModelError

#: Key-value cache on CPU when nothing is said: vLLM's own default is most of the machine's memory.
CPU_CACHE_BYTES = 1 << 30
_DEFAULT_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


@dataclass
class _Group:
    """vLLM's process group: opened with the first engine of a process, closed with the last, unless it was there."""

    engines: int = 0
    ours: bool = False


_group = _Group()


def require_vllm() -> None:
    """Raises ModelError, saying how to install it, where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ModelError(
            "rollout.engine: 'vllm' needs the package vllm, which is not installed here -> pip install"
            " 'reasonrl[vllm]' (on a machine without GPU: docs/rollout.md, vLLM on CPU), or use"
            " rollout.engine=transformers"
        )


def start_engine(folder: str, options: Mapping[str, Any]) -> Any:
    """vLLM's `LLMEngine` over a model folder, in this process.

    Args:
        folder: folder or hub id of the model.
        options: arguments of `vllm.EngineArgs`; those that are None take vLLM's default, on CPU ours (eager, 1 GiB of
            cache, prompts read whole).

    Raises:
        ModelError: vLLM is not installed, or refuses the model or an option.
    """
    require_vllm()
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    group_was_there = torch.distributed.is_available() and torch.distributed.is_initialized()
    with _environment(VLLM_ENABLE_V1_MULTIPROCESSING="0"), _unmarked():
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import Executor

        try:
            config = EngineArgs(model=folder, **_arguments(options)).create_engine_config(UsageContext.LLM_CLASS)
            engine = LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
        except (ValueError, RuntimeError, OSError) as error:
            given = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
            raise ModelError(
                f"rollout.engine: vllm cannot start over {folder!r} with {given}: {error} -> change what it names; the"
                " options stand under rollout"
            ) from error
    _group.ours = _group.ours or not group_was_there
    _group.engines += 1
    return engine


def stop_engine(engine: Any) -> None:
    """End an engine; with the last one of the process goes the process group, if vLLM has opened it."""
    from vllm.distributed.parallel_state import destroy_model_parallel
    from vllm.v1.engine import core

    _group.engines -= 1
    if _group.engines == 0 and _group.ours:
        engine.engine_core.shutdown()
        _group.ours = False
    else:
        # vLLM would end every process group with any engine: other engines' and the trainer's too.
        cleanup = core.cleanup_dist_env_and_memory
        core.cleanup_dist_env_and_memory = _nothing
        try:
            engine.engine_core.shutdown()
        finally:
            core.cleanup_dist_env_and_memory = cleanup
        if _group.engines == 0:
            destroy_model_parallel()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def write_skeleton(model: Any, folder: Path, processor: Any = None) -> None:
    """A checkpoint without weights: the configuration that vLLM builds the model from, and its processor if given."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(inner.config)
    config.architectures = [type(inner).__name__]
    config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def generation_config_of(path: str, *, trust_remote_code: bool = False) -> Any:
    """The generation config of a checkpoint, made from the model's own configuration where it has none."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code))


def checkpoint_dtype(path: str, *, trust_remote_code: bool = False) -> str:
    """The dtype a checkpoint was saved in; vLLM by itself would halve float32."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    dtype = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in options.items() if value is not None}
    if not torch.cuda.is_available():
        arguments.setdefault("enforce_eager", True)
        # On CPU a prompt that is read in two steps ends vLLM 0.31: it sets the seeded generator back by an offset that
        # only GPU generators have.
        arguments.setdefault("enable_chunked_prefill", False)
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            arguments.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Every rank of the trainer runs an engine of its own; vLLM joins the process group that is there.
        arguments["distributed_executor_backend"] = "external_launcher"
    return {
        # Prompts and samples are token ids; text is the tokenizer's we already have.
        "skip_tokenizer_init": True,
        # The distribution that tokens are drawn from: temperature and top-p applied.
        "logprobs_mode": "processed_logprobs",
        # Stop tokens and sampling parameters are ours, none of a checkpoint's.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **arguments,
    }


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _unmarked() -> Iterator[None]:
    """Global generators and torch's thread setter as they were; what vLLM is warned of is not our reader's business."""
    setter, dtype = torch.set_num_threads, torch.get_default_dtype()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        torch.set_num_threads = setter
        torch.set_default_dtype(dtype)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _nothing() -> None:
    """In place of vLLM's clean-up of all process groups."""
