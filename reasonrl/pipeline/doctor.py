"""Whether this machine can run recipes: versions, devices, disk, shared memory, hub, vLLM, and a self-test."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import ReasonRLError
from reasonrl.pipeline.requirements import installed, python_range

OK, WARNING, FAILED, ABSENT = "ok", "warning", "failed", "absent"
GIB = 2**30
#: Below these a run is likely to stop: GiB free on disk, and in shared memory.
DISK_LOW, DISK_NONE, SHARED_LOW = 20.0, 1.0, 1.0
VLLM_SECONDS, HUB_SECONDS, SMI_SECONDS = 120.0, 4.0, 20.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: `ok`, `warning` (something may not work), `failed` (runs will not work) or `absent` (optional).
        found: what was found, in a line.
        fix: what to do about it, in a line; empty if nothing is to be done.
    """

    name: str
    state: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:8} {self.name}: {self.found}" + (f" -> {self.fix}" if self.fix else "")


def examine(*, self_test: bool = True, output: Path = Path("runs")) -> Iterable[Check]:
    """Look at everything, yielding each finding as it is made.

    Args:
        self_test: train a tiny model too (about half a minute).
        output: where runs would be written; its disk is looked at.
    """
    groups: list[Callable[[], Iterable[Check]]] = [
        version_checks,
        device_checks,
        lambda: disk_checks(output),
        memory_checks,
        lambda: [hub_check()],
        lambda: [vllm_check()],
    ]
    if self_test:
        from reasonrl.pipeline.self_test import self_test_checks

        groups.append(self_test_checks)
    for group in groups:
        yield from group()


def report(checks: Iterable[Check], say: Callable[[str], None], *, as_json: bool = False) -> int:
    """Say every check as a line, or all of them as one JSON object; gives the exit status: 1 if one failed, else 0."""
    seen: list[Check] = []
    for check in checks:
        seen.append(check)
        if not as_json:
            say(str(check))
    failed = [check for check in seen if check.state == FAILED]
    if as_json:
        say(json.dumps({"ok": not failed, "checks": [asdict(check) for check in seen]}, indent=2))
    else:
        warned = sum(check.state == WARNING for check in seen)
        verdict = f"{len(failed)} failed" if failed else "this machine can run recipes"
        say(f"{verdict}; {len(seen)} checks, {warned} warning{'' if warned == 1 else 's'}")
    return 1 if failed else 0


def version_checks() -> Iterable[Check]:
    """Python and every required package against its tested range; extras where they are installed."""
    from packaging.specifiers import SpecifierSet

    wanted, found = python_range(), platform.python_version()
    fits = SpecifierSet(wanted).contains(found)
    yield Check("python", OK if fits else FAILED, found, "" if fits else f"use Python {wanted}")
    packages = installed(extras=True)
    right = [f"{package.name} {package.found}" for package in packages if package.fits]
    yield Check("versions", OK, ", ".join(dict.fromkeys(right)))
    for package in packages:
        if package.fault:
            text, _, fix = package.fault.partition(" -> ")
            # An extra of another version breaks only what needs it.
            yield Check("versions", WARNING if package.extra else FAILED, text, fix)
    absent = {package.extra for package in packages if package.extra and package.found is None}
    if absent:
        yield Check("extras", ABSENT, ", ".join(sorted(absent)), "pip install 'reasonrl[NAME]' where wanted")


def device_checks() -> Iterable[Check]:
    """GPUs as torch sees them, the driver, NCCL; gloo on a machine without."""
    import torch
    import torch.distributed as dist

    listed = _nvidia_smi()
    if not torch.cuda.is_available():
        if listed:
            fix = "install the torch build for your driver's CUDA (torch.version.cuda here: " + f"{torch.version.cuda})"
            yield Check("gpu", FAILED, f"the driver shows {len(listed)} ({listed[0]}), torch sees none", fix)
        else:
            yield Check("gpu", ABSENT, "none: runs on the CPU, fit for tiny models")
    else:
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            low = free < 0.5 * total
            fix = "another process holds it: nvidia-smi" if low else ""
            text = f"{index}: {device.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
            yield Check("gpu", WARNING if low else OK, text, fix)
        yield Check(
            "driver", OK, f"{listed[0] if listed else 'nvidia-smi not found'}, CUDA {torch.version.cuda} in torch"
        )
    backends = [name for name in ("gloo", "nccl") if getattr(dist, f"is_{name}_available")()]
    nccl = f" {'.'.join(map(str, torch.cuda.nccl.version()))}" if torch.cuda.is_available() else ""
    missing = torch.cuda.device_count() > 1 and "nccl" not in backends
    fix = "install a torch build with NCCL: several GPUs cannot work together without it" if missing else ""
    yield Check("processes", FAILED if missing else OK, f"{', '.join(backends) or 'none'}{nccl}", fix)


def _nvidia_smi() -> list[str]:
    """`name, driver version` of every GPU that the driver shows; empty without nvidia-smi or a working driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def disk_checks(output: Path) -> Iterable[Check]:
    """Room where runs, temporary files and downloaded models go."""
    from huggingface_hub.constants import HF_HOME

    for name, folder in (("runs", output), ("temporary files", Path(tempfile.gettempdir())), ("models", Path(HF_HOME))):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free / GIB
        state = FAILED if free < DISK_NONE else WARNING if free < DISK_LOW else OK
        setting = {"runs": "output=…", "temporary files": "TMPDIR=…", "models": "HF_HOME=…"}[name]
        fix = "" if state == OK else f"make room, or point {setting} elsewhere"
        if not os.access(there, os.W_OK):
            state, fix = FAILED, f"not writable: point {setting} elsewhere"
        yield Check(f"disk for {name}", state, f"{free:.0f} GiB free at {there}", fix)


def memory_checks() -> Iterable[Check]:
    """Main memory, processors, shared memory, open files."""
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    low = memory.available < 4 * GIB
    text = f"{memory.available / GIB:.0f} of {memory.total / GIB:.0f} GiB free, {cores} processors"
    yield Check("memory", WARNING if low else OK, text, "end what else runs" if low else "")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        few = free < SHARED_LOW
        fix = "in a container: --shm-size=8g (weights for servers and NCCL go through it)" if few else ""
        yield Check("shared memory", WARNING if few else OK, f"{free:.1f} GiB free at {shared}", fix)
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few_files = files < 1024
    fix = "ulimit -n 65536 (a fleet of servers and a judge hold many connections)" if few_files else ""
    yield Check("open files", WARNING if few_files else OK, f"at most {files}", fix)


def hub_check(endpoint: str | None = None) -> Check:
    """Whether models can be fetched: the hub answers, or is left out on purpose. No key is ever shown."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Check("hub", ABSENT, "HF_HUB_OFFLINE is set: local folders and cached models only")
    address = endpoint or constants.ENDPOINT
    key = "with a key" if get_token() else "without a key"
    try:
        request = urllib.request.Request(f"{address}/api/models?limit=1", headers={"User-Agent": "reasonrl"})
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            answer.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        fix = "name models by local folders, set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1 to use what is cached"
        return Check("hub", WARNING, f"{address} does not answer ({reason})", fix)
    return Check("hub", OK, f"{address} answers, {key}")


def vllm_check(python: str = sys.executable) -> Check:
    """Whether vLLM can be imported, in a process of its own: a broken build takes the importing process down."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        fix = "pip install 'reasonrl[vllm]' for engine: vllm or servers.start"
        return Check("vllm", ABSENT, "not installed: samples are drawn by transformers, or by servers elsewhere", fix)
    program = "import vllm, sys; print('version', vllm.__version__)"
    try:
        done = subprocess.run(
            [python, "-c", program], capture_output=True, text=True, timeout=VLLM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(
            "vllm", FAILED, f"import vllm took over {VLLM_SECONDS:.0f} s", "reinstall: pip install 'reasonrl[vllm]'"
        )
    said = [line for line in done.stdout.splitlines() if line.startswith("version ")]
    if done.returncode == 0 and said:
        return Check("vllm", OK, f"{said[-1].removeprefix('version ')} can be imported")
    why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return Check(
        "vllm", FAILED, f"cannot be imported: {why[:200]}", "pip install 'reasonrl[vllm]' in a fresh environment"
    )


def guarded(name: str, work: Callable[[], Any]) -> Check:
    """The check that `work` makes of its returned line; what it raises is a failure, said in a line."""
    try:
        return Check(name, OK, str(work()))
    except ReasonRLError as error:
        text, _, fix = str(error).partition(" -> ")
        return Check(name, FAILED, text.splitlines()[0], fix)
    except Exception as error:  # a self-test must tell of every way in which a machine can be broken
        text = (str(error).splitlines() or [""])[0]
        return Check(name, FAILED, f"{type(error).__name__}: {text}", "see the versions above; reinstall what is named")
