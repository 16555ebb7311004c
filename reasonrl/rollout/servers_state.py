"""What is known of one server: how to reach it, what it is drawing, whether it may, and what it has done."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.rollout.servers_http import ServerApi
from reasonrl.rollout.servers_images import PictureReading
from reasonrl.rollout.servers_process import ServerProcess


@dataclass
class Health:
    """What one server has done so far.

    Attributes:
        requests, samples: requests sent, and samples that came whole.
        retries: samples that had to be drawn again elsewhere or later, whatever the reason.
        failures: requests that failed through the server's fault.
        losses: times it was lost with its process or its answers.
        restarts: times we started it again.
        catch_ups: times it was given weights after it had missed a version.
    """

    requests: int = 0
    samples: int = 0
    retries: int = 0
    failures: int = 0
    losses: int = 0
    restarts: int = 0
    catch_ups: int = 0


@dataclass
class OpenCall:
    """A sample that a server is drawing.

    `started` (sent) is a time of the loop's clock, `first_token` of the run's (`stamps.now`).
    """

    task: asyncio.Task[None]
    started: float
    expected: float
    received: int = 0
    first_token: float = 0.0
    recalled: str = ""

    @property
    def outstanding(self) -> float:
        """Expected tokens that are still to come."""
        return max(self.expected - self.received, 1.0)


@dataclass(eq=False)
class Server:
    """One server as the fleet sees it; times are those of the loop's clock."""

    place: int
    api: ServerApi
    process: ServerProcess | None = None
    model: str = ""
    root: str = ""
    max_model_len: int | None = None
    vllm: str = ""
    loader: str = ""
    in_service: bool = False
    ready: bool = False
    lost: bool = False
    gone: bool = False
    why_out: str = "not asked yet"
    aside_until: float = 0.0
    faults_in_a_row: int = 0
    restarts_in_a_row: int = 0
    last_fault: float = float("-inf")
    last_heard: float = float("-inf")
    asked: float = float("-inf")
    missed: int = 0
    open: dict[int, OpenCall] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    returning: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"server {self.place + 1} ({self.api.url})"

    def recall(self, why: str) -> None:
        """Take all its samples away from it."""
        for call in self.open.values():
            call.recalled = why
            call.task.cancel()


@dataclass(frozen=True)
class Reading:
    """What the trainer reads where servers must read the same: token ids, log-probabilities, largest mean difference
    (nats a token), and the version; with a picture, log-probabilities are those of the tokens after it.
    """

    ids: list[int]
    trainer: list[float]
    limit: float
    version: int
    picture: PictureReading | None = None


def figures_of(servers: Sequence[Server]) -> dict[str, float]:
    """Scalars for the run's metrics; see `ServersEngine.metrics`."""
    found = {"servers/up": float(sum(server.in_service for server in servers)), "servers/all": float(len(servers))}
    for server in servers:
        values = {name: float(value) for name, value in dataclasses.asdict(server.health).items()}
        calls = list(server.open.values())
        values |= {"open": float(len(calls)), "outstanding_tokens": sum(call.outstanding for call in calls)}
        values["up"] = float(server.in_service)
        found |= {f"servers/{server.place + 1}/{name}": value for name, value in values.items()}
    return found


def in_words(server: Server) -> dict[str, Any]:
    """What is known of a server; see `ServersEngine.health`."""
    return {
        "url": server.api.url,
        "group": server.process.group if server.process is not None else None,
        "in_service": server.in_service,
        "why_out": server.why_out,
        **dataclasses.asdict(server.health),
    }
