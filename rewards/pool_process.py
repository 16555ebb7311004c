"""The pool's side of its processes: the template, and a handle on every worker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import Any

from reasonrl.rewards.pool_state import PoolSettings, Task
from reasonrl.rewards.pool_wire import Frames, Slot, drain, encode
from reasonrl.rewards.pool_worker import command

_TAIL = 4096
STARVED = 0.1
"""Share of its limit below which an item that is ready to run has not had its turn: 0.2 s of CPU, a hundred items'
worth, with the usual limit.
"""
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread a worker, and no accelerator: a worker only reads text."""


class Tail:
    """The last bytes that a process wrote to its standard error."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._kept = b""
        os.set_blocking(descriptor, False)

    def read(self) -> bool:
        """Takes what is there; False when the pipe is closed."""
        while True:
            try:
                data = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._kept = (self._kept + data)[-_TAIL:]

    def last_line(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def text(self) -> str:
        """All that is kept."""
        return self._kept.decode("utf-8", "replace")


class Worker:
    """One worker process: what it was given, what it owes, and since when it is at work.

    Attributes:
        number: the pool's number of it.
        assigned: items given and not answered, in order.
        ready: it has said so.
        dying: it was told to end or has ended; its items are still in `assigned`.
        excused: it was ended for a reason that is no item's fault.
        killed_for: the item it was killed for; 0 if none.
        exit: how it ended, as `os.waitstatus_to_exitcode`; None while it runs.
    """

    def __init__(self, number: int, link: socket.socket, tail: Tail, slot: Slot) -> None:
        self.number, self.link, self.tail, self.slot = number, link, tail, slot
        self.assigned: dict[int, Task] = {}
        self.frames = Frames()
        self.unsent = bytearray()
        self.pid = 0
        self.ready = self.dying = self.excused = self.closed = False
        self.killed_for = 0
        self.exit: int | None = None
        self.taken = 0
        self.peak_kb = 0
        self.heard = time.monotonic()
        self._seen: tuple[int, float] | None = None  # item in work, and the worker's CPU seconds at the first look

    def send(self, items: list[list[Any]]) -> None:
        """Gives items; what the socket does not take now is kept for `flush`."""
        self.unsent += encode(items)
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes."""
        while self.unsent:
            try:
                written = self.link.send(memoryview(self.unsent)[: 1 << 18])
            except BlockingIOError:
                return
            except ConnectionError:
                self.unsent.clear()
                return
            del self.unsent[:written]

    def receive(self) -> tuple[list[Any], bool]:
        """The frames that have come, and whether the worker has closed its end."""
        return drain(self.link, self.frames)

    def look(self, item: int) -> None:
        """Notes the CPU time of a worker whose item has been long in work, for `starved`."""
        if self._seen is None or self._seen[0] != item:
            usage = cpu_seconds(self.pid)
            self._seen = None if usage is None else (item, usage[0])

    def starved(self, item: int, limit: float) -> bool:
        """Whether the item in work has waited for a CPU rather than worked: it is ready to run, and has had less than
        STARVED of its limit since the first look. False where the system does not tell.
        """
        usage = cpu_seconds(self.pid)
        if usage is None or self._seen is None or self._seen[0] != item:
            return False
        seconds, runnable = usage
        return runnable and seconds - self._seen[1] < STARVED * limit

    def measure(self) -> None:
        """Takes the peak memory of a worker that cannot tell it any more."""
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{self.pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    self.peak_kb = max(self.peak_kb, int(line.split()[1]))

    def how_it_ended(self) -> str:
        """In words, with the last line of its standard error."""
        line = self.tail.last_line()
        said = f" ({line})" if line else ""
        if self.exit is None:
            return f"was lost{said}"
        if self.exit >= 0:
            return f"left with exit code {self.exit}{said}"
        try:
            name = signal.Signals(-self.exit).name
        except ValueError:
            name = f"signal {-self.exit}"
        hint = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"died of {name}{hint}{said}"

    def close(self) -> None:
        """Gives its descriptors back."""
        if not self.closed:
            self.closed = True
            self.link.close()
            os.close(self.tail.descriptor)
            self.slot.close()


def cpu_seconds(pid: int) -> tuple[float, bool] | None:
    """CPU seconds a process has had, and whether it could use more now; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == b"R"
    except (OSError, ValueError, IndexError):
        return None


class Template:
    """The process that forks workers.

    It is started by the dispatcher's thread, which lives as long as the pool: the kernel takes "parent" in "kill me
    with my parent" to be the thread that started a process.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.ready = self.closed = False
        self.started = time.monotonic()
        self.frames = Frames()
        self.link, theirs = socket.socketpair()
        errors, errors_of_theirs = os.pipe()
        self.tail = Tail(errors)
        try:
            self.process = subprocess.Popen(
                command(theirs.fileno(), settings.grader),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors_of_theirs,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_QUIET},
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(errors_of_theirs)
        self.link.setblocking(False)

    def fork(self, number: int) -> Worker:
        """A new worker; it says `ready` by itself.

        Raises:
            OSError: the template is gone, or this process has no descriptors left.
        """
        link, theirs = socket.socketpair()
        errors, errors_of_theirs = os.pipe()
        descriptor = Slot.create()
        worker = Worker(number, link, Tail(errors), Slot(descriptor))
        link.setblocking(False)
        given = [theirs.fileno(), errors_of_theirs, descriptor]
        order = {"memory_limit_mb": self.settings.memory_limit_mb, "time_limit": self.settings.time_limit}
        try:
            socket.send_fds(self.link, [encode(["fork", number, order])], given)
        except OSError:
            worker.close()
            raise
        finally:
            theirs.close()
            os.close(errors_of_theirs)
            os.close(descriptor)
        return worker

    def kill(self, worker: Worker) -> None:
        """Has a worker killed; it is the template that does it, for only a parent knows that the process id is his."""
        with contextlib.suppress(OSError):
            self.link.sendall(encode(["kill", worker.number]))

    def receive(self) -> tuple[list[Any], bool]:
        """The messages that have come, and whether the template has closed its end."""
        return drain(self.link, self.frames)

    def end(self, patience: float = 2.0) -> None:
        """Ends it and, through it, every worker."""
        with contextlib.suppress(OSError):
            self.link.sendall(encode(["stop"]))
        try:
            self.process.wait(patience if self.ready else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        """Gives the descriptors back."""
        if not self.closed:
            self.closed = True
            self.link.close()
            os.close(self.tail.descriptor)
