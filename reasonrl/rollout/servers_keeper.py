"""Keeps one server: starts it, and ends it with all its children when its owner is gone, the server is, or a signal
comes. Run as a program of its own, by path: `python servers_keeper.py OWNER_PID FOLDER PROGRAM [ARGUMENT …]`.

A server that is killed leaves its engine process behind, and a trainer that is killed leaves its servers. The keeper
leads a process group with all of them in it; it notices the owner's end by its standard input and by its parent.

Only the standard library, and no import of the package: it has to be small, and alive when nothing else is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

_LOOK = 0.2
_GRACE = 5.0
_TIDY = 2.0
_PR_SET_PDEATHSIG = 1


def main(owner: int, folder: str, command: list[str]) -> int:
    """Returns the server's exit status; the group is dead then.

    Args:
        owner: process id of who started the keeper.
        folder: removed when the owner is gone without having said goodbye.
        command: the server's.
    """
    asked = [False]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.__setitem__(0, True))
    keeper = os.getpid()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _die_with(keeper))
    orphan = False
    while server.poll() is None and not asked[0]:
        orphan = os.getppid() != owner
        with contextlib.suppress(InterruptedError):
            ready, _, _ = select.select([0], [], [], _LOOK)
            if orphan or (ready and not os.read(0, 64)):
                break
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE)
    time.sleep(0.0 if orphan else _LOOK)  # an owner that was killed is gone by the next look
    if os.getppid() != owner:
        shutil.rmtree(folder, ignore_errors=True)
    status = server.poll()
    if status is not None:
        print(f"server ended with status {status}", file=sys.stderr, flush=True)
    # The engine process is in this group and outlives its server. Python's resource trackers get a moment to remove
    # the shared memory of those that are killed.
    for pid in _members(os.getpgrp(), trackers=False):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + _TIDY
    while time.monotonic() < until and _members(os.getpgrp(), trackers=True):
        time.sleep(0.02)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # whoever is left, and the keeper itself
    return 1


def _members(group: int, *, trackers: bool) -> list[int]:
    """Processes of the group that run: its resource trackers, or all others but this one."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{int(name)}/stat", encoding="utf-8", errors="replace") as stat:
                state, _, leader = stat.read().rpartition(")")[2].split()[:3]
            with open(f"/proc/{name}/cmdline", "rb") as command:
                tracker = b"resource_tracker" in command.read()
            if int(leader) == group and state != "Z" and tracker == trackers and int(name) != os.getpid():
                found.append(int(name))
    return found


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
