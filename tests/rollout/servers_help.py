"""Fake servers as processes, and what a batch over them must come out as."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_vllm import STOP, drawn, fingerprint, logprob

from reasonrl.models.tiny import build_tiny, build_tokenizer
from reasonrl.rollout import Request, SamplingParams
from reasonrl.rollout.servers import ServersEngine
from reasonrl.rollout.servers_http import Limits

FAKE = (sys.executable, str(Path(__file__).with_name("fake_vllm.py")))
QUICK = Limits(
    connect=2, stall=2.5, request=6.0, probe=2.0, probe_every=0.3, probes=2, sync=3.0, start=20, recovery=6, restarts=2
)
PARAMS = SamplingParams(32)


@dataclass
class Fake:
    """A fake server that the test has started."""

    process: subprocess.Popen
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, **told: Any) -> dict:
        return script(self.url, **told)


def script(url: str, key: str | None = None, **told: Any) -> dict:
    """Tell a fake server what to do next; what it has seen so far."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url}/script", json.dumps(told).encode(), headers)
    with urllib.request.urlopen(request, timeout=5) as reply:
        return json.load(reply)


@contextlib.contextmanager
def fakes(folder: Path, count: int, *arguments: str, **environment: str) -> Iterator[list[Fake]]:
    """Running fake servers, each the leader of a process group."""
    found = [start_fake(folder, *arguments, **environment) for _ in range(count)]
    try:
        for fake in found:
            wait_for(fake)
        yield found
    finally:
        for fake in found:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(fake.process.pid, 9)
            fake.process.wait()


def start_fake(folder: Path, *arguments: str, port: int | None = None, **environment: str) -> Fake:
    port = port or free_port()
    command = [*FAKE, "--model", str(folder), "--port", str(port), *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    return Fake(process, port, folder)


def wait_for(fake: Fake) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", fake.port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the fake server did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def checkpoint(folder: Path) -> Path:
    """A model's folder."""
    return build_tiny("tiny:qwen2", folder)


def requests_of(count: int, per_prompt: int = 4) -> list[Request]:
    return [Request(f"r{i}", (5, 6, 7 + i // per_prompt), 1000 + i) for i in range(count)]


def expected(requests: list[Request], weights: str, params: SamplingParams = PARAMS) -> dict[str, tuple[int, ...]]:
    """What the fake draws, worked out without it."""
    return {
        r.id: tuple(drawn(r.seed, list(r.prompt_ids), weights, params.max_tokens, params.temperature == 0))
        for r in requests
    }


def engine_over(fakes: list[Fake], limits: Limits = QUICK, **options: Any) -> ServersEngine:
    tokenizer = build_tokenizer()
    folder = fakes[0].folder
    return ServersEngine(None, tokenizer, path=str(folder), urls=[fake.url for fake in fakes], limits=limits, **options)


def check(samples: list[Any], requests: list[Request], weights: str, params: SamplingParams = PARAMS) -> None:
    """Every request once, with the tokens of its seed."""
    assert sorted(sample.request.id for sample in samples) == sorted(request.id for request in requests)
    assert {sample.request.id: sample.token_ids for sample in samples} == expected(requests, weights, params)
    for sample in samples:
        assert sample.logprobs_sampled == tuple(logprob(token) for token in sample.token_ids)
        assert sample.finish_reason == ("stop" if sample.token_ids[-1] == STOP else "length")


def gone(pid: int, seconds: float = 8.0) -> bool:
    """Whether no process of this id runs any more (a zombie does not) within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def group_members(group: int) -> list[int]:
    """Processes of a group that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


__all__ = ["FAKE", "PARAMS", "QUICK", "Fake", "check", "fingerprint", "requests_of", "script"]
