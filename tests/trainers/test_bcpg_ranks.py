"""Training on logged samples: one process, two under DDP, and two under ZeRO walk the same path."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import movement_gap

SCRIPT = Path(__file__).with_name("bcpg_ranks_run.py")
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install '.[deepspeed]')"
)


def run_on(ranks: int, runs: dict[Path, dict], zero: str = "none") -> list[tuple[dict, list[dict]]]:
    """Weights and lines of each run."""
    command = [sys.executable, str(SCRIPT), zero]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    given = [text for folder, settings in runs.items() for text in (str(folder), json.dumps(settings))]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return [(torch.load(f / "weights.pt"), json.loads((f / "lines.json").read_text())) for f in runs]


def apart(one: dict, other: dict) -> float:
    """How far two runs end apart, relative to how far the first went."""
    return movement_gap(one["start"], other["end"], one["end"])


def same_lines(one: list[dict], other: list[dict], within: float) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"time/step", "padding_fraction", "packed"}:
            assert second[name] == pytest.approx(first[name], rel=within, abs=within * 1e-1), name


@pytest.mark.slow
def test_two_processes_walk_the_path_of_one(tmp_path) -> None:
    """In float64, and with what one of them finds a ten-thousandth off, it shows."""
    settings = {"double": True}
    [alone] = run_on(1, {tmp_path / "alone": settings})
    both, off = run_on(2, {tmp_path / "both": settings, tmp_path / "off": {**settings, "fault": True}})
    assert apart(alone[0], both[0]) < 1e-6
    assert apart(alone[0], off[0]) > 1e-6
    same_lines(alone[1], both[1], 1e-6)
    # The reference's files are shared out; here each holds all samples, so a process reads along without one.
    assert [p.name for p in sorted((tmp_path / "both" / "reference").glob("*.npy"))] == ["00000.npy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "zero", [*(pytest.param(name, marks=NEEDS_DEEPSPEED) for name in ("zero2", "zero3")), "full_shard"]
)
def test_zero_walks_the_path_of_one_process_and_resumes(tmp_path, zero) -> None:
    steps = {"adam_epsilon": 1e-6}
    [alone] = run_on(1, {tmp_path / "alone": steps})
    shared, adapted = run_on(
        2,
        {
            tmp_path / "shared": {**steps, "save_steps": 2, "save_total_limit": 4},
            tmp_path / "adapted": {**steps, "lora": {"r": 4}, "learning_rate": 1e-2},
        },
        zero,
    )
    assert apart(alone[0], shared[0]) < 1e-3
    assert any(not torch.equal(adapted[0]["start"][name], end) for name, end in adapted[0]["end"].items())
    checkpoint = tmp_path / "shared" / "checkpoints" / "checkpoint-2"
    again = {**steps, "resume": str(checkpoint), "save_total_limit": 4}
    [resumed] = run_on(2, {tmp_path / "shared": again}, zero)
    assert apart(shared[0], resumed[0]) < 1e-6
