"""A launched process's reports to the watch: its phase, every second or two, from a thread of its own."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

from reasonrl.observe import phases
from reasonrl.pipeline.wire import SILENCE, WATCH, job_key, parse_address, read_line, say_line

#: Exit status of a process that the watch has ended, or that has lost it.
LOST = 75


class Heartbeat:
    """Reports until `finish`; ends this process when it is told to, or when nobody answers for too long.

    Args:
        rank: of this process.
        address: of the watch.
        key: the job's.
        silence: seconds without an answer after which this process is cut off.
    """

    def __init__(self, rank: int, address: str, key: str, silence: float) -> None:
        self._rank, self._address, self._key, self._silence = rank, parse_address(address), key, silence
        self._every = min(2.0, silence / 6)
        self._done, self._last = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def finish(self) -> None:
        """Report that this process has done its work, and stop reporting."""
        self._done.set()
        self._thread.join(timeout=2 * self._every)

    def _run(self) -> None:
        heard = time.monotonic()
        while not self._last.is_set():
            try:
                with socket.create_connection(self._address, timeout=self._silence / 3) as connection:
                    stream = connection.makefile("rb")
                    hello = {"key": self._key, "role": "rank", "rank": self._rank, "host": _place()}
                    say_line(connection, hello)
                    while not self._last.is_set():
                        heard = self._beat(connection, stream)
            except OSError:
                pass
            if time.monotonic() - heard > self._silence:
                self._end(
                    f"no answer from the run at {self._address[0]}:{self._address[1]} for {self._silence:.0f} s: this"
                    " machine is cut off, or the run has ended"
                )
            self._done.wait(self._every)
            if self._done.is_set():
                return

    def _beat(self, connection: socket.socket, stream: object) -> float:
        now, done = phases.current(), self._done.is_set()
        beat = {"phase": now.name, "step": now.step, "changes": now.changes, "seconds": now.seconds, "done": done}
        say_line(connection, beat)
        answer = read_line(stream)
        if answer is None:
            raise ConnectionError("the watch has hung up")
        if answer.get("stop"):
            self._end(str(answer["stop"]))
        if done:
            self._last.set()
        else:
            self._done.wait(self._every)
        return time.monotonic()

    def _end(self, why: str) -> None:
        """End this process, whatever its other threads wait for."""
        sys.stderr.write(f"rank {self._rank} stops: {why}\n")
        sys.stderr.flush()
        os._exit(LOST)


def _place() -> str:
    """This machine, by its name and, where there are several, its number."""
    several = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    return socket.gethostname() + (f" (machine {os.environ.get('GROUP_RANK', '?')})" if several else "")


def start_heartbeat(rank: int) -> Heartbeat | None:
    """Report for this process if its environment names a watch."""
    if WATCH not in os.environ:
        return None
    return Heartbeat(rank, os.environ[WATCH], job_key(), float(os.environ[SILENCE]))
