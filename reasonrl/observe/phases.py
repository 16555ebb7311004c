"""What this process is doing, in a word, for whoever watches it from outside: phase, step, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_lock = threading.Lock()


@dataclass
class _Now:
    name: str = "start"
    step: int = 0
    changes: int = 0
    since: float = 0.0


_now = _Now(since=time.monotonic())


@dataclass(frozen=True)
class Phase:
    """Where a process is.

    Attributes:
        name: of the phase: `start`, `generate`, `actor`, …; `work` between those that have a name.
        step: steps finished since the process began.
        changes: how often the phase has changed: of two processes in one job, the one with fewer is behind.
        seconds: since the last change.
    """

    name: str
    step: int
    changes: int
    seconds: float


def current() -> Phase:
    """Of this process, now."""
    with _lock:
        return Phase(_now.name, _now.step, _now.changes, time.monotonic() - _now.since)


def _enter(name: str, steps: int = 0) -> None:
    with _lock:
        _now.name, _now.since = name, time.monotonic()
        _now.changes += 1
        _now.step += steps


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say that the block is this phase; the one around it goes on afterwards."""
    with _lock:
        outer = _now.name
    _enter(name)
    try:
        yield
    finally:
        _enter("work" if outer == "start" else outer)


def step_done() -> None:
    """Say that a step is finished."""
    _enter("work", 1)
