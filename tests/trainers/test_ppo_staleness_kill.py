"""A run whose steps overlap, killed by SIGKILL while samples are on their way: the restarted run ends as the unbroken
one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_ppo_kill import RECIPE, REWARD, STEPS, TINY, assert_ends_as, kill, lines, reasonrl

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
    stage = kill(folder, point, POINTS[point])
    if point == "policy update":
        record = json.loads((stage / "checkpoints" / "checkpoint-2" / "drawn" / "rank_0.json").read_text())
        assert record == {"step": 2, "ranks": 1, "samples": 16}

    assert_ends_as(unbroken, folder, stage)


def test_the_unbroken_run_overlapped(unbroken):
    """The comparison would be empty if no sample were older than its step, or if nothing were corrected."""
    records = lines(unbroken)
    assert [line["rollout/staleness_max"] for line in records] == [0, *[1] * (STEPS - 1)]
    assert sum(line["sampling/importance_truncated_fraction"] > 0 for line in records) >= 3
    assert len({line["reward"] for line in records}) == STEPS
