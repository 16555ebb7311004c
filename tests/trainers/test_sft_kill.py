"""Supervised fine-tuning killed between steps: the restarted run ends as the unbroken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from reasonrl.observe import is_time_field, read_metrics
from reasonrl.trainers.checkpoints import latest_complete
from reasonrl.trainers.sft import SFTCallback

RECIPE = """
recipe: kill
model: tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1
stages:
  cold:
    kind: sft
    data: {world: arithmetic, n: 60, args: {operations: [1, 2]}}
    max_steps: 40
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 2
    learning_rate: 2.0e-3
    warmup_steps: 5
    logging_steps: 10
    save_steps: 15
"""


def run(folder: Path, *command: str) -> int:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, timeout=300).returncode


def test_a_killed_run_ends_as_the_unbroken_one(tmp_path):
    stages = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(RECIPE)
        stages[name] = folder / "runs" / "kill" / "stages" / "cold"
    # Step 23 of 40: the last checkpoint is step 15, in the middle of a pass over the data and between two logged steps.
    script = str(Path(__file__).with_name("kill_at.py"))
    assert run(tmp_path / "killed", script, "supervised step", "23", "recipe.yaml") == -9
    for name in stages:
        assert run(tmp_path / name, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml") == 0
    lines = {
        name: [
            {k: v for k, v in line.items() if not is_time_field(k)} for line in read_metrics(stage / "metrics.jsonl")
        ]
        for name, stage in stages.items()
    }
    assert [line["step"] for line in lines["whole"]] == [10, 15, 20, 30, 40]
    assert lines["killed"] == lines["whole"]
    weights = {name: load_file(stage / "model" / "model.safetensors") for name, stage in stages.items()}
    assert all(torch.equal(weights["killed"][key], tensor) for key, tensor in weights["whole"].items())


def test_a_cpu_budget_counts_the_work_that_is_kept(tmp_path):
    """Killed between checkpoints, the budget goes on from the last one; killed after its end, nothing more is
    trained.
    """
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("max_steps: 40", "max_steps: 100000").replace("save_steps: 15", "save_steps: 5")
        + "    max_cpu_seconds: 1.0\n"
    )
    stage = tmp_path / "runs" / "kill" / "stages" / "cold"
    started = ["recipe.yaml", "stages.cold.max_cpu_seconds=100000"]
    script = str(Path(__file__).with_name("kill_at.py"))
    assert run(tmp_path, script, "supervised step", "13", *started) == -9
    spent = json.loads((stage / "checkpoints" / "checkpoint-10" / "spent.json").read_text())["cpu_seconds"]
    assert spent > 0
    found = latest_complete(stage / "checkpoints")
    callback = SFTCallback(stage / "checkpoints", print, lambda: False, lambda: 1000.0, spent + 1, None)
    callback.resume(found[1])
    assert not callback.out_of_budget(), "CPU seconds of lost steps do not count"
    callback = SFTCallback(stage / "checkpoints", print, lambda: False, lambda: 1000.0, spent, None)
    callback.resume(found[1])
    assert callback.out_of_budget()
