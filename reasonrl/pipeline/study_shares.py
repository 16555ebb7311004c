"""Sharing a machine out among the runs of a study that run at once: cores and GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reasonrl.errors import RunError
from reasonrl.pipeline.launch import CORES, usable_cores
from reasonrl.pipeline.runner import Say
from reasonrl.pipeline.stages import stage_kind
from reasonrl.pipeline.study_plan import PlannedRun
from reasonrl.pipeline.wire import ADDRESS


def environments(planned: Sequence[PlannedRun], jobs: int, say: Say) -> list[dict[str, str]]:
    """The environment of each of the places that runs can take: its share of the cores and of the GPUs.

    Raises RunError if a run needs more GPUs than its share, or several machines.
    """
    common = {name: value for name, value in os.environ.items() if name != ADDRESS}
    common["PYTHONUNBUFFERED"] = "1"
    if "OMP_NUM_THREADS" not in common:
        common["OMP_NUM_THREADS"] = common[CORES] = str(max(1, usable_cores() // jobs))
    devices = visible_devices()
    shares = device_shares(devices, jobs)
    _check_launches(planned, jobs, len(shares[0]))
    threads = common["OMP_NUM_THREADS"]
    text = f"{len(planned)} runs, {jobs} at a time, {threads} thread{'' if threads == '1' else 's'} each"
    if len(devices) > 1:
        shown = ["+".join(share) for share in shares]
        say(f"{text}, on GPUs {', '.join(shown)}")
        return [common | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
    say(text if not devices else f"{text}, all on one GPU")
    return [common for _ in range(jobs)]


def _check_launches(planned: Sequence[PlannedRun], jobs: int, devices: int) -> None:
    for run in planned:
        for stage in run.to_make:
            launch = stage.instance.config.launch
            if launch.num_machines > 1:
                raise RunError(
                    f"stage {stage.name!r} has launch.num_machines = {launch.num_machines}, which one run at a time can"
                    " use -> leave --jobs out"
                )
            if devices and launch.num_processes > devices and stage_kind(stage.kind).launched:
                raise RunError(
                    f"stage {stage.name!r} has launch.num_processes = {launch.num_processes}, but with --jobs {jobs}"
                    f" each run has {devices} of the GPUs -> lower --jobs, or launch.num_processes"
                )


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; torch is imported only if there may be
    any.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        ends = [number for number, name in enumerate(names) if name in ("", "-1")]
        return names[: ends[0]] if ends else names
    if not any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def device_shares(devices: Sequence[str], jobs: int) -> list[list[str]]:
    """Equal shares, one for each of `jobs` runs at a time, rests left idle; one device in turn where there are fewer
    than runs.
    """
    if not devices:
        return [[] for _ in range(jobs)]
    size = len(devices) // jobs
    if size == 0:
        return [[devices[place % len(devices)]] for place in range(jobs)]
    return [list(devices[place * size : (place + 1) * size]) for place in range(jobs)]
