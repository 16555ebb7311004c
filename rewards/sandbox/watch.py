"""Watching programs and ending them. Standard library only; runs inside the sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import time

_IDLE_STATES = frozenset("STZtX")


def sweep(root: int, whole: bool) -> None:
    """Kill and reap every process below `root` (this process). `whole`: all processes that this one may signal at all
    are below it (a process namespace or a user of its own), so that one call reaches them, whatever they have become.
    """
    for _ in range(200):
        if whole:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        else:
            for process in _children(root):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _children(root: int) -> list[int]:
    """All descendants of a process. Orphans among them have come to the adopter, so the tree is whole."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    below, added = {root}, True
    while added:
        new = {process for process, parent in parents.items() if parent in below} - below
        below, added = below | new, bool(new)
    return sorted(below - {root})


def size_of(folder: str) -> int:
    """Bytes of all files below a folder."""
    total = 0
    with contextlib.suppress(RecursionError):
        for root, _, files in os.walk(folder):
            for name in files:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(root, name)).st_size
    return total


def usage(all_users: bool) -> tuple[int, float]:
    """Memory (bytes) and processor time (seconds) of all processes but this one; of this user's alone, if not all are
    ours.
    """
    pages = ticks = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            if all_users or os.stat(f"/proc/{name}").st_uid == os.geteuid():
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                pages += int(fields[21])
                ticks += int(fields[11]) + int(fields[12])
    return pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")


class Clock:
    """What a request has used: processor time of the program, and time in which it ran nothing.

    A program that waits for a processor is not to blame, so time as on the wall counts only ten times over.
    """

    def __init__(self, process: int, seconds: float, has_proc: bool) -> None:
        self.process, self.seconds, self.has_proc = process, seconds, has_proc
        self.used = 0.0
        self.looked = 0.0
        self.before = self._processor_time()  # of earlier requests to the same process
        self.restart()

    def restart(self) -> None:
        """Begin anew: the time before was another's."""
        self.started = self.last = time.monotonic()
        self.begun_at = self._processor_time() - self.used
        self.idle = 0.0

    def over(self) -> str:
        """`timeout` once a limit is passed; takes down what was used."""
        now = time.monotonic()
        self.used = max(self.used, self._processor_time() - self.begun_at)
        if self._waits():
            self.idle += now - self.last
        self.last = now
        wall = now - self.started > self.seconds * (10 if self.has_proc else 3)
        return "timeout" if self.used > self.seconds or self.idle > self.seconds or wall else ""

    def due(self) -> bool:
        """True a few times a second."""
        if self.last - self.looked < 0.2:
            return False
        self.looked = self.last
        return True

    def _processor_time(self) -> float:
        try:
            return time.clock_gettime((~self.process << 3) | 2)  # the clock of another process, as clock_getcpuclockid
        except OSError:
            return self.used + getattr(self, "begun_at", 0.0)

    def _waits(self) -> bool:
        try:
            with open(f"/proc/{self.process}/stat", "rb") as file:
                return chr(file.read().rpartition(b")")[2].split()[0][0]) in _IDLE_STATES
        except (OSError, IndexError):
            return False
