"""Weights that are split over ranks (ZeRO-3, FSDP2) arrive whole, under the same names, one at a time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("split_run.py")


def on_two_ranks(how: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT), how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "rank 0: equal" in done.stdout and "rank 1: equal" in done.stdout


def test_fsdp2():
    on_two_ranks("fsdp2")


@pytest.mark.slow  # DeepSpeed compiles an operation at its first start
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero3():
    on_two_ranks("zero3")
