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
    # The engine process is in this group and outlives its server; this ends the keeper too.
    status = server.poll()
    if status is not None:
        print(f"server ended with status {status}", file=sys.stderr, flush=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
    return 1


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
