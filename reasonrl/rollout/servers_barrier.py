"""Giving a server weights so that nothing is drawn with the old ones afterwards: pause, load, forget prefixes, name the
version, resume, ask.

Two ways, found by asking. `ours`: the server runs `servers_worker.LoadFromFiles` (those that we start do), whose
workers also refresh tied heads and say themselves which version they hold. `plain`: vLLM's own `reload_weights` from a
folder, with the version kept as a label at the server. A transfer over NCCL between GPUs would be a third one, beside
these (`/init_weight_transfer_engine`, `/update_weights`); it is not written, for want of a machine to run it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonrl.rollout.adapters import ADAPTER_NAME, holds_adapter
from reasonrl.rollout.servers_http import ServerApi, ServerFault, StatusFault

_RESETS = 5


async def find_loader(api: ServerApi) -> str:
    """`ours`, `plain`, or empty where the server takes no weights (it has no developer endpoints)."""
    try:
        await _rpc(api, "reasonrl_weights", {}, api.limits.probe)
        return "ours"
    except StatusFault as fault:
        if fault.status != 500:
            return ""
    try:
        await api.ask("GET", "/weight_info", timeout=api.limits.probe)
        return "plain"
    except StatusFault:
        return ""


async def held_label(api: ServerApi, loader: str) -> str:
    """The version that the server says it holds; workers that differ give `mixed`."""
    if loader == "ours":
        found = {str(result["version"]) for result in await _rpc(api, "reasonrl_weights", {}, api.limits.probe)}
        return found.pop() if len(found) == 1 else "mixed"
    if not loader:
        raise ServerFault(
            "it takes no weights; a server of one's own is started with VLLM_SERVER_DEV_MODE=1 (docs/servers.md)"
        )
    reply = await api.ask("GET", "/weight_info", timeout=api.limits.probe)
    try:
        return str(reply["weight_version"])
    except (TypeError, KeyError):
        raise ServerFault(f"/weight_info is not the API's: {reply!r}") from None


async def load_weights(api: ServerApi, loader: str, folder: Path, label: str) -> None:
    """Have the server load a folder's weights, or its adapter, as `label`; it stays paused if that fails.

    Raises:
        ServerFault: some step failed, or the server holds something else afterwards.
    """
    limits = api.limits
    await api.ask("POST", "/pause", timeout=limits.probe, params={"mode": "abort", "clear_cache": "true"})
    if holds_adapter(folder):
        await _load_adapter(api, loader, folder, label)
    elif loader == "ours":
        await _rpc(api, "reasonrl_load", {"folder": str(folder), "version": label}, limits.sync)
    else:
        await _rpc(api, "reload_weights", {"weights_path": str(folder)}, limits.sync)
        await api.ask("POST", "/update_weight_version", {"new_version": label}, timeout=limits.probe)
    for _ in range(_RESETS):
        reply = await api.ask("POST", "/reset_prefix_cache", timeout=limits.probe)
        if isinstance(reply, dict) and reply.get("success", True):
            break
    else:
        raise ServerFault("/reset_prefix_cache: it keeps prefixes of the old weights")
    await api.ask("POST", "/resume", timeout=limits.probe)
    held = await held_label(api, loader)
    if held != label:
        raise ServerFault(f"it was given version {label!r} and holds {held!r}")


async def _load_adapter(api: ServerApi, loader: str, folder: Path, label: str) -> None:
    """In the place of the one before, by vLLM's own endpoints.

    Not with their `load_inplace`: vLLM 0.31 keeps that word with the adapter, and reads the files again at every step.
    """
    try:
        await api.ask(
            "POST", "/v1/unload_lora_adapter", {"lora_name": ADAPTER_NAME}, timeout=api.limits.probe, as_text=True
        )
    except StatusFault as fault:
        if "cannot be found" not in str(fault):  # it had none
            raise _no_adapters(fault) from None
    body = {"lora_name": ADAPTER_NAME, "lora_path": str(folder)}
    try:
        await api.ask("POST", "/v1/load_lora_adapter", body, timeout=api.limits.sync, as_text=True)
    except StatusFault as fault:
        raise _no_adapters(fault) from None
    if loader == "ours":
        await _rpc(api, "reasonrl_label", {"version": label}, api.limits.probe)
    else:
        await api.ask("POST", "/update_weight_version", {"new_version": label}, timeout=api.limits.probe)


def _no_adapters(fault: StatusFault) -> ServerFault:
    if fault.status not in (404, 405):
        return fault
    return ServerFault(
        "it takes no adapters; a server of one's own needs --enable-lora, --max-lora-rank and"
        " VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, or use lora='merge' (docs/servers.md)"
    )


async def _rpc(api: ServerApi, method: str, kwargs: dict[str, str], timeout: float) -> list[Any]:
    reply = await api.ask("POST", "/collective_rpc", {"method": method, "kwargs": kwargs}, timeout=timeout)
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list):
        raise ServerFault(f"/collective_rpc {method}: {reply!r} is not the API's")
    return results
