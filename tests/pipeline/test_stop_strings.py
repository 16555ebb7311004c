"""Texts that end a sample, as recipes name them: in rollouts, evaluations and PPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.recipe import load_recipe

WORLD = {"world": "arithmetic", "n": 40}
ENDS = ["4", "7", "?"]  # what a model with random weights says now and then
STAGES: dict[str, Any] = {
    "sample": {"kind": "rollout", "data": WORLD, "n": 2, "max_tokens": 120, "stop_strings": ENDS},
    "exam": {"kind": "eval", "suites": {"sums": {"data": WORLD}}, "max_tokens": 120, "stop_strings": ENDS},
    "rl": {
        "kind": "ppo",
        "data": WORLD,
        "reward": "stop",
        "prompts_per_step": 8,
        "max_completion_length": 120,
        "stop_strings": ENDS,
        "max_steps": 1,
        "log_completions_steps": 1,
    },
}


def call(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == status, result.output
    return result.output


def ends_right(text: str) -> bool:
    """Whether the first of the texts stands at the end, and nowhere before."""
    return text[-1:] in ENDS and not any(end in text[:-1] for end in ENDS)


def test_stages_end_samples_at_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "r", "model": "tiny:qwen2", "output": "run", "stages": STAGES}))
    call("train", str(path))
    stages = tmp_path / "run" / "stages"
    drawn = [(row["text"], row["finish_reason"]) for row in read_rollouts(stages / "sample" / "rollouts.parquet")]
    [recorded] = [path for path in (stages / "exam" / "sums").iterdir() if path.name.startswith("samples")]
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    drawn += [(line["text"], line["finish_reason"]) for line in lines if "text" in line]
    assert len(drawn) == 120
    stopped = [text for text, reason in drawn if reason == "stop"]
    by_text = [text for text in stopped if text[-1:] in ENDS]
    assert len(by_text) > 20 and all(map(ends_right, by_text))
    assert not any(end in text for text, reason in drawn if reason == "length" for end in ENDS)
    results = json.loads((stages / "exam" / "results.json").read_text())
    assert results["suites"]["sums"]["decoding"]["stop_strings"] == ENDS

    [completions] = (stages / "rl").rglob("*.parquet")
    table = pq.read_table(completions).to_pylist()
    trained = [row["text"] for row in table]
    assert len(trained) == 8 and any(map(ends_right, trained))
    assert all(ends_right(text) or not any(end in text for end in ENDS) for text in trained)
    told = call("train", str(path), "stages.exam.stop_strings=[x]", status=2)
    assert "stop_strings" in told


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "r", "model": "tiny:qwen2", "output": "run", "stages": STAGES}))
    with pytest.raises(RecipeError, match="stop_strings"):
        load_recipe(path, ["stages.rl.stop_strings=['']"])
