"""Two ranks walk the path of one: same samples, same gradients, same numbers in the metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import movement_gap

SCRIPT = Path(__file__).with_name("ddp_run.py")


CASES = {
    "critic": {
        "advantage": "gae",
        "prompts_per_step": 6,
        "num_generations": 2,
        "max_steps": 3,
        "tokens_per_microbatch": 90,
        "actor_steps": 3,
        "critic_steps": 4,
        "critic_warmup_steps": 1,
        "eval_rows": 5,
        "num_generations_eval": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
    },
    "groups over ranks": {
        "advantage": "group",
        "prompts_per_step": 2,
        "num_generations": 3,
        "max_steps": 2,
        "num_iterations": 2,
    },
    "drawn ahead": {
        "prompts_per_step": 3,
        "num_generations": 2,
        "max_steps": 3,
        "max_staleness": 1,
        "own_copy": True,
    },
    "while generating": {
        "normalize_advantages": False,
        "prompts_per_step": 6,
        "num_generations": 2,
        "max_steps": 3,
        "tokens_per_microbatch": 60,
        "critic_warmup_steps": 1,
        "train_while_generating": True,
        "one_rank_after_the_other": True,
    },
    "process reward": {
        "prompts_per_step": 3,
        "num_generations": 2,
        "max_steps": 2,
        "tokens_per_microbatch": 60,
        "gamma": 0.97,
        "process_reward": True,
    },
    "groups while generating": {
        "advantage": "rloo",
        "prompts_per_step": 4,
        "num_generations": 3,
        "max_steps": 2,
        "tokens_per_microbatch": 90,
        "train_while_generating": True,
        "one_rank_after_the_other": True,
    },
}


def launch(processes: int, cases: dict[Path, dict]) -> subprocess.CompletedProcess[str]:
    """Make the runs of all cases, one after the other, in one start of the processes."""
    command = [sys.executable, str(SCRIPT)]
    if processes > 1:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
        command += ["--num_machines=1", "--mixed_precision=no", "--main_process_port=0", str(SCRIPT)]
    for out, settings in cases.items():
        out.mkdir(parents=True)
        command += [str(out), json.dumps(settings)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)


def result(out: Path, done: subprocess.CompletedProcess[str]) -> tuple[dict, list[dict]]:
    """Weights and metrics of one case."""
    assert (out / "metrics.json").exists(), done.stderr[-3000:]
    return torch.load(out / "weights.pt"), json.loads((out / "metrics.json").read_text())


def run_on(processes: int, out: Path, settings: dict) -> tuple[dict, list[dict]]:
    done = launch(processes, {out: settings})
    assert done.returncode == 0, done.stderr[-3000:]
    return result(out, done)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, tuple[Path, subprocess.CompletedProcess[str]]]:
    """Folder of the cases' runs, and the processes that made them, by how many they were."""
    home = tmp_path_factory.mktemp("ranks")
    return {
        count: (home / str(count), launch(count, {home / str(count) / case: CASES[case] for case in CASES}))
        for count in (1, 2)
    }


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(case, runs):
    settings = CASES[case]
    (one, lines_of_one), (two, lines_of_two) = (result(runs[count][0] / case, runs[count][1]) for count in (1, 2))
    assert movement_gap(one["start"], two["policy"], one["policy"]) <= 1e-9
    if one["critic"]:
        assert movement_gap(one["critic_start"], two["critic"], one["critic"]) <= 1e-9
    # How the batch is cut into micro-batches, and the norm of a rank's share, differ by nature.
    names = ["reward", "reward_std", "unscored", "completions/mean_length", "entropy", "advantage_std", "policy_loss"]
    validated = [name for name in lines_of_one[-1] if name.startswith("eval/")]
    assert bool(validated) == ("eval_rows" in settings)
    for name in [*names, "first_token", "approx_kl", *validated]:
        one_rank, two_ranks = ([line[name] for line in lines if name in line] for lines in (lines_of_one, lines_of_two))
        assert two_ranks == pytest.approx(one_rank), name
        assert one_rank, name


def test_the_ranks_end_well(runs):
    assert [runs[count][1].returncode for count in (1, 2)] == [0, 0], runs[2][1].stderr[-3000:]


@pytest.mark.slow
def test_samples_drawn_ahead_are_each_ranks_own_and_may_be_shared_out_anew(tmp_path):
    """Two ranks stop after step 2 with samples on their way; two ranks, or one, go on where they were."""
    settings = {"prompts_per_step": 4, "num_generations": 3, "max_steps": 4, "max_staleness": 1, "own_copy": True}
    settings |= {"save_strategy": "steps", "save_steps": 2, "actor_steps": 2, "learning_rate": 1e-2}
    whole, lines_of_whole = run_on(2, tmp_path / "whole", settings)
    checkpoint = tmp_path / "whole" / "run" / "checkpoint-2"
    records = [json.loads((checkpoint / "drawn" / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert records == [{"step": 2, "ranks": 2, "samples": 6}] * 2
    resumed, lines = run_on(2, tmp_path / "two", {**settings, "resume": str(checkpoint)})
    assert all(torch.equal(resumed["policy"][name], tensor) for name, tensor in whole["policy"].items())
    assert [line["rollout/staleness_mean"] for line in lines] == [1, 1]
    assert [line["reward"] for line in lines] == [line["reward"] for line in lines_of_whole[2:]]
    alone, lines = run_on(1, tmp_path / "one", {**settings, "resume": str(checkpoint)})
    assert movement_gap(whole["start"], alone["policy"], whole["policy"]) <= 1e-9
    assert [line["rollout/staleness_mean"] for line in lines] == [1, 1]
