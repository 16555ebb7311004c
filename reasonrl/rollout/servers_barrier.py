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
    """Have the server load a folder's weights as `label`; it stays paused if that fails.

    Raises:
        ServerFault: some step failed, or the server holds something else afterwards.
    """
    limits = api.limits
    await api.ask("POST", "/pause", timeout=limits.probe, params={"mode": "abort", "clear_cache": "true"})
    if loader == "ours":
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


async def _rpc(api: ServerApi, method: str, kwargs: dict[str, str], timeout: float) -> list[Any]:
    reply = await api.ask("POST", "/collective_rpc", {"method": method, "kwargs": kwargs}, timeout=timeout)
    results = reply.get("results") if isinstance(reply, dict) else None
    if not isinstance(results, list):
        raise ServerFault(f"/collective_rpc {method}: {reply!r} is not the API's")
    return results
