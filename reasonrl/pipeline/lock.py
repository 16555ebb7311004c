"""One process per run directory: a lock file that says who holds it, and that the dead cannot hold."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from reasonrl.errors import RunError
from reasonrl.pipeline.files import read_json, write_json

LOCK_FILE = ".lock"
ORPHAN_PATIENCE = 30.0


def process_record(pid: int | None = None) -> dict[str, Any]:
    """What tells a process from a later one with the same id: pid, host, start time (seconds since the epoch)."""
    pid = os.getpid() if pid is None else pid
    return {"pid": pid, "host": socket.gethostname(), "started": psutil.Process(pid).create_time()}


def is_alive(record: Any) -> bool:
    """Whether the process of a `process_record` still runs. One on another host counts as running: nobody here can
    tell.

    A record of another shape belongs to no process.
    """
    try:
        pid, host, started = int(record["pid"]), str(record["host"]), float(record["started"])
    except (KeyError, TypeError, ValueError):
        return False
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def run_lock(directory: Path) -> Iterator[bool]:
    """Hold the lock of a run directory; yields whether it was taken over from a dead process.

    Raises RunError if a live process holds it (naming its pid and host), or the folder cannot be written to.
    """
    path = directory / LOCK_FILE
    with _alone_in(directory):
        holder = _read(path)
        if holder is not None and is_alive(holder):
            raise RunError(_held(path, holder))
        taken_over = path.exists()
        try:
            write_json(path, {**process_record(), "command": sys.argv})
        except OSError as error:
            raise RunError(f"cannot write in {directory}: {error.strerror} -> choose another `output`") from error
    try:
        yield taken_over
    finally:
        with _alone_in(directory):
            holder = _read(path)
            if holder is not None and holder["pid"] == os.getpid():
                path.unlink(missing_ok=True)


def wait_for_orphans(record_path: Path, patience: float = ORPHAN_PATIENCE) -> None:
    """Wait until the processes that a killed run had started are gone; they watch for its death and end themselves.

    Args:
        record_path: file with the `process_record` of the launcher; nothing is waited for if it is absent.
        patience: seconds.

    Raises RunError naming the process if it is still there then.
    """
    record = _read(record_path)
    if record is None:
        return
    deadline = time.monotonic() + patience
    while is_alive(record):
        if time.monotonic() > deadline:
            raise RunError(
                f"process {record['pid']} on {record['host']}, started by an earlier run that was killed, is still at "
                f"work in {record_path.parent} -> end it (kill {record['pid']}) and start again"
            )
        time.sleep(0.1)
    record_path.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        return None


def _held(path: Path, holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(holder["started"])))
    text = f"{path.parent} is in use by process {holder['pid']} on {holder['host']}, started {since}"
    if holder["host"] == socket.gethostname():
        return f"{text} -> wait for it, stop it (kill {holder['pid']}), or choose another `output`"
    return f"{text} -> if that process is gone, delete {path}"


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Guard the reading and replacing of the lock file itself against another process doing the same."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
