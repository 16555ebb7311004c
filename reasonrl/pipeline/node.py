"""A machine that works for a run walked elsewhere: it joins, starts its share of each stage's processes, reports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from reasonrl.errors import StageFailed
from reasonrl.pipeline.wire import SILENCE, job_key, parse_address, read_line, say_line

EVERY = 1.0
#: Seconds without a word from the head before the first order, which brings the recipe's own limit.
SILENT = 120.0


class Node:
    """See the module.

    Args:
        address: the head's.
        rank: of this machine, 1 or more; the head is 0.
        patience: seconds to look for the head, at first and after it was lost.
        say: takes lines.
    """

    def __init__(self, address: str, rank: int, patience: float, say: Callable[[str], None]) -> None:
        self._address, self._rank, self._patience, self._say = parse_address(address), rank, patience, say
        self._child: subprocess.Popen[bytes] | None = None
        self._silence = SILENT
        self._own, self._joined = "", False
        self._lock = threading.Lock()

    def work(self) -> int:
        """Work until the head says that the run has ended; gives the run's exit status.

        Raises StageFailed when the head cannot be found or was lost for longer than `patience`.
        """
        lost = time.monotonic()
        while True:
            try:
                with socket.create_connection(self._address, timeout=5.0) as connection:
                    status = self._serve(connection)
                if status is not None:
                    return status
            except OSError:
                pass
            if self._joined:
                self._say(f"machine {self._rank}: the head was lost: ending this machine's processes")
                self._kill()
                self._joined, lost = False, time.monotonic()
            if time.monotonic() - lost > self._patience:
                host, port = self._address
                raise StageFailed(
                    f"machine {self._rank}: no run at {host}:{port} for {self._patience:.0f} s -> see what the head"
                    " (machine 0) says, and start both again"
                )
            time.sleep(EVERY)

    def _serve(self, connection: socket.socket) -> int | None:
        """Carry out what the head says; gives the run's exit status, or None when the head is lost."""
        hello = {"key": job_key(), "role": "machine", "rank": self._rank, "host": socket.gethostname()}
        say_line(connection, hello)
        self._own = str(connection.getsockname()[0])
        stop = threading.Event()
        threading.Thread(target=self._report, args=(connection, stop), daemon=True).start()
        connection.settimeout(self._silence)
        stream = connection.makefile("rb")
        try:
            while (order := read_line(stream)) is not None:
                self._joined = True
                if "bye" in order:
                    self._kill()
                    return int(order["bye"])
                if order.get("kill"):
                    self._kill()
                if "run" in order:
                    self._start(order["run"])
                    connection.settimeout(self._silence)
        finally:
            stop.set()
        return None

    def _report(self, connection: socket.socket, stop: threading.Event) -> None:
        """Every second: alive, and how the processes ended."""
        while not stop.wait(EVERY):
            with self._lock:
                child = self._child
                ended = child.poll() if child is not None else None
                if ended is not None:
                    self._child = None
            try:
                say_line(connection, {"alive": True} if ended is None else {"ended": ended})
            except OSError:
                return

    def _start(self, order: dict[str, Any]) -> None:
        from reasonrl.pipeline.launch import launch_command, worker_environment

        self._kill()
        processes, machines = int(order["processes"]), int(order["machines"])
        variables = {str(name): str(value) for name, value in order["variables"].items()}
        self._silence = float(variables[SILENCE])
        command = launch_command(
            Path(order["run_directory"]),
            order["stage"],
            processes,
            machines=machines,
            machine=self._rank,
            address=order["address"],
            port=int(order["port"]),
        )
        self._say(f"machine {self._rank}: starting {processes // machines} of {processes} ({order['stage']})")
        zero = bool(order["deepspeed"])
        environment = worker_environment(processes // machines, deepspeed=zero, variables=variables, address=self._own)
        log = Path(order["run_directory"]) / "stages" / order["stage"] / f"launch-{self._rank}.log"
        with log.open("ab") as file, self._lock:
            self._child = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _kill(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return
        kill_family(child.pid)
        child.wait(timeout=30)


def kill_family(pid: int) -> None:
    """Kill a process and all that it has started."""
    try:
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def join_run(address: str, rank: int, patience: float, say: Callable[[str], None]) -> int:
    """Work for the run at `address` as machine `rank` until it ends; gives its exit status."""
    if os.environ.get("REASONRL_KEY", "") == "":
        raise StageFailed("REASONRL_KEY is not set -> export the key that `reasonrl launch` wrote, on every machine")
    if threading.current_thread() is threading.main_thread():
        # A scheduler says TERM to all machines: the head saves, and then says that the run has ended.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    return Node(address, rank, patience, say).work()
