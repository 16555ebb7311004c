"""Computer algebra, under an alarm: math-verify on two normalised texts that passed the cost gate.

math-verify's own alarms are whole seconds each for the gold, the answer and every pair, and they drop an alarm that
somebody else had set. Here one alarm covers the whole comparison and the caller's alarm is put back. Alarms work in the
main thread only: elsewhere nothing is evaluated.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import FrameType
from typing import Any

from reasonrl.rewards.numbers import Quantity, rounds_to

LIMIT_SECONDS = 2.0
"""Time for one comparison: both parses and the verification."""


class NoMainThread(Exception):
    """Computer algebra was asked for outside the main thread, where it could not be stopped."""


class OutOfTime(BaseException):
    """The alarm rang. Not an Exception: the libraries below catch those."""


def symbolically_equal(gold: str, answer: str, decimal: Quantity | None = None, limit: float = LIMIT_SECONDS) -> bool:
    """Whether two expressions are equal by math-verify.

    Args:
        gold: a normalised text that passed the cost gate.
        answer: likewise.
        decimal: the answer as a decimal that may stand for a rounded gold; None if rounding is not accepted.
        limit: seconds for the whole comparison.

    Raises:
        OutOfTime: it took longer than `limit`.
        NoMainThread: called outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise NoMainThread
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its own alarms are off: ours is on
    settings: dict[str, Any] = {
        "extraction_config": [LatexExtractionConfig()],
        "fallback_mode": "no_fallback",
        "parsing_timeout": None,
    }
    with alarm(limit):
        parsed_gold, parsed_answer = parse(f"${gold}$", **settings), parse(f"${answer}$", **settings)
        if not parsed_gold or not parsed_answer:
            return False
        if decimal is not None and _rounds(parsed_gold[0], decimal):
            return True
        return bool(verify(parsed_gold, parsed_answer, timeout_seconds=None, allow_set_relation_comp=True))


def _rounds(gold: Any, decimal: Quantity) -> bool:
    """Whether a decimal of three significant digits or more is an irrational gold, rounded."""
    if (
        not getattr(gold, "is_number", False)
        or gold.is_rational is not False
        or not gold.is_real
        or decimal.decimals is None
    ):
        return False
    exact = Fraction(str(gold.evalf(decimal.decimals + 20)))
    return decimal.significant >= 3 and decimal.value in rounds_to(exact, decimal.decimals)


@contextmanager
def alarm(limit: float) -> Iterator[None]:
    """Raises OutOfTime inside the block after `limit` seconds, and again every half second should a library swallow it.

    An alarm that the caller had running is put back with what is left of it.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    outer_left, outer_interval = signal.getitimer(signal.ITIMER_REAL)
    started = time.monotonic()
    outer_handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer_handler if outer_handler is not None else signal.SIG_DFL)
        if outer_left:
            # At least a millisecond: an outer alarm that fell due meanwhile must still ring.
            signal.setitimer(signal.ITIMER_REAL, max(outer_left - (time.monotonic() - started), 0.001), outer_interval)
