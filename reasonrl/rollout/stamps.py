"""Where and when samples are drawn: the run's clock, and the name of an engine inside this process."""

from __future__ import annotations

import os
import time

# Fixed once a process: the wall clock may be set while a run goes on, and stamps must not step back with it.
_EPOCH = time.time() - time.monotonic()

STAMP_COLUMNS = ("server", "started", "finished", "verify_seconds")
"""Columns of the completions that say where and when: they differ between two runs of the same."""


def on_the_clock(monotonic: float) -> float:
    """Seconds since 1970 for a reading of `time.monotonic`, which is also the clock of vLLM and of event loops."""
    return _EPOCH + monotonic


def now() -> float:
    """Seconds since 1970, by a clock that never steps back."""
    return on_the_clock(time.monotonic())


def process_name() -> str:
    """What an engine inside a trainer's process is called in stamps: the process's rank."""
    return os.environ.get("RANK", "0")
