"""What a vLLM server that we start runs of ours: a guard in front of all its paths, and a worker that loads weights
from files. vLLM imports this by name (`--middleware`, `--worker-extension-cls`); nothing else does.

vLLM's own key guards `/v1` only, while its developer endpoints (weights, pause, any method of a worker) stay open.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class RequireKey:
    """ASGI middleware: no path without the key that stands in `VLLM_API_KEY`; without a key nothing is open."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ.get('VLLM_API_KEY', '')}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"key missing or wrong"})

    def _allowed(self, scope: Scope) -> bool:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        return self._expected != b"Bearer " and hmac.compare_digest(given, self._expected)


class LoadFromFiles:
    """Mixed into vLLM's worker: takes weights over in place from the safetensors files of a folder."""

    def reasonrl_load(self, folder: str, version: str) -> dict[str, Any]:
        """Load all files of `folder`, refresh a tied head, and remember `version`."""
        import torch

        from reasonrl.rollout.vllm_engine import refresh_packed_heads
        from reasonrl.rollout.vllm_images import tower_names_among

        self._reasonrl_version = "half loaded"
        model = self.get_model()  # type: ignore[attr-defined]
        theirs = tower_names_among([name for name, _ in model.named_parameters()])
        weights = ((theirs(name), tensor) for name, tensor in _tensors(Path(folder)))
        with torch.no_grad():
            self.reload_weights(weights_iterator=weights)  # type: ignore[attr-defined]
            refresh_packed_heads(model)
        self._reasonrl_version = version
        return self.reasonrl_weights()

    def reasonrl_label(self, version: str) -> dict[str, Any]:
        """Remember `version` for weights that came another way: an adapter."""
        self._reasonrl_version = version
        return self.reasonrl_weights()

    def reasonrl_weights(self) -> dict[str, Any]:
        """Which version this worker holds: the last one loaded, or the one that the server was started with."""
        return {"version": getattr(self, "_reasonrl_version", os.environ.get("REASONRL_WEIGHTS_LABEL", ""))}


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors files in {folder}")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)
