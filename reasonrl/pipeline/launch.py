"""Starting a training stage as several processes under `accelerate launch`, and looking after them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from reasonrl.errors import Interrupted, StageFailed
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.files import read_json, write_json, write_text
from reasonrl.pipeline.keys import digest, plain
from reasonrl.pipeline.lock import process_record
from reasonrl.pipeline.machines import (
    close_watch,
    end_others,
    failed_machine,
    limits_of,
    open_watch,
    start_others,
    variables_of,
)
from reasonrl.pipeline.node import kill_family
from reasonrl.pipeline.signals import STOP_FILE
from reasonrl.pipeline.stages import stage_kind
from reasonrl.pipeline.watch import Watch
from reasonrl.pipeline.wire import interface_of

ORDER = "launch.json"
RESULT = "result.json"
LOG = "launch.log"
FAILURE = "failure.rank"
TAIL_LINES = 30
POLL = 0.1
CORES = "REASONRL_CORES"
"""Set for the runs of a study that run at once, where the user has not set OMP_NUM_THREADS: how many each has."""
_running: list[subprocess.Popen[str]] = []


def needs_launch(config: Any) -> bool:
    """Whether a stage is started as processes of its own: a training stage with `launch.num_processes` above 1."""
    return stage_kind(config.kind).launched and config.launch.num_processes > 1


def launch_stage(config: Any, context: StageContext, say: Callable[[str], None], record: Path) -> StageResult:
    """Run a stage's module in `launch.num_processes` workers and return the result that rank 0 wrote.

    A stop is passed on by a file that the workers look for at their safe points, because the launcher gives them only
    30 s after a
    signal, less than a big checkpoint takes.

    Args:
        config: the stage's config.
        context: as for a stage in process.
        say: takes each line the workers print.
        record: file that names the launcher's process while it runs.

    Raises Interrupted once the workers have stopped at a safe point, StageFailed with the tail of their log if they
    failed.
    """
    directory = context.directory
    for path in (directory / STOP_FILE, directory / RESULT, *directory.glob(f"{FAILURE}*.json")):
        path.unlink(missing_ok=True)
    processes = config.launch.num_processes
    order = {
        "stage": context.name,
        "module": stage_kind(config.kind).module,
        "config": config_digest(config),
        "base_directory": str(context.base_directory),
        "resuming": context.resuming,
        "parent": process_record(),
    }
    write_json(directory / ORDER, order)
    watch = open_watch(config.launch)
    watch.begin(processes, limits_of(config.launch))
    fine = False
    try:
        run = (context.name, context.run_directory)
        address, port = start_others(watch, config.launch, *run, say, context.stop.is_set)
        say(f"{context.name}: waiting for {processes} processes to start (log: {directory / LOG})")
        child = _start(config, context, watch, address, port)
        _running.append(child)
        try:
            write_json(record, process_record(child.pid))
            tail, lost = _look_after(child, context, say, watch)
        finally:
            if child.poll() is None:
                kill_children()
                child.wait(timeout=30)
            _running.remove(child)
            record.unlink(missing_ok=True)
        fine = child.returncode == 0 and lost is None
    finally:
        end_others(watch, config.launch, kill=not fine)
        close_watch(watch)
    if lost is not None:
        raise StageFailed(f"stage {context.name!r}: {lost} (log: {directory / LOG})")
    return _outcome(child, context, tail)


def _start(config: Any, context: StageContext, watch: Watch, address: str, port: int) -> subprocess.Popen[str]:
    """This machine's share of the processes."""
    launch = config.launch
    command = launch_command(
        context.run_directory,
        context.name,
        launch.num_processes,
        machines=launch.num_machines,
        address=address,
        port=port,
    )
    variables = variables_of(watch, launch)
    share = launch.num_processes // launch.num_machines
    own = address if launch.num_machines > 1 else ""
    return subprocess.Popen(
        command,
        env=worker_environment(share, deepspeed=launch.deepspeed is not None, variables=variables, address=own),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is for this process alone, which then asks the workers
    )


def config_digest(config: Any) -> str:
    """Hash of a stage's config, by which a worker knows that it has read back the one it was started for."""
    from reasonrl.recipe import extensible_of, identity_of

    return digest(plain([identity_of(config), extensible_of(config)]))


def _look_after(
    child: subprocess.Popen[str], context: StageContext, say: Callable[[str], None], watch: Watch
) -> tuple[deque[str], str | None]:
    """Relay the workers' lines until they end; pass a stop on. Gives their last lines, and who was lost, if anybody."""
    assert child.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    relay = threading.Thread(target=_relay, args=(child.stdout, context.directory / LOG, tail, say), daemon=True)
    relay.start()
    asked, lost = False, None
    while child.poll() is None:
        if not asked and context.stop.is_set():
            asked = True
            write_text(context.directory / STOP_FILE, "")
        lost = watch.look() or failed_machine(watch, context.launch)
        if lost is not None:
            # The processes are told too, and say it in their own words; who does not hear it is killed.
            _wait(child, 2 * POLL + 3.0)
            break
        time.sleep(POLL)
    if child.poll() is None:
        kill_children()
    relay.join(timeout=10)
    return tail, lost


def _wait(child: subprocess.Popen[str], seconds: float) -> None:
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def _relay(stream: IO[str], log: Path, tail: deque[str], say: Callable[[str], None]) -> None:
    with log.open("a", encoding="utf-8") as file:
        for line in stream:
            file.write(line)
            file.flush()
            tail.append(line.rstrip("\n"))
            say(line.rstrip("\n"))


def _outcome(child: subprocess.Popen[str], context: StageContext, tail: deque[str]) -> StageResult:
    path = context.directory / RESULT
    if child.returncode == 0 and path.exists():
        return StageResult.from_json(read_json(path), context.directory)
    if context.stop.is_set() and child.returncode == 0:
        raise Interrupted(f"stage {context.name!r} stopped at a safe point")
    failures = [read_json(path) for path in context.directory.glob(f"{FAILURE}*.json")]
    first = min(failures, key=lambda failure: float(failure["at"]), default=None)
    # The launcher's own last words bury the error: the rank that failed first has written it down.
    if first is not None:
        tail = deque(str(first["traceback"]).splitlines(), maxlen=TAIL_LINES)
    what = "" if first is None else f" on rank {first['rank']}: {first['error']}"
    text = "\n".join(f"  | {line}" for line in tail)
    raise StageFailed(
        f"stage {context.name!r} failed in its processes (exit status {child.returncode}){what} "
        f"(whole log: {context.directory / LOG}); its end:\n{text}"
    )


def launch_command(
    run_directory: Path,
    stage: str,
    processes: int,
    *,
    machines: int = 1,
    machine: int = 0,
    address: str = "127.0.0.1",
    port: int = 0,
) -> list[str]:
    """The command that starts one machine's share of the workers.

    Everything that accelerate would else ask its user's own config file for is given.

    Args:
        run_directory, stage: what they work on.
        processes: over all machines.
        machines, machine: how many machines there are, and which this is.
        address, port: where all processes meet; port 0 takes a free one, on one machine.
    """
    place = ["--main_process_port", str(port)]
    if machines > 1:
        place += ["--main_process_ip", address]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),  # not `accelerate launch`: it imports all its commands
        "--multi_gpu",  # also on a host without GPUs: the only way of accelerate's to more than one process without MPI
        *("--num_processes", str(processes), "--num_machines", str(machines), "--machine_rank", str(machine), *place),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--gpu_ids", "all"),
        *("-m", "reasonrl.pipeline.worker", str(run_directory), stage),
    ]


def worker_environment(
    processes: int, *, deepspeed: bool = False, variables: Mapping[str, str] | None = None, address: str = ""
) -> dict[str, str]:
    """The workers' environment: gloo on a host without GPUs, the cores shared out unless the user has said how.

    Args:
        processes: on this machine.
        deepspeed: whether they run under it.
        variables: further ones, which win.
        address: of this machine, where there are several: gloo would else listen at what its name resolves to, which
            often is the loopback address.
    """
    import torch

    environment = dict(os.environ)
    if not torch.cuda.is_available():
        # Told to use the CPU, accelerate would leave DeepSpeed out, which finds it by itself.
        environment |= {"DS_ACCELERATOR": "cpu"} if deepspeed else {"ACCELERATE_USE_CPU": "true"}
    if CORES in environment:  # a study's share, from which its number of threads is ours too, not the user's
        environment["OMP_NUM_THREADS"] = str(max(1, int(environment[CORES]) // processes))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    interface = interface_of(address) if address else None
    if interface is not None:
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    return environment | dict(variables or {})


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kill_children() -> None:
    """Kill the launched processes at once, workers included (they lead sessions of their own)."""
    for child in list(_running):
        kill_family(child.pid)
