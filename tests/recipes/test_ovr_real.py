"""The PPO stage of recipes/ovr.yaml, cut down to a tiny Qwen2.5-VL, on real pictures and real text in one mix."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from reasonrl.observe import is_time_field, read_metrics

TREE = Path(__file__).resolve().parents[2]
DATA = os.environ.get("REASONRL_DATA")
STEPS, SAVED, KILLED_AFTER = 20, 10, 12
SMALL = {
    "prompts_per_step": 4,
    "num_generations": 2,
    "critic_steps": 4,
    "max_prompt_length": 400,
    "max_completion_length": 24,
    "max_steps": STEPS,
    "save_steps": SAVED,
    "warmup_steps": 2,
    "tokens_per_microbatch": 2048,
    "bf16": False,
    "gradient_checkpointing": False,
    "track_behaviours": 8,
    # A verdict that comes late on a busy machine is another one.
    "reward": {"name": "math", "args": {"time_limit": 300}},
}


def recipe(folder: Path) -> None:
    """Curation and `rl` of recipes/ovr.yaml; sizes alone are others."""
    stages = yaml.safe_load((TREE / "recipes" / "ovr.yaml").read_text())["stages"]
    prompts, rl = stages["prompts"], stages["rl"]
    prompts["steps"] = [step for step in prompts["steps"] if step["step"] != "judge"]
    prompts["steps"].append({"step": "mix", "weights": {"text": 1, "image": 1}})
    prompts["sources"] = {
        "text": {"path": f"{DATA}/math_train/train.jsonl", "limit": 250},
        "image": {"path": f"{DATA}/mathvision/testmini_with_images.jsonl"},
    }
    prompts["pictures"] = {"resize_to_pixels": 40000}
    # The pictures are of a suite that the recipe keeps out.
    prompts["steps"] = [step for step in prompts["steps"] if step["step"] != "decontaminate"]
    rl |= {**SMALL, "model": "tiny:qwen2_5_vl", "launch": {"num_processes": 1}, "rollout": {"engine": "transformers"}}
    rl["data"] = {"path": "${stage:prompts}", "template": "{problem}\n\nPut the final answer within \\boxed{}."}
    rl["schedules"] = {
        "max_completion_length": {"values": [12, 18, 24], "at": [6, 14]},
        "data": {"weights": [{"text": 1, "image": 1}]},
    }
    made = {"recipe": "ovr", "output": "run", "stages": {"prompts": prompts, "rl": rl}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made, sort_keys=False))


def lines(folder: Path):
    path = folder / "run" / "stages" / "rl" / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml"],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="REASONRL_DATA names no folder with MATH and MathVision")
@pytest.mark.timeout(3000)
def test_twenty_steps_on_real_pictures_and_text(tmp_path):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        recipe(folder)
    whole, killed = map(start, folders)
    while len(lines(folders[1])) < KILLED_AFTER:
        assert killed.poll() is None, (folders[1] / "log").read_text()[-3000:]
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start(folders[1]).wait() == 0, (folders[1] / "log").read_text()[-3000:]
    assert whole.wait() == 0, (folders[0] / "log").read_text()[-3000:]

    found = lines(folders[0])
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    needed = {
        *("reward", "accuracy", "policy_loss", "value_loss", "explained_variance", "entropy", "grad_norm", "unscored"),
        *("critic_grad_norm", "learning_rate", "critic_learning_rate", "completions/mean_length", "memory/rss_mb"),
        *("completions/truncated_fraction", "sampling/logprob_difference", "schedule/max_completion_length"),
        *("schedule/mix_text", "schedule/mix_image", "behaviour/backtracking", "behaviour/visual_reflection"),
        *("behaviour/subgoal_setting", "behaviour/verification", "behaviour/backward_chaining", "time/step"),
    }
    for line in found:
        assert needed <= line.keys(), (line["step"], needed - line.keys())
        # A model that has learnt nothing gives placeholders some probability, which the engine leaves out.
        assert line["schedule/mix_image"] == 0.5 and line["sampling/logprob_difference"] < 0.05
    assert [line["schedule/max_completion_length"] for line in found] == [12] * 6 + [18] * 8 + [24] * 6
    held = [line["memory/rss_mb"] for line in found[5:]]
    print(f"memory after step 5: {min(held):.0f} to {max(held):.0f} MiB, {max(held) / held[0] - 1:.1%} above step 6")
    assert max(held) <= 1.05 * held[0]
    again = lines(folders[1])
    plain = [[{k: v for k, v in line.items() if not is_time_field(k)} for line in one] for one in (found, again)]
    # As text: the share of an explained variance of nothing is no number, and no number is equal to itself.
    assert repr(plain[0]) == repr(plain[1])
    ends = [folder / "run" / "stages" / "rl" for folder in folders]
    for part in ("model", "critic"):
        first, second = ((end / part / "model.safetensors").read_bytes() for end in ends)
        assert first == second, part
