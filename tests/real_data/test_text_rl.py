"""`reasonrl train text_rl` on real rows: two PPO steps on GSM8K and on MATH, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasonrl.observe import read_metrics
from reasonrl.observe.completions import completion_files, read_parquet

SMALL = ("prompts_per_step=2", "max_completion_length=48")
INSTRUCTION = "\n\nReason step by step, and put the final answer within \\boxed{}."
FRAME = ("<|im_start|>user\n", f"{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n")
STATUSES = ("correct", "wrong", "no_answer", "timeout", "crash", "bad_gold", "fault")


def real_file(name: str) -> Path:
    """A file below the folder that REASONRL_DATA names; the test skips where there is none."""
    if "REASONRL_DATA" not in os.environ:
        pytest.skip("REASONRL_DATA is not set: it names the folder with real data")
    path = Path(os.environ["REASONRL_DATA"]) / name
    if not path.is_file():
        pytest.skip(f"REASONRL_DATA has no {name}")
    return path.resolve()


def raw_rows(path: Path) -> list[dict[str, Any]]:
    """The rows as the standard library reads them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def gsm8k_gold(row: dict[str, Any]) -> str:
    return str(row["answer"].rsplit("####", 1)[1].strip())


def math_gold(row: dict[str, Any]) -> str:
    return str(row["answer"])


@pytest.mark.parametrize(
    ("file", "asked", "gold_of"),
    [("gsm8k/train.jsonl", "question", gsm8k_gold), ("math_train/train.jsonl", "problem", math_gold)],
    ids=["gsm8k", "math"],
)
def test_two_steps_on_real_rows(file, asked, gold_of, tmp_path):
    data = real_file(file)
    command = [sys.executable, "-m", "reasonrl", "train", "text_rl", f"data.train.path={data}", "output=run"]
    overrides = [f"stages.rl.{setting}" for setting in SMALL]
    done = subprocess.run([*command, *overrides], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    stage = tmp_path / "run" / "stages" / "rl"
    assert {path.name for path in (stage / "model").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}

    lines = read_metrics(stage / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    files = completion_files(stage / "completions")
    assert list(files) == [1, 2]
    golds = {(row[asked], gold_of(row)) for row in raw_rows(data)}
    asked_problems = set()
    for line in lines:
        samples = read_parquet(files[line["step"]])
        assert len(samples) == line["samples"] == 8
        for sample in samples:
            assert sample["prompt"].startswith(FRAME[0]) and sample["prompt"].endswith(FRAME[1])
            problem = sample["prompt"].removeprefix(FRAME[0]).removesuffix(FRAME[1])
            asked_problems.add(problem)
            assert (problem, sample["answer"]) in golds
            assert sample["verdict"] in STATUSES
            assert 1 <= sample["length"] <= 48
            assert sample["finish_reason"] == "stop" or sample["length"] == 48
        check_counts(line, samples)
    assert len(asked_problems) == 4


def check_counts(line: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    """The metrics line says of a step what its completions say: verdicts, truncation, reward."""
    total = len(samples)
    for status in STATUSES:
        assert line[f"verdict/{status}"] == sum(sample["verdict"] == status for sample in samples) / total
    cut = [sample for sample in samples if sample["finish_reason"] == "length"]
    assert line["completions/truncated_fraction"] == len(cut) / total
    right = [s for s in samples if s["verdict"] == "correct" and s["finish_reason"] == "stop"]
    assert line["accuracy"] == len(right) / total
    # A cut response earns nothing, whatever it says. These data sets have no gold that cannot be compared.
    assert [sample["reward"] for sample in samples] == [float(sample in right) for sample in samples]
    assert line["reward"] == pytest.approx(len(right) / total)
    assert line["unscored"] == line["verdict/bad_gold"] == line["verdict/fault"] == 0
    assert line["completions/mean_length"] == pytest.approx(sum(sample["length"] for sample in samples) / total)


def test_without_a_file_there_is_one_clear_message(tmp_path):
    command = [sys.executable, "-m", "reasonrl", "train", "text_rl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "1 problem" in done.stderr and "data.train.path=…" in done.stderr and "text_rl.yaml:" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []
