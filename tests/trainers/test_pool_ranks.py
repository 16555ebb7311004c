"""Dynamic sampling and hints over two processes, and after a kill: the same prompts, the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import movement_gap
from safetensors.torch import load_file
from test_ppo_kill import TINY, lines, reasonrl, samples
from test_ppo_ranks import run_on

from reasonrl.observe.completions import completion_files

NAMES = (
    "dynamic_sampling/rounds",
    "dynamic_sampling/dropped_groups",
    "dynamic_sampling/kept_fraction",
    "dynamic_sampling/missing_groups",
    "hints/groups",
    "hinted_fraction",
    "frac_reward_zero_std",
    "reward",
    "samples",
    "tokens",
    "unscored",
    "first_token",
    "completions/mean_length",
    "completions/max_length",
    "policy_loss",
    "ratio_mean",
    "masked_fraction",
)


@pytest.mark.slow
def test_two_ranks_take_the_prompts_of_one(tmp_path):
    """Three prompts of two samples on two ranks: every group of the middle lies on both."""
    settings = {
        "prompts_per_step": 3,
        "num_generations": 2,
        "max_steps": 3,
        "actor_steps": 3,
        "max_completion_length": 2,
    }
    settings |= {"dynamic_sampling": True, "dynamic_sampling_max_rounds": 1, "hint_column": "answer"}
    one, lines_of_one = run_on(1, tmp_path / "one", settings)
    two, lines_of_two = run_on(2, tmp_path / "two", settings)
    assert movement_gap(one["start"], two["policy"], one["policy"]) <= 1e-9
    assert movement_gap(one["critic_start"], two["critic"], one["critic"]) <= 1e-9
    for name in NAMES:
        theirs = [line[name] for line in lines_of_one]
        assert [line[name] for line in lines_of_two] == pytest.approx(theirs), name
    # Otherwise there was nothing to agree about.
    assert max(line["dynamic_sampling/rounds"] for line in lines_of_one) == 1
    assert max(line["dynamic_sampling/missing_groups"] for line in lines_of_one) > 0
    assert max(line["hints/groups"] for line in lines_of_one) > 0


RECIPE = """
recipe: kill
model: TINY
stages:
  rl:
    kind: ppo
    data: {world: arithmetic, n: 20, args: {operations: 1}}
    reward: reward.py:coin
    reward_requires_stop: false
    prompts_per_step: 4
    num_generations: 2
    dynamic_sampling: true
    dynamic_sampling_max_rounds: 2
    hint_column: solution
    hint_fraction: 0.5
    max_completion_length: 8
    max_steps: 5
    save_steps: 2
    learning_rate: 1.0e-3
    critic_learning_rate: 1.0e-3
"""
REWARD = """
def coin(completions, completion_ids, **columns):
    return [float(sum(ids) % 3 == 0) for ids in completion_ids]
"""


@pytest.mark.slow
def test_a_run_killed_in_a_refill_ends_as_the_unbroken_one(tmp_path):
    stages = {}
    for name in ("unbroken", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(RECIPE.replace("TINY", TINY))
        (folder / "reward.py").write_text(REWARD)
        stages[name] = folder / "runs" / "kill" / "stages" / "rl"
    done = reasonrl(tmp_path / "unbroken")
    assert done.returncode == 0, done.stderr
    theirs = lines(stages["unbroken"])
    assert len({line["dynamic_sampling/dropped_groups"] for line in theirs}) > 1
    assert sum(line["dynamic_sampling/rounds"] for line in theirs[2:4]) > 0
    # Rewards are called once a round and once for the hints; die in step 4, whose checkpoint is that of step 2.
    calls = sum(2 + 2 * int(line["dynamic_sampling/rounds"]) for line in theirs[:3])
    script = Path(__file__).with_name("kill_at.py")
    killed = subprocess.run(
        [sys.executable, str(script), "scoring", str(calls), "recipe.yaml"],
        cwd=tmp_path / "killed",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -9, killed.stderr
    assert 2 <= len(lines(stages["killed"])) < 5
    resumed = reasonrl(tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert lines(stages["killed"]) == theirs
    for part in ("model/model.safetensors", "critic/model.safetensors"):
        mine, whole = load_file(stages["killed"] / part), load_file(stages["unbroken"] / part)
        assert all(torch.equal(mine[name], whole[name]) for name in whole), part
    files = completion_files(stages["unbroken"] / "completions")
    for step, file in completion_files(stages["killed"] / "completions").items():
        assert samples(file) == samples(files[step])
