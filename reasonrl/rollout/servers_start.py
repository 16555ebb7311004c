"""Starting this run's servers and ending them again: what they are told, and in which order they go."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.rollout.servers_process import VLLM, ServerProcess, device_environments
from reasonrl.rollout.servers_weights import WeightFolders
from reasonrl.rollout.vllm_start import CPU_CACHE_BYTES, require_vllm

_log = logging.getLogger(__name__)
_GOODBYE = 10.0


def plan_processes(
    count: int, command: Sequence[str], options: Mapping[str, Any], owned: Path, logs: Path | None, ranks: int
) -> list[ServerProcess]:
    """Servers to be started.

    Args:
        count: how many.
        command: program and first arguments.
        options: vLLM's own settings; None is left to vLLM.
        owned: folder that goes when the run is killed.
        logs: folder for their output; None takes `owned`.
        ranks: processes of the trainer, which have devices of their own.

    Raises:
        ModelError: vLLM is not installed.
    """
    if tuple(command) == VLLM:
        require_vllm()
    devices = device_environments(count, options.get("tensor_parallel_size") or 1, ranks)
    folder = logs or owned
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        ServerProcess(command, options, devices[place], folder / f"server-{place + 1}.log", owned)
        for place in range(count)
    ]
    said = f" (output: {', '.join(str(process.log) for process in processes)})" if logs is not None else ""
    _log.info("rollout: starting %d vLLM server%s%s", count, "s" if count > 1 else "", said)
    return processes


def default_options() -> dict[str, Any]:
    """What servers are told unless the recipe says otherwise."""
    import torch

    if torch.cuda.is_available():
        return {}
    cache = {} if "VLLM_CPU_KVCACHE_SPACE" in os.environ else {"kv_cache_memory_bytes": CPU_CACHE_BYTES}
    # A prompt that is read in two steps ends vLLM 0.31 on CPU: see `vllm_start`.
    return {"enforce_eager": True, "enable_chunked_prefill": False, **cache}


def finish(processes: list[ServerProcess], folders: WeightFolders | None) -> None:
    """End all servers, together, and remove their weights."""
    for process in processes:
        process.ask_to_end()
    for process in processes:
        process.end(_GOODBYE)
    if folders is not None:
        folders.remove()
