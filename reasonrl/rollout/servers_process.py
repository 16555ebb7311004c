"""A vLLM server that we start on this machine: its command, its process, its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.errors import ModelError

KEEPER = Path(__file__).with_name("servers_keeper.py")
VLLM = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
#: The name that servers of ours give the policy.
SERVED_MODEL = "policy"
LABEL_VARIABLE = "REASONRL_WEIGHTS_LABEL"
_TAIL = 2000
_WORKER = "reasonrl.rollout.servers_worker"
_KEEP_ALIVE = "3600"
_GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class ServerProcess:
    """One started server.

    Args:
        command: program and first arguments; the rest is ours.
        options: vLLM's own settings, under the names of its `EngineArgs`.
        environment: beside ours, such as the visible devices.
        log: file that its output is added to.
        owned: folder that is removed if this process is killed.
    """

    command: Sequence[str]
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    log: Path
    owned: Path
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    model: Path | str = ""
    port: int = 0
    _keeper: subprocess.Popen[bytes] | None = None
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self, model: Path | str, label: str) -> None:
        """Start it over a model's folder or hub id, on a free port; `label` names the weights that lie there.

        After `end` it does nothing.
        """
        with self._lock:
            if not self._over:
                self._start(model, label)

    def end(self, patience: float) -> None:
        """End it for good: whoever watches it in another thread cannot start it again."""
        with self._lock:
            self._over = True
        self.kill(patience)

    def _start(self, model: Path | str, label: str) -> None:
        self.kill()
        self.model, self.port = model, free_port()
        # Each server is on its own: a trainer's process group is none of its business.
        inherited = {name: value for name, value in os.environ.items() if name not in _GROUP_VARIABLES}
        environment = {**inherited, **self._environment(label)}
        arguments = [*self.command, *flags({**_OURS, **self.options, "model": str(model), "port": self.port})]
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-E", str(KEEPER), str(os.getpid()), str(self.owned), *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        if self._keeper is None or self._keeper.returncode is not None:
            return False
        # It is left unreaped, so that the number of its group stays its own until `kill`.
        return os.waitid(os.P_PID, self._keeper.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    @property
    def group(self) -> int | None:
        """Process group that holds the server and all its children."""
        return None if self._keeper is None else self._keeper.pid

    def ask_to_end(self) -> None:
        """Begin a graceful end; `end` waits for it."""
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()

    def kill(self, patience: float = 0.0) -> None:
        """End it and everything it has started, after up to `patience` seconds for a graceful end."""
        if self._keeper is None:
            return
        self.ask_to_end()
        until = time.monotonic() + patience
        while self.alive and time.monotonic() < until:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._keeper.pid, signal.SIGKILL)
        self._keeper.wait()
        self._keeper = None

    def tail(self) -> str:
        """The end of its output."""
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[-_TAIL:].decode("utf-8", errors="replace")
            return text.strip()
        return ""

    def _environment(self, label: str) -> dict[str, str]:
        ours = {
            "VLLM_API_KEY": self.key,
            "VLLM_SERVER_DEV_MODE": "1",
            LABEL_VARIABLE: label,
            **({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if self.options.get("enable_lora") else {}),
            # A server that leaves idle connections early may do so while a request is on its way to it.
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": _KEEP_ALIVE,
        }
        defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        return {**{name: os.environ.get(name, value) for name, value in defaults.items()}, **self.environment, **ours}


_OURS: dict[str, Any] = {
    "host": "127.0.0.1",
    "served_model_name": SERVED_MODEL,
    # Prompts and samples are token ids; text is the tokenizer's we already have.
    "skip_tokenizer_init": True,
    # The distribution that tokens are drawn from: temperature and top-p applied.
    "logprobs_mode": "processed_logprobs",
    # Stop tokens and sampling parameters are ours, none of a checkpoint's.
    "generation_config": "vllm",
    "disable_uvicorn_access_log": True,
    "middleware": f"{_WORKER}.RequireKey",
    "worker_extension_cls": f"{_WORKER}.LoadFromFiles",
}


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of vLLM's server; None is left to vLLM."""
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if value is True:
            found.append(f"--{flag}")
        elif value is False:
            found.append(f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def device_environments(count: int, per_server: int, ranks: int = 1) -> list[dict[str, str]]:
    """What each of `count` servers is told about devices.

    With GPUs (untested): `per_server` of the visible ones each, beginning after the trainer's `ranks` where there are
    enough; else they share. On CPU: an equal share of the cores, bound to none of them, since vLLM
    would bind every server to the same ones.
    """
    import torch

    if not torch.cuda.is_available():
        threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
        defaults = {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return [{name: os.environ.get(name, value) for name, value in defaults.items()} for _ in range(count)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(place) for place in range(torch.cuda.device_count())]
    first = ranks if len(devices) >= ranks + count * per_server else 0
    return [
        {
            "CUDA_VISIBLE_DEVICES": ",".join(
                devices[(first + server * per_server + place) % len(devices)] for place in range(per_server)
            )
        }
        for server in range(count)
    ]


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_error(process: ServerProcess, place: int, why: str) -> ModelError:
    """Why a server could not be started, with the end of its output."""
    given = ", ".join(f"{name}={value}" for name, value in process.options.items() if value is not None)
    return ModelError(
        f"rollout.start: server {place + 1} {why} (model {str(process.model)!r}"
        + (f", {given}" if given else "")
        + f"); the end of its output:\n{process.tail() or '(nothing)'}\n-> change what it names; the options"
        " stand under rollout"
    )
