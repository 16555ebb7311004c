"""Being asked to stop: the first Ctrl-C or SIGTERM lets the running stage save, the second one kills at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reasonrl.errors import Interrupted

STOP_FILE = "stop"


class StopFlag:
    """Whether the run was asked to stop: by a signal in this process, or by a file (how a launched stage's workers are
    told).

    Attributes:
        signal_number: the signal that asked; None if none did.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._event = threading.Event()
        self._file = file
        self.signal_number: int | None = None

    def set(self, signal_number: int | None = None) -> None:
        if signal_number is not None and self.signal_number is None:
            self.signal_number = signal_number
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set() or (self._file is not None and self._file.exists())

    @property
    def exit_status(self) -> int:
        """What a process stopped by this signal exits with: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal_number or signal.SIGINT)

    def interrupted(self, where: str, command: str) -> Interrupted:
        """The error of a run that stopped because it was asked to.

        Args:
            where: such as `in stage 'rl'`.
            command: what carries the run on.
        """
        error = Interrupted(f"stopped {where}; everything is saved -> carry on with: {command}")
        error.exit_status = self.exit_status
        return error


@contextmanager
def stop_on_signals(
    flag: StopFlag, say: Callable[[str], None], on_second: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM set `flag`; a second one calls `on_second` and then kills this process by that
    signal.

    Outside the main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.signal_number is not None:
            on_second()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        flag.set(number)
        line = f"{signal.Signals(number).name}: saving and stopping at the next safe point; once more kills at once"
        # In a thread: the handler may have interrupted this very thread in the middle of writing a line.
        threading.Thread(target=say, args=(line,), daemon=True).start()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
