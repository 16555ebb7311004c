"""The sbatch script under a real Slurm: stopped by TERM it saves, is put back into the queue, resumes and ends.

Wants a controller that answers `sinfo` (one machine is enough: Debian's slurmctld, slurmd and munge). Its stage comes
from an outside package and does no work but seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
KIND = """
from typing import Literal
from reasonrl.recipe.stage_base import Stage
from reasonrl.recipe.stage_plugins import StagePlugin

class Sleepy(Stage):
    kind: Literal["sleepy"] = "sleepy"
    steps: int = 20

PLUGIN = StagePlugin(Sleepy, module="my_sleep_run")
"""
RUN = """
import os, time
from reasonrl.pipeline import StageResult

def run(config, context):
    file = context.directory / "step"
    done = int(file.read_text()) if file.exists() else 0
    while done < config.steps:
        context.raise_if_stopping()
        time.sleep(1)
        done += 1
        file.write_text(str(done))
        with open(context.run_directory / "log", "a") as log:
            log.write(f"{done} {os.environ.get('SLURM_RESTART_COUNT', 0)}\\n")
    return StageResult(metrics={"steps": done})

def dry_run(config, context):
    return []
"""
RECIPE = """
recipe: slurmed
output: run
stages: {it: {kind: sleepy, steps: 30}}
launch: {slurm: {gpus-per-node: 0, time: "20"}}
"""


def there_is_slurm() -> bool:
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    try:
        done = subprocess.run(["sinfo", "-h"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


@pytest.mark.slow
@pytest.mark.skipif(not there_is_slurm(), reason="no Slurm controller answers here")
def test_a_job_that_is_stopped_goes_back_into_the_queue_and_ends(tmp_path):
    info = tmp_path / "plugin" / "my_sleep-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sleep\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reasonrl.stages]\nsleepy = my_sleep:PLUGIN\n")
    (info.parent / "my_sleep.py").write_text(KIND)
    (info.parent / "my_sleep_run.py").write_text(RUN)
    (tmp_path / "r.yaml").write_text(RECIPE)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{info.parent}{os.pathsep}{TREE}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "reasonrl", "launch", "r.yaml", "--slurm", "--submit"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    job = done.stdout.split()[-1]
    log = tmp_path / "run" / "log"
    steps = lambda: log.read_text().splitlines() if log.exists() else []  # noqa: E731
    deadline = time.monotonic() + 560
    try:
        while len(steps()) < 3:
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("slurmed-*.log")]
            time.sleep(0.5)
        subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
        # Slurm waits two minutes before it starts a job again that was put back.
        while not (tmp_path / "run/stages/it/done.json").exists():
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("slurmed-*.log")]
            time.sleep(1)
    finally:
        subprocess.run(["scancel", job], check=False)
    assert [int(line.split()[0]) for line in steps()] == list(range(1, 31)), "no step was lost, none made twice"
    assert {line.split()[1] for line in steps()} == {"0", "1"}
    assert "put back into the queue" in next(tmp_path.glob("slurmed-*.log")).read_text()
