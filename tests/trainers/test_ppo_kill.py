"""PPO killed by SIGKILL at every kind of moment: the restarted run ends as the unbroken one, to the last weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reasonrl.models import tiny_path
from reasonrl.observe import is_time_field, read_metrics, read_parquet
from reasonrl.observe.completions import completion_files
from reasonrl.rollout.stamps import STAMP_COLUMNS

STEPS = 6
TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"
RECIPE = """
recipe: kill
model: TINY
stages:
  rl:
    kind: ppo
    data: {world: arithmetic, n: 20, args: {operations: 1}}
    reward: reward.py:even_share
    reward_requires_stop: false
    prompts_per_step: 8
    num_generations: 2
    max_completion_length: 10
    max_steps: 6
    save_steps: 2
    critic_steps: 2
    actor_steps: 2
    learning_rate: 1.0e-3
    critic_learning_rate: 1.0e-3
    lr_scheduler_type: linear
    warmup_steps: 2
    eval_data: {world: arithmetic, split: validation, n: 6, args: {operations: 2}}
    eval_steps: 3
"""
REWARD = """
def even_share(completions, completion_ids, **columns):
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
"""
#: Where to die, and at the how-manieth time: in step 4, after the checkpoint of step 2, unless said otherwise.
POINTS = {
    "generation": 33,
    "scoring": 5,  # the validation at step 3 is scored too
    "critic update": 7,
    "policy update": 8,
    "saving the critic": 2,
    "marking the checkpoint": 1,  # nothing to resume from: starts anew
    "after the metrics line": 5,
    "after the completions": 3,
    "done.json half written": 1,
}


def reasonrl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def prepared(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE.replace("TINY", TINY))
    (folder / "reward.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = prepared(tmp_path_factory.mktemp("unbroken"))
    done = reasonrl(folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "kill" / "stages" / "rl"


def lines(stage: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if not is_time_field(name)}
        for line in read_metrics(stage / "metrics.jsonl")
    ]


def samples(file: Path) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in STAMP_COLUMNS[1:]} for row in read_parquet(file)]


def kill(folder: Path, point: str, count: int) -> Path:
    """Start the run, or let it go on, up to a point at which it dies; returns the stage's folder."""
    killed = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            str(Path(__file__).with_name("kill_at.py")),
            point,
            str(count),
            "recipe.yaml",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -9, killed.stderr
    stage = folder / "runs" / "kill" / "stages" / "rl"
    assert not (stage / "done.json").exists()
    return stage


def assert_ends_as(unbroken: Path, folder: Path, stage: Path) -> None:
    """The run, started once more, ends with the unbroken one's numbers, weights and samples."""
    resumed = reasonrl(folder)
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = lines(stage), lines(unbroken)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert ours == theirs
    for part in ("model/model.safetensors", "critic/model.safetensors", "critic/scalar_head.safetensors"):
        mine, whole = load_file(stage / part), load_file(unbroken / part)
        assert mine.keys() == whole.keys()
        assert all(torch.equal(mine[name], whole[name]) for name in whole), part
    assert completion_files(stage / "completions").keys() == completion_files(unbroken / "completions").keys()
    for step, file in completion_files(stage / "completions").items():
        assert samples(file) == samples(completion_files(unbroken / "completions")[step])


def test_a_run_killed_again_and_again_ends_as_the_unbroken_one(unbroken, tmp_path):
    """Four kills, each in the run that went on after the one before: one process a kill instead of two."""
    folder = prepared(tmp_path)
    for point, count in (
        ("marking the checkpoint", 1),  # after step 2; nothing to resume from: starts anew
        ("after the metrics line", 3),  # of step 3, while the newest checkpoint is that of step 2
        ("saving the critic", 2),  # after step 6, by a run resumed at step 2: half a checkpoint, beside that of step 4
        ("done.json half written", 1),  # all is trained, from the checkpoint that a resumed run wrote
    ):
        stage = kill(folder, point, count)
    assert_ends_as(unbroken, folder, stage)


@pytest.mark.slow  # two processes a point; by default four points above, and another in test_ppo_staleness_kill.py
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_ends_as_the_unbroken_one(point, unbroken, tmp_path):
    folder = prepared(tmp_path)
    assert_ends_as(unbroken, folder, kill(folder, point, POINTS[point]))


def test_the_unbroken_run_moved(unbroken):
    """The comparison would be empty if nothing were learned or nothing differed between steps."""
    records = lines(unbroken)
    assert len({line["reward"] for line in records}) == STEPS
    assert all(line["grad_norm"] > 0 and line["critic_grad_norm"] > 0 for line in records)
    assert [line["step"] for line in records if "eval/accuracy" in line] == [3, 6]
    assert max(line["learning_rate"] for line in records) == pytest.approx(1e-3)
    assert max(line["critic_learning_rate"] for line in records) == pytest.approx(1e-3)
    start = load_file(Path(tiny_path(TINY)) / "model.safetensors")
    trained = load_file(unbroken / "critic" / "model.safetensors")
    moved = {name: float((trained[name] - start[f"model.{name}"]).abs().max()) for name in trained}
    assert min(moved.values()) > 0
