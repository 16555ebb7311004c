"""A process reward model trained on one rank, on two under DDP, on two under ZeRO and FSDP: one path, in float32."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import movement_gap
from test_ppo_ranks_zero import NEEDS_DEEPSPEED

SCRIPT = Path(__file__).with_name("prm_ranks_run.py")
KINDS = ["none", *(pytest.param(name, marks=NEEDS_DEEPSPEED) for name in ("zero2", "zero3")), "full_shard"]
SETTINGS = {
    "text": {"save_steps": 4},
    "lora": {"lora": {"r": 4, "lora_alpha": 8}, "learning_rate": 1e-2, "save_steps": 4},
    # Two of eight solutions have no picture: a rank may hold text alone while the other reads pictures.
    # Weights that no input reaches (here a vision layer) are decayed under ZeRO, and nowhere else.
    "llava": {"vision": "llava", "weight_decay": 0.0},
    "qwen2_5_vl": {"vision": "qwen2_5_vl"},
}
FAULTS = {f"{name} lost": {**SETTINGS[name], "fault": "a rank is lost"} for name in ("text", "llava")}
CHECKPOINT = "checkpoint-8"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def trained(folder: Path, ranks: int, zero: str) -> dict[str, tuple[dict, list[dict]]]:
    """All runs under so many processes, in one start of them."""
    given = {**SETTINGS, **FAULTS} if ranks > 1 else dict(SETTINGS)
    for name in ("text", "lora"):
        resume = str(folder / name / "run" / CHECKPOINT)
        given[f"{name} again"] = {**SETTINGS[name], "resume": resume}
    words = []
    for name, settings in given.items():
        (folder / name).mkdir()
        words += [str(folder / name), json.dumps(settings)]
    command = [sys.executable, str(SCRIPT), zero, *words]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=870, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    return {
        name: (torch.load(folder / name / "weights.pt"), json.loads((folder / name / "metrics.json").read_text()))
        for name in given
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return functools.cache(lambda ranks, zero: trained(tmp_path_factory.mktemp("runs"), ranks, zero))


def gap(one: dict, other: dict) -> float:
    assert all(torch.equal(tensor, other["start"][name]) for name, tensor in one["start"].items())
    return movement_gap(one["start"], other["end"], one["end"])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("zero", KINDS)
def test_two_ranks_are_one(runs, zero, name):
    (alone, lines), (two, others) = runs(1, "none")[name], runs(2, zero)[name]
    assert gap(alone, two) <= 1e-3
    for first, second in zip(lines, others, strict=True):
        for figure in ("loss", "accuracy", "labelled_steps", "num_tokens", "learning_rate", "grad_norm"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-3), figure


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("zero", KINDS)
def test_a_lost_rank_is_seen(runs, zero, name):
    assert gap(runs(1, "none")[name.removesuffix(" lost")][0], runs(2, zero)[name][0]) > 1e-2


@pytest.mark.parametrize("name", ["text", "lora"])
@pytest.mark.parametrize("zero", KINDS)
def test_a_resumed_run_is_the_unbroken_one(runs, zero, name):
    (whole, lines), (again, rest) = (runs(2, zero)[which] for which in (name, f"{name} again"))
    assert all(torch.equal(again["end"][part], tensor) for part, tensor in whole["end"].items())
    assert [line["loss"] for line in rest] == [line["loss"] for line in lines[8:]] and len(rest) > 1
