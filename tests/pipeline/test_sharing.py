"""Stages under FSDP and ZeRO through the whole run: processes that share the model out end where whole ones end."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainers"))
from helpers import movement_gap
from logged_world import TINY, sample_rows

from reasonrl.models import load_tokenizer, resolve_model

READ = f"""\
recipe: shared
model: {TINY}
launch: {{num_processes: 2SPLIT}}
stages:
  read: &few
    kind: sft
    data: {{world: arithmetic, n: 64}}
    per_device_train_batch_size: 4
    max_steps: 6
    learning_rate: 3.0e-3
    adam_epsilon: 1.0e-6
    save_steps: 3
"""
MORE = """\
  learn:
    kind: ppo
    model: ${stage:read}
    data: {world: arithmetic, n: 64}
    reward: math
    prompts_per_step: 4
    num_generations: 2
    max_completion_length: 12
    max_steps: 3
    critic_steps: 2
    learning_rate: 1.0e-3
    critic_learning_rate: 1.0e-3
    adam_epsilon: 1.0e-6
  pairs:
    kind: dpo
    model: ${stage:read}
    data: {path: rows.jsonl}
    per_device_train_batch_size: 2
    max_steps: 3
    learning_rate: 1.0e-3
    adam_epsilon: 1.0e-6
  logged:
    kind: bcpg
    model: ${stage:read}
    data: {path: rows.jsonl}
    samples_per_step: 8
    max_steps: 3
    learning_rate: 1.0e-3
"""

SPLIT = "SPLIT"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def written(folder: Path, split: str, recipe: str) -> list[str]:
    """A recipe in a folder of its own, and the command that runs it."""
    folder.mkdir()
    rows = sample_rows(load_tokenizer(TINY), problems=6)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.replace(SPLIT, split), encoding="utf-8")
    return [sys.executable, "-m", "reasonrl", "train", "recipe.yaml"]


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs" / "shared" / "stages" / stage / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two processes that each hold all."""
    return ran(tmp_path_factory.mktemp("sharing") / "whole", "")


def ran(folder: Path, split: str) -> Path:
    command = written(folder, split, READ + MORE)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install '.[deepspeed]')"
)


@pytest.mark.parametrize(
    "way",
    [
        "fsdp: full_shard",
        "fsdp: shard_grad_op",
        *(pytest.param(f"deepspeed: {name}", marks=NEEDS_DEEPSPEED) for name in ("zero2", "zero3")),
    ],
)
def test_every_training_stage_ends_where_whole_processes_end(whole, tmp_path, way) -> None:
    shared = ran(tmp_path / "shared", f", {way}")
    begun = load_file(Path(resolve_model(TINY)) / "model.safetensors")
    for stage in ("read", "learn", "pairs", "logged"):
        ends = [weights(folder, stage) for folder in (whole, shared)]
        start = begun if stage == "read" else weights(whole, "read")
        assert movement_gap(start, *ends) < 1e-3, stage
    critics = [load_file(folder / "runs/shared/stages/learn/critic/model.safetensors") for folder in (whole, shared)]
    assert all(torch.allclose(one, critics[1][name], atol=1e-5) for name, one in critics[0].items())


def test_a_killed_stage_goes_on_from_its_checkpoint(tmp_path) -> None:
    command = written(tmp_path / "killed", ", fsdp: full_shard", READ)
    stage = tmp_path / "killed" / "runs" / "shared" / "stages" / "read"
    process = subprocess.Popen(command, cwd=tmp_path / "killed", text=True, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 400
    while not (stage / "checkpoints" / "checkpoint-3" / "complete.json").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=tmp_path / "killed", capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    whole = subprocess.run(
        written(tmp_path / "unbroken", ", fsdp: full_shard", READ),
        cwd=tmp_path / "unbroken",
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert whole.returncode == 0, whole.stderr[-4000:]
    ends = [weights(tmp_path / folder, "read") for folder in ("unbroken", "killed")]
    assert all(torch.equal(one, ends[1][name]) for name, one in ends[0].items())
