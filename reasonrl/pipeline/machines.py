"""The head's side of a run on several machines: who has joined, what each starts, and how they end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasonrl.errors import Interrupted, RunError, StageFailed
from reasonrl.pipeline.watch import LAST, Limits, Watch
from reasonrl.pipeline.wire import ADDRESS, KEY, SILENCE, WATCH, free_port, job_key, parse_address

SLACK = 5.0
_head: list[Watch] = []


def limits_of(launch: Any) -> Limits:
    """The limits of a recipe's `launch`."""
    given = launch.limits
    return Limits(given.silence, given.start, given.phase, dict(given.phases))


def open_watch(launch: Any) -> Watch:
    """What watches a stage: for one machine a watch of its own, for several the run's, which machines join.

    Raises RunError if this process does not know the address that other machines reach it by.
    """
    if launch.num_machines == 1:
        return Watch()
    if not _head:
        raise RunError(
            f"launch.num_machines is {launch.num_machines}, but {ADDRESS} and {KEY} are not set -> start every"
            " machine by what `reasonrl launch RECIPE --torchrun` (or --slurm, --ray) writes"
        )
    return _head[0]


def welcome_machines() -> None:
    """Listen for machines from the beginning of a run to its end, where the environment says at which address."""
    if ADDRESS in os.environ and job_key() and not _head:
        host, port = parse_address(os.environ[ADDRESS])
        try:
            _head.append(Watch(host, port, job_key(), everywhere=True))
        except OSError as error:
            raise RunError(
                f"{ADDRESS}={host}:{port} cannot be listened at: {error.strerror} -> another port"
            ) from error


def close_watch(watch: Watch) -> None:
    """Close a stage's own watch; the run's stays open for the next stage."""
    if watch not in _head:
        watch.close()


def dismiss_machines(status: int, expected: int = 0, is_stopping: Callable[[], bool] = lambda: False) -> None:
    """Tell all machines that the run has ended, and how.

    A run that had nothing left to do is over before the others have joined: of a run that ended well, so many
    `expected` ones are waited for, up to `LAST` seconds or until `is_stopping`, or they would look for it as long as
    their patience lasts.
    """
    while _head:
        watch = _head.pop()
        until = time.monotonic() + (LAST if status == 0 else 0.0)
        while sum(not machine.gone for machine in watch.machines.values()) < expected:
            if is_stopping() or time.monotonic() > until:
                break
            time.sleep(0.2)
        for machine in watch.machines.values():
            machine.send({"bye": status})
        time.sleep(0.2)  # the message goes out before the sockets do
        watch.close()


def variables_of(watch: Watch, launch: Any) -> dict[str, str]:
    """What a stage's processes find in their environment on every machine, but for what a machine adds itself."""
    return {
        **dict(launch.env),
        WATCH: watch.address,
        KEY: watch.key,
        SILENCE: str(launch.limits.silence),
    }


def start_others(
    watch: Watch,
    launch: Any,
    stage: str,
    run_directory: Path,
    say: Callable[[str], None],
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[str, int]:
    """Wait for the other machines and have them start their processes; gives the address and port where all meet.

    Raises StageFailed naming the machines that have not joined within `launch.limits.start`, Interrupted if the run is
    stopped meanwhile.
    """
    if launch.num_machines == 1:
        return "127.0.0.1", 0
    wanted = range(1, launch.num_machines)
    began, said = time.monotonic(), False
    while missing := [rank for rank in wanted if not _is_there(watch, rank, launch.limits.silence)]:
        if not said and time.monotonic() - began > 2:
            said = True
            say(f"{stage}: waiting for machines {', '.join(map(str, missing))} at {watch.address}")
        if stopping():
            raise Interrupted(f"stage {stage!r} stopped while it waited for machines")
        if time.monotonic() - began > launch.limits.start:
            raise StageFailed(
                f"machines {', '.join(map(str, missing))} have not joined {watch.address} within"
                f" {time.monotonic() - began:.0f} s -> start `reasonrl node {watch.address} --rank N` there"
            )
        time.sleep(0.2)
    port = free_port(watch.host)
    order = {
        "run_directory": str(run_directory),
        "stage": stage,
        "processes": launch.num_processes,
        "machines": launch.num_machines,
        "address": watch.host,
        "port": port,
        "deepspeed": launch.deepspeed is not None,
        "variables": variables_of(watch, launch),
    }
    for rank in wanted:
        watch.machines[rank].send({"run": order})
    return watch.host, port


def _is_there(watch: Watch, rank: int, silence: float) -> bool:
    machine = watch.machines.get(rank)
    return machine is not None and not machine.gone and time.monotonic() - machine.heard < silence


def failed_machine(watch: Watch, launch: Any) -> str | None:
    """Which machine's processes have failed, or that cannot be heard any more; None while all is well."""
    for rank in range(1, launch.num_machines):
        machine = watch.machines[rank]
        if machine.ended:
            return f"the processes on machine {rank} ({machine.host}) ended with status {machine.ended}"
        quiet = time.monotonic() - machine.heard
        # A little later than a process of it is missed: that one's name says more.
        if machine.ended is None and quiet > launch.limits.silence + SLACK:
            return f"nothing heard of machine {rank} ({machine.host}) for {quiet:.0f} s"
    return None


def end_others(watch: Watch, launch: Any, *, kill: bool) -> None:
    """After this machine's processes have ended: kill the others', or give them time to end by themselves."""
    if launch.num_machines == 1:
        return
    others = [watch.machines[rank] for rank in range(1, launch.num_machines) if rank in watch.machines]
    deadline = time.monotonic() + LAST
    while not kill and time.monotonic() < deadline and any(one.ended is None and not one.gone for one in others):
        time.sleep(0.1)
    for one in others:
        if one.ended is None:
            one.send({"kill": True})
