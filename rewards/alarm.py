"""One alarm over a piece of work in the main thread; the caller's own alarm is put back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LIMIT_SECONDS = 2.0
"""Time for one verdict: extraction, reading and comparison."""


class OutOfTime(BaseException):
    """The alarm rang. Not an Exception: the libraries that it interrupts catch those."""


@contextmanager
def alarm(limit: float) -> Iterator[None]:
    """Raises OutOfTime inside the block after `limit` seconds, then every 0.1 s should a library swallow it.

    An alarm that the caller had running is put back with what is left of it. Works in the main thread only.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    outer_left, outer_interval = signal.getitimer(signal.ITIMER_REAL)
    started = time.monotonic()
    outer_handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer_handler if outer_handler is not None else signal.SIG_DFL)
        if outer_left:
            # At least a millisecond: an outer alarm that fell due meanwhile must still ring.
            signal.setitimer(signal.ITIMER_REAL, max(outer_left - (time.monotonic() - started), 0.001), outer_interval)
