"""The output layer's scores under DDP, FSDP and DeepSpeed ZeRO-3: two real processes, against plain logits."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("head_ranks.py")


@pytest.mark.slow
@pytest.mark.parametrize("tied", ["tied", "untied"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "zero3"])
def test_two_ranks_take_the_same_steps_as_with_plain_logits(kind, tied, tmp_path):
    if kind == "zero3" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    done = subprocess.run(
        [*command, kind, tied, str(tmp_path / "found.pt")],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (start, plain), (_, ours) = torch.load(tmp_path / "found.pt")
    assert len(plain) > 20 and set(plain) == set(ours)
    for name, end in plain.items():
        movement = float((end - start[name]).abs().max())
        assert movement > 1e-4, f"{name} did not move"
        assert float((ours[name] - end).abs().max()) < 1e-3 * movement, name
