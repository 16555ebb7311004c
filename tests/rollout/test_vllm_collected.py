"""Samples kept for training, drawn by vLLM: a `rollout` stage, and a `bcpg` stage that reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)

from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.models import load_policy

RECIPE = """\
recipe: collected
model: tiny:qwen2
rollout: {engine: vllm, max_model_len: 256, kv_cache_memory_bytes: 67108864}
stages:
  sample:
    kind: rollout
    data: {world: reflective, n: 8}
    n: 6
    max_tokens: 32
    reward: {name: length_band, args: {min_tokens: 8, max_tokens: 32}}
  train: {kind: bcpg, data: "${stage:sample}", mined: none, samples_per_step: 16, num_train_epochs: 1, logging_steps: 1}
"""


@pytest.mark.slow
def test_a_stage_of_samples_by_vllm_is_trained_on(tmp_path: Path) -> None:
    """Ids and log-probabilities are the model's; a second start draws nothing; training starts at its reference."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml", "output=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("skipped (done") == 2
    rows = list(read_rollouts(tmp_path / "run" / "stages" / "sample" / "rollouts.parquet"))
    assert len(rows) == 48 and len({row["text"] for row in rows}) > 40
    assert {row["finish_reason"] for row in rows} >= {"length"}
    model, _ = load_policy("tiny:qwen2")
    for row in rows[:12]:
        ids = torch.tensor([list(row["prompt_ids"]) + list(row["completion_ids"])])
        with torch.no_grad():
            scores = torch.log_softmax(model(input_ids=ids).logits[0, len(row["prompt_ids"]) - 1 : -1].float(), dim=-1)
        own = scores.gather(1, ids[0, len(row["prompt_ids"]) :, None])[:, 0]
        assert torch.tensor(row["logprobs_sampled"]) == pytest.approx(own, abs=1e-3)
    line = json.loads((tmp_path / "run" / "stages" / "train" / "metrics.jsonl").read_text().splitlines()[0])
    assert abs(line["log_ratio/lowest"]) < 1e-4
