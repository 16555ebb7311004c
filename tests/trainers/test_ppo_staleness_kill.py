"""A run whose steps overlap, killed by SIGKILL while samples are on their way: the restarted run ends as the unbroken
one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_ppo_kill import RECIPE, REWARD, STEPS, TINY, lines, reasonrl, samples

from reasonrl.observe.completions import completion_files

AHEAD = """
    max_staleness: 1
    rollout: {own_copy: true}
    vllm_importance_sampling_clip_max: 1.01
"""
#: Where to die, and at the how-manieth time; checkpoints are written after steps 2, 4 and 6.
POINTS = {
    "policy update": 8,  # in step 4, while the samples of step 5 are drawn
    "generation": 35,
    "writing samples drawn ahead": 2,
    "marking the checkpoint": 2,
    "after the metrics line": 5,
}


def prepared(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE.replace("TINY", TINY).rstrip("\n") + AHEAD)
    (folder / "reward.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = prepared(tmp_path_factory.mktemp("unbroken"))
    done = reasonrl(folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "kill" / "stages" / "rl"


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point == "policy update" else pytest.mark.slow) for point in POINTS]
)
def test_a_killed_run_ends_as_the_unbroken_one(point, unbroken, tmp_path):
    folder = prepared(tmp_path)
    script = Path(__file__).with_name("kill_at.py")
    killed = subprocess.run(
        [sys.executable, str(script), point, str(POINTS[point]), "recipe.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -9, killed.stderr
    stage = folder / "runs" / "kill" / "stages" / "rl"
    if point == "policy update":
        record = json.loads((stage / "checkpoints" / "checkpoint-2" / "drawn" / "rank_0.json").read_text())
        assert record == {"step": 2, "ranks": 1, "samples": 16}

    resumed = reasonrl(folder)
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = lines(stage), lines(unbroken)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert ours == theirs
    for part in ("model/model.safetensors", "critic/model.safetensors", "critic/scalar_head.safetensors"):
        mine, whole = load_file(stage / part), load_file(unbroken / part)
        assert all(torch.equal(mine[name], whole[name]) for name in whole), part
    for step, file in completion_files(unbroken / "completions").items():
        assert samples(completion_files(stage / "completions")[step]) == samples(file)


def test_the_unbroken_run_overlapped(unbroken):
    """The comparison would be empty if no sample were older than its step, or if nothing were corrected."""
    records = lines(unbroken)
    assert [line["rollout/staleness_max"] for line in records] == [0, *[1] * (STEPS - 1)]
    assert sum(line["sampling/importance_truncated_fraction"] > 0 for line in records) >= 3
    assert len({line["reward"] for line in records}) == STEPS
