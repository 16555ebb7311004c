"""Iterations of BCPG: sample, annotate, train, with the policy and its reference moved; through real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"
RECIPE = f"""\
recipe: loop
model: {TINY}
stages:
  sample:
    kind: rollout
    model: "${{previous:train,${{model}}}}"
    data: {{world: reflective, n: 6}}
    n: 8
    max_tokens: 24
    reward: judge.py:even
    rollout: {{batch_size: 16}}
  label:
    kind: annotate
    data: ${{stage:sample}}
    only: wrong
    truncated: leave
    segment: {{method: lines}}
    shard_size: 8
    judges: [{{name: judge.py:alternating}}]
  train:
    kind: bcpg
    model: "${{previous:train,${{model}}}}"
    data: ${{stage:label}}
    beta: 0.5
    tau: 0.05
    samples_per_step: 12
    num_train_epochs: 2
    learning_rate: 3.0e-3
    logging_steps: 1
    save_steps: 1
loop: {{stages: [sample, label, train], times: 2}}
"""
# A random policy ends one answer in twenty or so: rights and wrongs are by length, and its steps alternate.
JUDGE = """\
def even(completions, **columns):
    return [float(len(str(one)) % 2 == 0) for one in completions]


def alternating(record):
    labels = [1 - place % 2 for place in range(len(record["steps"]))]
    labels[-1] = 0
    return labels
"""
PASSES = [f"{stage}.{turn}" for turn in (1, 2) for stage in ("sample", "label", "train")]


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "judge.py").write_text(JUDGE)
    return folder / "runs" / "loop" / "stages"


def test_a_pass_samples_with_what_the_one_before_trained_and_holds_to_it(tmp_path, monkeypatch) -> None:
    """Two passes, each in folders of its own: policy, samples and reference move; a second start does nothing again."""
    monkeypatch.chdir(tmp_path)
    stages = write(tmp_path)
    train(load_recipe(tmp_path / "recipe.yaml"), say=lambda line: None)
    assert sorted(path.name for path in stages.iterdir()) == sorted(PASSES)
    about = [json.loads((stages / f"train.{turn}" / "reference" / "about.json").read_text()) for turn in (1, 2)]
    assert about[0]["model"] == TINY
    assert Path(about[1]["model"]) == stages / "train.1" / "model"
    drawn = [list(read_rollouts(stages / f"sample.{turn}" / "rollouts.parquet")) for turn in (1, 2)]
    assert [row["problem"] for row in drawn[0]] == [row["problem"] for row in drawn[1]]
    assert [row["text"] for row in drawn[0]] != [row["text"] for row in drawn[1]]
    lines = [json.loads((stages / f"train.{turn}" / "metrics.jsonl").read_text().splitlines()[0]) for turn in (1, 2)]
    # Of either pass the first step starts at its reference, and the second reads the samples as they were drawn.
    assert all(abs(line["log_ratio/lowest"]) < 1e-4 for line in lines)
    read = json.loads((stages / "train.2" / "data.json").read_text())
    assert read["samples"] == 48 and 0 < read["samples_wrong"] < 48
    weights = [load_file(stages / f"train.{turn}" / "model" / "model.safetensors") for turn in (1, 2)]
    assert any(bool((weights[0][name] != weights[1][name]).any()) for name in weights[0])
    said: list[str] = []
    train(load_recipe(tmp_path / "recipe.yaml"), say=said.append)
    assert sum("skipped (done" in line for line in said) == len(PASSES)


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_loop_killed_in_every_stage_ends_as_the_unbroken_one(tmp_path) -> None:
    whole = write(tmp_path / "whole")
    process = start(tmp_path / "whole")
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    killed = write(tmp_path / "killed")
    moments: list[Callable[[], bool]] = [
        lambda: lines_of(killed / "sample.1" / "samples" / "samples.jsonl") >= 5,
        lambda: (killed / "label.1" / "labels").exists(),
        lambda: lines_of(killed / "train.1" / "metrics.jsonl") >= 3,
        lambda: lines_of(killed / "sample.2" / "samples" / "samples.jsonl") >= 20,
        lambda: (killed / "train.2" / "reference").exists(),
        lambda: lines_of(killed / "train.2" / "metrics.jsonl") >= 6,
    ]
    for number, moment in enumerate(moments):
        process = start(tmp_path / "killed")
        while process.poll() is None and not moment():
            time.sleep(0.005)
        assert process.poll() is None, f"it ended before moment {number}: {process.communicate()[0]}"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(tmp_path / "killed")
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    for turn in (1, 2):
        one, other = (stages / f"sample.{turn}" / "rollouts.parquet" for stages in (whole, killed))
        assert one.read_bytes() == other.read_bytes(), turn
        one, other = (stages / f"train.{turn}" / "model" / "model.safetensors" for stages in (whole, killed))
        assert one.read_bytes() == other.read_bytes(), turn
        first, second = (
            [json.loads(line)["step"] for line in (stages / f"train.{turn}" / "metrics.jsonl").read_text().splitlines()]
            for stages in (whole, killed)
        )
        assert first == second == list(range(1, 9))
