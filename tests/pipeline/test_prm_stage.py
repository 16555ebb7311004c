"""The `prm` stage through the whole run: what it makes, refusals of its recipe, kills, several processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasonrl.errors import RecipeError
from reasonrl.pipeline import train
from reasonrl.prm.scoring import load_scorer
from reasonrl.recipe import load_recipe

RECIPE = """\
recipe: prm-test
stages:
  prm:
    kind: prm
    model: tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1
    data: {world: reflective, n: 40}
    eval_data: {world: reflective, n: 12, split: test}
    solutions_per_step: 8
    max_length: 160
    learning_rate: 3e-3
    num_train_epochs: 2
    logging_steps: 1
"""


def write(folder: Path, more: str = "") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + more, encoding="utf-8")
    return path


def test_a_run_makes_a_model_that_scores(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    train(load_recipe(write(tmp_path)), say=said.append)
    stage = tmp_path / "runs" / "prm-test" / "stages" / "prm"
    done = json.loads((stage / "done.json").read_text())["result"]
    figures = json.loads((stage / "step_metrics.json").read_text())
    assert done["metrics"]["steps"] == 10
    assert done["metrics"]["solutions"] == 40
    assert done["metrics"]["solutions_cut"] > 0, "max_length was never at work"
    assert figures["model"]["macro_f1"] == done["metrics"]["eval/macro_f1"]
    assert figures["always right"]["recall"] == 1.0
    assert any("always right" in line and "macro-F1" in line for line in said)
    text = "a1+2=3\n#3"
    scorer = load_scorer(str(stage / "model"))
    at_step = load_scorer(str(stage / done["checkpoints"]["10"]))
    row = {"id": "x", "problem": "1 a+2", "text": text, "steps": [[0, 7], [7, 9]]}
    scores = scorer([row])
    assert all(0 < score < 1 for score in scores[0])
    assert scores == at_step([row])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("label_rule=first", "allowed: all, first_error"),
        ("batch_size=4", "solutions_per_step"),
        ("max_steps=3", "both say how long to train"),
        ("threshold=1.5", "threshold"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, key, message) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path), [f"stages.prm.{key}"])
    assert message in str(caught.value)


def test_soft_labels_have_no_first_error(tmp_path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "    labels: soft\n    label_rule: first_error\n"))
    assert "soft has no first error" in str(caught.value)


def weights(folder: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    model = folder / "runs" / "prm-test" / "stages" / "prm" / "model"
    return {**load_file(model / "model.safetensors"), **load_file(model / "scalar_head.safetensors")}


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    write(folder)
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml", *more]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_killed_runs_and_two_processes_end_with_the_same_weights(tmp_path) -> None:
    longer = "stages.prm.num_train_epochs=6"
    finish(start(tmp_path / "whole", longer))
    draw, seen = random.Random(2), 0
    lines = tmp_path / "killed" / "runs" / "prm-test" / "stages" / "prm" / "metrics.jsonl"
    for _ in range(3):
        process = start(tmp_path / "killed", longer)
        while process.poll() is None:
            found = len(lines.read_text().splitlines()) if lines.exists() else 0
            if found >= seen + 6:
                time.sleep(draw.uniform(0, 0.3))
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.05)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        seen = found
    finish(start(tmp_path / "killed", longer))
    finish(start(tmp_path / "two", longer, "stages.prm.launch.num_processes=2"))
    whole, killed, two = (weights(tmp_path / name) for name in ("whole", "killed", "two"))
    steps = [json.loads(line)["step"] for line in lines.read_text().splitlines()]
    assert steps == list(range(1, 31))
    for name, tensor in whole.items():
        assert (tensor - killed[name]).abs().max() == 0, name
        assert (tensor - two[name]).abs().max() < 2e-4, name
