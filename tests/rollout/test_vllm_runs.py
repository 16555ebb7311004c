"""Whole runs with `rollout.engine=vllm`, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)

RECIPE = """\
recipe: small
model: tiny:qwen2
rollout: {engine: vllm, max_model_len: 256, kv_cache_memory_bytes: 67108864}
stages:
  rl:
    kind: ppo
    data: {world: arithmetic, n: 256, args: {operations: 2}}
    reward: length_reward.py:score
    prompts_per_step: 8
    num_generations: 2
    max_completion_length: 16
    max_steps: 3
    learning_rate: 1.0e-3
    eval_data: {world: arithmetic, split: validation, n: 8, args: {operations: 2}}
    eval_steps: 3
  exam:
    kind: eval
    model: ${stage:rl}
    max_tokens: 16
    suites: {quiz: {data: {world: arithmetic, split: test, n: 8, args: {operations: 2}}, n: 2, k: [1, 2]}}
"""
REWARD = '''\
def score(prompts, completions, **columns):
    """Whether a response is long: something a random model can be paid for."""
    return [float(len(c if isinstance(c, str) else c[0]["content"]) % 2) for c in completions]
'''


def run(folder: Path, *overrides: str) -> list[dict]:
    """The metrics of the PPO stage of a run in a process of its own."""
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "length_reward.py").write_text(REWARD)
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "small.yaml", "output=run", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = next((folder / "run").rglob("metrics.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_ppo_and_an_exam(tmp_path):
    steps = run(tmp_path)
    assert [step["step"] for step in steps] == [1, 2, 3]
    # After one and two updates too: the engine draws from the policy that is trained.
    assert all(step["sampling/logprob_difference"] < 1e-5 for step in steps)
    assert "eval/accuracy" in steps[-1]
    results = json.loads(next((tmp_path / "run").rglob("results.json")).read_text())
    assert "quiz" in json.dumps(results)


@pytest.mark.slow
def test_two_processes_with_an_engine_each_draw_what_one_draws(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    one, two = run(tmp_path / "one"), run(tmp_path / "two", "stages.rl.launch.num_processes=2")
    for alone, together in zip(one, two, strict=True):
        assert together["sampling/logprob_difference"] < 1e-5
        for name in ("completions/mean_length", "reward", "entropy"):
            assert together[name] == pytest.approx(alone[name], abs=1e-3), name
