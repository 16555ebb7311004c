"""Watching the processes of a launched stage: who is silent, who is too long in a phase, and who waits for it.

Every process reports its phase every second or two, from a thread of its own, to the process that walks the recipe.
That one takes part in no collective call, so it can always tell. A collective call cannot: it waits for half an hour,
and then names nobody.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from reasonrl.pipeline.wire import read_line, say_line

#: Seconds that a machine may take to be done after the others.
LAST = 60.0


@dataclass(frozen=True)
class Limits:
    """Seconds.

    Attributes:
        silence: that a process may not be heard of.
        start: until every process has reported, and of the phase before the first step.
        phase: in any other phase; phases: of single phases, by name.
    """

    silence: float = 300.0
    start: float = 7200.0
    phase: float = 14400.0
    phases: dict[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """Of a phase."""
        return self.phases.get(name, self.start if name == "start" else self.phase)


@dataclass
class Rank:
    """What was last heard of a process."""

    number: int
    host: str = "?"
    phase: str = "start"
    step: int = 0
    changes: int = 0
    phase_began: float = 0.0
    heard: float = 0.0
    done: bool = False

    def where(self, now: float) -> str:
        """In words."""
        seconds = now - self.phase_began
        return f"rank {self.number} on {self.host} in {self.phase} after step {self.step} for {seconds:.0f} s"


class Machine:
    """A machine that has joined: commands go to it, what it says comes back."""

    def __init__(self, rank: int, host: str, connection: Any) -> None:
        self.rank, self.host = rank, host
        self.heard = time.monotonic()
        self.ended: int | None = None
        self.gone = False
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Give it a message; a machine that cannot be reached is marked as gone."""
        try:
            with self._lock:
                say_line(self._connection, message)
        except OSError:
            self.gone = True


class Watch:
    """Listens to processes and machines.

    Args:
        host: the address that others reach this machine by.
        port: 0 takes a free one.
        key: what callers must know; a random one if empty.
        everywhere: listen on all of the machine's addresses.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, key: str = "", *, everywhere: bool = False) -> None:
        self.key = key or secrets.token_hex(16)
        self.limits = Limits()
        self.ranks: dict[int, Rank] = {}
        self.machines: dict[int, Machine] = {}
        self.verdict: str | None = None
        self._expected, self._began = 0, 0.0
        self._open: set[socket.socket] = set()
        watch = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                watch._open.add(self.connection)
                try:
                    watch._serve(self)
                finally:
                    watch._open.discard(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A connection that breaks is what silence is measured by; there is nothing to print."""

        self._server = Server(("" if everywhere else host, port), Handler)
        self.host, self.port = host, int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True, name="watch").start()

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening, and hang up: who still reports finds nobody there."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def begin(self, processes: int, limits: Limits) -> None:
        """Forget the last stage's processes and expect so many."""
        self.limits, self._expected, self._began = limits, processes, time.monotonic()
        self.ranks, self.verdict = {}, None
        for machine in self.machines.values():
            machine.ended = None

    def look(self) -> str | None:
        """What is wrong, in a sentence that names a process; None while all is well. Once said, it stays."""
        self.verdict = self.verdict or self._judge(time.monotonic())
        return self.verdict

    def _judge(self, now: float) -> str | None:
        ranks = dict(self.ranks)
        missing = [number for number in range(self._expected) if number not in ranks]
        if missing and now - self._began > self.limits.start:
            return f"rank {missing[0]} has not started within {self.limits.start:.0f} s ({len(missing)} are missing)"
        working = [rank for rank in ranks.values() if not rank.done]
        silent = [rank for rank in working if now - rank.heard > self.limits.silence]
        if silent:
            first = min(silent, key=lambda rank: rank.heard)
            text = f"nothing heard of rank {first.number} on {first.host} for {now - first.heard:.0f} s (limit"
            text += f" {self.limits.silence:.0f} s), last in {first.phase} after step {first.step}"
            return text + self._waiting(working, silent, now)
        late = [rank for rank in working if now - rank.phase_began > self.limits.of(rank.phase)]
        if late:
            # Who waits in a collective call is late too: the one that is behind is who they wait for.
            behind = min(working, key=lambda rank: (rank.step, rank.changes, rank.phase_began))
            limit = self.limits.of(behind.phase)
            return f"{behind.where(now)} (limit {limit:.0f} s)" + self._waiting(working, [behind], now)
        return None

    @staticmethod
    def _waiting(working: list[Rank], culprits: list[Rank], now: float) -> str:
        others = [rank.where(now) for rank in working if rank not in culprits]
        if not others:
            return ""
        more = f" and {len(others) - 4} others" if len(others) > 4 else ""
        return f"; waiting: {', '.join(others[:4])}{more}"

    def _serve(self, handler: Any) -> None:
        """One connection, of a process or of a machine."""
        hello = read_line(handler.rfile)
        if hello is None or not secrets.compare_digest(str(hello.get("key", "")), self.key):
            return
        if hello.get("role") == "machine":
            self._serve_machine(handler, hello)
            return
        number = int(hello["rank"])
        while (beat := read_line(handler.rfile)) is not None:
            now = time.monotonic()
            began = now - float(beat["seconds"])
            self.ranks[number] = Rank(
                number, str(hello["host"]), beat["phase"], beat["step"], beat["changes"], began, now, bool(beat["done"])
            )
            say_line(handler.connection, {"stop": self.verdict})

    def _serve_machine(self, handler: Any, hello: dict[str, Any]) -> None:
        machine = Machine(int(hello["rank"]), str(hello["host"]), handler.connection)
        self.machines[machine.rank] = machine
        while (message := read_line(handler.rfile)) is not None:
            machine.heard = time.monotonic()
            if "ended" in message:
                machine.ended = int(message["ended"])
            machine.send({"alive": True})
        machine.gone = True
