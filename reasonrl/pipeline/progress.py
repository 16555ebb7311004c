"""Saying how far a stage is, how long is left, and keeping its clocks over several attempts."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from reasonrl.pipeline.files import read_json, write_json

_SETTLED = 5.0


class ProgressReporter(Protocol):
    """Takes what `StageContext.report_progress` says."""

    def report(self, done: float, total: float | None, unit: str, note: str) -> None: ...


class SilentProgress:
    """Reports nothing."""

    def report(self, done: float, total: float | None, unit: str, note: str) -> None:
        return None


class LineProgress:
    """One line every `interval` seconds: how far, the rate, and the time left in this stage.

    The rate is that of this attempt only: the last report before the first unit marks where it began, so that loading
    does not count. No time left is said before some seconds of work.
    """

    def __init__(self, say: Callable[[str], None], label: str, interval: float = 30.0) -> None:
        self._say = say
        self._label = label
        self._interval = interval
        self._first: tuple[float, float] | None = None
        self._last_line = time.monotonic()

    def report(self, done: float, total: float | None, unit: str, note: str) -> None:
        now = time.monotonic()
        if self._first is None or done == self._first[1]:
            self._first = (now, done)
        if now - self._last_line < self._interval:
            return
        self._last_line = now
        self._say(f"{self._label}: {self._text(now, done, total, unit)}{f' ({note})' if note else ''}")

    def _text(self, now: float, done: float, total: float | None, unit: str) -> str:
        text = f"{done:g} {unit}" if total is None else f"{done:g}/{total:g} {unit}"
        assert self._first is not None
        began, first_done = self._first
        if total is None or done <= first_done or now - began < _SETTLED:
            return text
        left = (now - began) / (done - first_done) * max(total - done, 0.0)
        return f"{text}, about {duration(left)} left in this stage"


class _SayHandler(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))


@contextmanager
def logs_said(say: Callable[[str], None]) -> Iterator[None]:
    """While inside, what this library logs at INFO or above is said, once."""
    logger = logging.getLogger("reasonrl")
    if getattr(say, "__self__", None) in (logger, logging.getLogger("reasonrl.pipeline")):
        yield  # saying is logging already
        return
    handler = _SayHandler(say)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def logs_to_terminal() -> None:
    """Let what is logged as a warning or worse reach the terminal as a plain line, once."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_not_said_already)


def _not_said_already(record: logging.LogRecord) -> bool:
    """Whether no library further down has a handler of its own that has written this record to the terminal."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger is not logging.getLogger():
        if any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
            return False
        logger = logger.parent
    return True


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def cpu_seconds_of_process() -> float:
    """User and system CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class StageClock:
    """CPU and wall seconds of a stage over all its attempts, kept in `clock.json` so that a resumed stage counts on.

    An attempt that is killed outright loses what it spent since the last save (at most about `interval` seconds of
    progress reports).
    """

    def __init__(self, path: Path | None = None, interval: float = 5.0, processes: int = 1) -> None:
        """`processes` is how many like this one work on the stage: CPU seconds are counted as if all spent the same."""
        self._path = path
        self._interval = interval
        self._processes = processes
        self._cpu_before = 0.0
        self._wall_before = 0.0
        if path is not None and path.exists():
            try:
                record = read_json(path)
                self._cpu_before, self._wall_before = float(record["cpu_seconds"]), float(record["wall_seconds"])
            except (ValueError, KeyError, TypeError, json.JSONDecodeError):
                pass  # a clock that cannot be read starts at zero: it is a measurement, not a result
        self._cpu_start = cpu_seconds_of_process()
        self._wall_start = self._saved_at = time.monotonic()

    def cpu_seconds(self) -> float:
        return self._cpu_before + self._processes * (cpu_seconds_of_process() - self._cpu_start)

    def wall_seconds(self) -> float:
        return self._wall_before + time.monotonic() - self._wall_start

    def attempt_seconds(self) -> float:
        """Wall seconds of this attempt alone."""
        return time.monotonic() - self._wall_start

    def save_now_and_then(self) -> None:
        """Save if the last save is more than `interval` seconds old."""
        if time.monotonic() - self._saved_at > self._interval:
            self.save()

    def save(self) -> None:
        self._saved_at = time.monotonic()
        if self._path is not None:
            write_json(self._path, {"cpu_seconds": self.cpu_seconds(), "wall_seconds": self.wall_seconds()})
