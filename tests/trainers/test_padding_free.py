"""Supervised fine-tuning without padding: the same updates as with padding, for fewer tokens of work."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe
from reasonrl.trainers.padding_free import PaddingFreeCollator

RECIPE = """
model: tiny:qwen2:hidden_size=64,num_attention_heads=1
stages:
  sft:
    kind: sft
    data: {path: rows.jsonl}
    max_steps: 6
    per_device_train_batch_size: 6
    gradient_accumulation_steps: 2
    learning_rate: 1.0e-3
    logging_steps: 1
"""


def test_a_batch_is_one_row():
    examples = [{"input_ids": [7, 8, 9], "labels": [7, 8, 9]}, {"input_ids": [5, 6], "labels": [-100, 6]}]
    row = PaddingFreeCollator()(examples)
    assert row["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert row["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert row["labels"].tolist() == [[-100, 6, -100, 8, 9]]
    assert row["cu_seq_lens_q"].tolist() == [0, 2, 5]


@pytest.mark.parametrize("completion_only", [True, False])
def test_the_updates_are_those_of_padded_rows(tmp_path, monkeypatch, completion_only):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"problem": f"{n} + {n * n}?", "solution": "so " * (1 + n * n % 23) + str(n + n * n), "answer": "0"}
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    weights, lines = {}, {}
    for free in (True, False):
        given = [
            f"stages.sft.padding_free={free}".lower(),
            f"stages.sft.completion_only_loss={completion_only}".lower(),
        ]
        done = train(load_recipe("r.yaml", [*given, f"output=run{free}"]), say=lambda text: None)["sft"]
        folder = tmp_path / f"run{free}" / "stages" / "sft"
        weights[free] = load_file(folder / "model" / "model.safetensors")
        lines[free] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert (done.metrics["steps"], done.metrics["padding_free"]) == (6, float(free))
    # At a rate of 0 the start is what is saved.
    start = load_recipe("r.yaml", ["stages.sft.learning_rate=0", "stages.sft.max_steps=1", "output=start"])
    train(start, say=lambda text: None)
    origin = load_file(tmp_path / "start" / "stages" / "sft" / "model" / "model.safetensors")
    moved = sum(float((weights[False][name] - origin[name]).double().square().sum()) for name in origin) ** 0.5
    apart = sum(float((weights[False][name] - weights[True][name]).double().square().sum()) for name in origin) ** 0.5
    assert moved > 0.1
    assert apart < 2e-3 * moved
    for packed, padded in zip(lines[True], lines[False], strict=True):
        assert packed["loss"] == pytest.approx(padded["loss"], rel=1e-4)
        assert packed["mean_token_accuracy"] == pytest.approx(padded["mean_token_accuracy"], abs=5e-3)
        assert packed["num_tokens"] == padded["num_tokens"]
