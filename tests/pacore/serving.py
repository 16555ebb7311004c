"""`reasonrl pacore serve` as a process of its own, and what its answers should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

from upstream import spoken

from reasonrl.pacore import Answer, Plan, Rounds


class Serving:
    """The process; use it in a `with`."""

    def __init__(self, *upstreams: str, options: tuple[str, ...] = (), **environment: str) -> None:
        words = [word for url in upstreams for word in ("--upstream", url)]
        self.words = [sys.executable, "-m", "reasonrl", "pacore", "serve", *words, "--port", "0", *options]
        self.environment = {**os.environ, **environment}

    def __enter__(self) -> Serving:
        self.process = subprocess.Popen(
            self.words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        )
        line = self.process.stdout.readline()
        assert " at " in line, self.process.stderr.read()
        self.url = line.rsplit(" at ", 1)[1].strip()
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> str:
        """A page beside /v1."""
        return urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=10).read().decode()

    def post(self, data: bytes | dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        """(status, body) of a chat completion."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        asked = urllib.request.Request(
            f"{self.url}/chat/completions", data, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as problem:
            return problem.code, json.loads(problem.read())


def expected(messages: list[dict[str, Any]], seed: int, rounds: tuple[int, ...] = (4,), style: str = "tags") -> str:
    """What the upstream's answers come to, by the algorithm without a server."""
    state = Rounds(messages, Plan(rounds=rounds), seed)
    while state.outcome is None:
        bodies = [{"messages": one.messages, "seed": one.seed, "temperature": 1.0} for one in state.calls()]
        state.close([Answer(*spoken(body, style)) for body in bodies])
    return state.outcome.text


def body(problem: str = "What is 1 + 1?", **fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "toy-pacore-low", "messages": [{"role": "user", "content": problem}], "seed": 1, **fields}
