"""One rank, two under DDP, and two under ZeRO walk the same path, in float32; checkpoints of ZeRO go on exactly."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import movement_gap

SCRIPT = Path(__file__).with_name("ranks_run.py")
NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install '.[deepspeed]')"
)
#: Ten updates of the policy, eight of the critic; micro-batches of few samples, so that gradients accumulate.
TEN = {
    "max_steps": 5,
    "actor_steps": 2,
    "critic_steps": 2,
    "critic_warmup_steps": 0,
    "prompts_per_step": 4,
    "num_generations": 2,
    "tokens_per_microbatch": 90,
    "warmup_steps": 2,
    "lr_scheduler_type": "constant_with_warmup",
    "adam_epsilon": 1e-6,
}
FEW = {**TEN, "max_steps": 2}
LORA = {"lora": {"r": 4, "lora_alpha": 8}, "learning_rate": 1e-2, "critic_learning_rate": 1e-2}


def started(ranks: int, out: Path, settings: dict) -> subprocess.CompletedProcess:
    out.mkdir()
    command = [sys.executable, str(SCRIPT)]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("ACCELERATE_USE_CPU", None)
    if not str(settings.get("zero")).startswith("zero"):
        environment["ACCELERATE_USE_CPU"] = "true"
    return subprocess.run(
        [*command, str(out), json.dumps(settings)], capture_output=True, text=True, timeout=570, env=environment
    )


def run_on(ranks: int, out: Path, settings: dict) -> tuple[dict, list[dict]]:
    done = started(ranks, out, settings)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return torch.load(out / "weights.pt"), json.loads((out / "metrics.json").read_text())


def gaps(one: dict, other: dict) -> dict[str, float]:
    """How far two runs end apart, relative to how far they went; policy and critic."""
    return {
        part: movement_gap(one["start"][part], other["end"][part], one["end"][part]) for part in ("policy", "critic")
    }


def agree(one: tuple, other: tuple, at_most: float = 1e-3) -> None:
    found = gaps(one[0], other[0])
    assert max(found.values()) <= at_most, found
    for first, second in zip(one[1], other[1], strict=True):
        for name in ("reward", "policy_loss", "value_loss", "entropy", "advantage_std", "learning_rate"):
            if name in first:
                assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-5), name
        assert second["critic_learning_rate"] == first["critic_learning_rate"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of one rank by their settings, each made once."""
    made: dict[str, tuple] = {}

    def run(settings: dict) -> tuple:
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = run_on(1, tmp_path_factory.mktemp("alone") / "run", settings)
        return made[key]

    return run


@NEEDS_DEEPSPEED
@pytest.mark.timeout(600)
def test_zero3_in_a_few_updates(alone, tmp_path):
    agree(alone(FEW), run_on(2, tmp_path / "zero3", {**FEW, "zero": "zero3"}))


@pytest.mark.timeout(600)
def test_fsdp_in_a_few_updates(alone, tmp_path):
    agree(alone(FEW), run_on(2, tmp_path / "fsdp", {**FEW, "zero": "full_shard"}))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "zero",
    [
        None,
        *(pytest.param(name, marks=NEEDS_DEEPSPEED) for name in ("zero1", "zero2", "zero3")),
        "full_shard",
        "shard_grad_op",
    ],
)
def test_ten_updates_are_those_of_one_rank(alone, tmp_path, zero, adapter):
    two = run_on(2, tmp_path / "two", {**TEN, **adapter, **({"zero": zero} if zero else {})})
    agree(alone({**TEN, **adapter}), two)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [pytest.param("zero2", marks=NEEDS_DEEPSPEED), "full_shard"])
def test_a_planted_fault_is_seen(alone, tmp_path, zero):
    two = run_on(2, tmp_path / "two", {**TEN, "zero": zero, "fault": "a rank is lost"})
    assert gaps(alone(TEN)[0], two[0])["policy"] > 1e-2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"zero": "zero2"}, marks=NEEDS_DEEPSPEED, id="zero2"),
        pytest.param({"zero": "zero3"}, marks=NEEDS_DEEPSPEED, id="zero3"),
        pytest.param({"zero": "zero3", **LORA}, marks=NEEDS_DEEPSPEED, id="zero3 lora"),
        pytest.param({"zero": "zero3", "gradient_checkpointing": True}, marks=NEEDS_DEEPSPEED, id="checkpointing"),
        pytest.param({"zero": "full_shard"}, id="fsdp"),
        pytest.param({"zero": "full_shard", **LORA}, id="fsdp lora"),
        pytest.param({"zero": "shard_grad_op", "gradient_checkpointing": True}, id="fsdp checkpointing"),
        pytest.param({"zero": "full_shard", "vision": "qwen2_5_vl"}, id="fsdp pictures"),
    ],
)
def test_a_resumed_run_is_the_unbroken_one(tmp_path, settings):
    settings = {**TEN, **settings, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole, lines = run_on(2, tmp_path / "whole", settings)
    checkpoint = tmp_path / "whole" / "run" / "checkpoint-2"
    again, rest = run_on(2, tmp_path / "again", {**settings, "resume": str(checkpoint)})
    for part in ("policy", "critic"):
        assert all(torch.equal(again["end"][part][name], tensor) for name, tensor in whole["end"][part].items()), part
    names = ("reward", "policy_loss", "value_loss", "learning_rate", "critic_learning_rate", "critic_grad_norm")
    assert [[line[n] for n in names] for line in rest] == [[line[n] for n in names] for line in lines[2:]]
    fewer = started(
        1, tmp_path / "fewer", {k: v for k, v in settings.items() if k != "zero"} | {"resume": str(checkpoint)}
    )
    assert fewer.returncode != 0 and "written under 2 processes and " in fewer.stderr
    assert "resumed under 1 processes and no ZeRO" in fewer.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [pytest.param("zero3", marks=NEEDS_DEEPSPEED), "full_shard"])
def test_gradient_checkpointing_and_a_reference_change_nothing(alone, tmp_path, zero):
    settings = {**FEW, "beta": 0.05}
    two = run_on(2, tmp_path / "two", {**settings, "zero": zero, "gradient_checkpointing": True})
    agree(alone(settings), two)
    assert two[1][1]["kl"] == pytest.approx(alone(settings)[1][1]["kl"], rel=1e-2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [pytest.param("zero3", marks=NEEDS_DEEPSPEED), "full_shard"])
def test_a_process_reward_model_is_whole(alone, tmp_path, zero):
    settings = {**FEW, "process_reward": True}
    two = run_on(2, tmp_path / "two", {**settings, "zero": zero})
    agree(alone(settings), two)
    for first, second in zip(alone(settings)[1], two[1], strict=True):
        assert second["process_reward/sum"] == pytest.approx(first["process_reward/sum"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [pytest.param("zero3", marks=NEEDS_DEEPSPEED), "full_shard"])
def test_half_precision_goes_the_same_way(alone, tmp_path, zero):
    two = run_on(2, tmp_path / "two", {**FEW, "zero": zero, "bf16": True, "max_logprob_gap": 0.5})
    assert max(gaps(alone(FEW)[0], two[0]).values()) < 1.0


VISION = {**TEN, "vision": "qwen2_5_vl", "max_steps": 3}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava"])
@pytest.mark.parametrize(
    "zero", [None, *(pytest.param(name, marks=NEEDS_DEEPSPEED) for name in ("zero2", "zero3")), "full_shard"]
)
def test_pictures_over_two_ranks(alone, tmp_path, zero, kind, adapter):
    """Of eight rows two have no picture: a rank may hold micro-batches of text alone while the other reads pictures."""
    settings = {**VISION, **adapter, "vision": kind}
    agree(alone(settings), run_on(2, tmp_path / "two", {**settings, **({"zero": zero} if zero else {})}))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [None, pytest.param("zero3", marks=NEEDS_DEEPSPEED)])
def test_a_lost_rank_is_seen_with_pictures(alone, tmp_path, zero):
    settings = {**VISION, "fault": "a rank is lost"}
    two = run_on(2, tmp_path / "two", {**settings, **({"zero": zero} if zero else {})})
    assert gaps(alone(VISION)[0], two[0])["policy"] > 1e-2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_resumed_run_on_pictures_with_an_adapter_is_the_unbroken_one(tmp_path):
    settings = {**VISION, **LORA, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole, _ = run_on(1, tmp_path / "whole", settings)
    resume = str(tmp_path / "whole" / "run" / "checkpoint-2")
    again, _ = run_on(1, tmp_path / "again", {**settings, "resume": resume})
    for part in ("policy", "critic"):
        for name, tensor in whole["end"][part].items():
            assert torch.allclose(again["end"][part][name], tensor, atol=1e-6), name
