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


def run_on(processes: int, out: Path, settings: dict) -> tuple[dict, list[dict]]:
    out.mkdir()
    launch = [sys.executable, str(SCRIPT)]
    if processes > 1:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
        launch += ["--num_machines=1", "--mixed_precision=no", "--main_process_port=0", str(SCRIPT)]
    done = subprocess.run(
        [*launch, str(out), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "weights.pt"), json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize(
    "settings",
    [
        {
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
        {"advantage": "group", "prompts_per_step": 2, "num_generations": 3, "max_steps": 2, "num_iterations": 2},
    ],
    ids=["critic", "groups over ranks"],
)
def test_two_ranks_equal_one(tmp_path, settings):
    one, lines_of_one = run_on(1, tmp_path / "one", settings)
    two, lines_of_two = run_on(2, tmp_path / "two", settings)
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
