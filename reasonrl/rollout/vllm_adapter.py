"""The one adapter of a vLLM engine in this process: taken over in place, at every step, from a folder in shared memory
where there is any.

vLLM 0.31 loads adapters from folders only; the public way is taken, and costs one write and one read of a few MB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reasonrl.errors import ModelError
from reasonrl.rollout.adapters import ADAPTER_ID, ADAPTER_NAME, write_adapter

_SHARED_MEMORY = Path("/dev/shm")


class AdapterSlot:
    """Loads adapters into a vLLM engine, and names them to its requests."""

    def __init__(self) -> None:
        self._request: Any = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Of vLLM's `add_request`: the adapter, once there is one."""
        return {} if self._request is None else {"lora_request": self._request}

    def load(self, vllm: Any, factors: Mapping[str, torch.Tensor]) -> None:
        """Take this adapter over in the place of the one before.

        Raises:
            ModelError: vLLM refuses it.
        """
        from vllm.lora.request import LoRARequest

        parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="reasonrl-adapter-", dir=parent) as folder:
            write_adapter(factors, Path(folder))
            try:
                loaded = vllm.add_lora(LoRARequest(ADAPTER_NAME, ADAPTER_ID, folder, load_inplace=True))
            except (ValueError, RuntimeError, AssertionError, KeyError, NotImplementedError) as error:
                raise ModelError(
                    f"sync_weights: vLLM does not take the adapter: {error} -> lora='merge' hands over merged weights"
                ) from error
        if not loaded:
            raise ModelError("sync_weights: vLLM says that it has not loaded the adapter -> lora='merge'")
        # Without `load_inplace`: a request must not load it again, from a folder that is gone.
        self._request = LoRARequest(ADAPTER_NAME, ADAPTER_ID, folder)
