"""The recipe bcpg_nsa with a tiny model: three steps of every method on real prompts, through every stage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reasonrl.eval.rollouts.rows import read_rollouts

README = Path(__file__).parents[2] / "recipes" / "bcpg_nsa.md"


def labels(source: Path, target: Path) -> None:
    """Label records of ProcessBench's solutions: right up to the first error, nothing known after it."""
    with source.open(encoding="utf-8") as rows, target.open("w", encoding="utf-8") as out:
        for row in map(json.loads, list(rows)[:48]):
            steps, text = [], ""
            for step in row["steps"]:
                steps.append([len(text), len(text) + len(step) + 1])
                text += step + "\n"
            first = row["label"] if row["label"] >= 0 else len(steps)
            known = [1 if n < first else 0 if n == first else None for n in range(len(steps))]
            record = {"id": row["id"], "problem": row["problem"], "text": text, "steps": steps, "labels": known}
            out.write(json.dumps(record) + "\n")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_steps_on_real_prompts(tmp_path: Path) -> None:
    """The command of the recipe's page, as it stands there."""
    data = Path(os.environ.get("REASONRL_DATA", "."))
    if not (data / "gsm8k" / "train.jsonl").is_file() or not (data / "processbench" / "gsm8k.jsonl").is_file():
        pytest.skip("REASONRL_DATA names no folder with gsm8k, math_train and processbench")
    labels(data / "processbench" / "gsm8k.jsonl", tmp_path / "labels.jsonl")
    section = README.read_text(encoding="utf-8").split("## On real prompts")[1]
    command = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert command is not None
    shell = f'reasonrl() {{ "{sys.executable}" -m reasonrl "$@"; }}\n{command[1]}'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = tmp_path / "runs" / "bcpg_nsa" / "stages"
    results = {path.parent.name: json.loads(path.read_text())["result"] for path in stages.glob("*/done.json")}
    assert set(results) == {
        *("sample", "judge", "label", "train", "rft", "dpo", "table"),
        *(f"exam_{name}" for name in ("start", "rft", "dpo", "train")),
    }
    assert all(results[name]["metrics"]["steps"] == 3 for name in ("train", "judge", "dpo"))
    rows = list(read_rollouts(stages / "sample" / "rollouts.parquet"))
    real = {json.loads(line)["question"] for line in (data / "gsm8k" / "train.jsonl").open(encoding="utf-8")}
    real |= {json.loads(line)["problem"] for line in (data / "math_train" / "train.jsonl").open(encoding="utf-8")}
    assert {row["problem"] for row in rows} <= real and len({row["problem_id"] for row in rows}) > 4
    found = results["train"]["metrics"]
    # Random text has hardly more than one step, and the last step of a wrong answer is wrong: little is weighted.
    assert found["wrong_labelled"] > 0 and 0 <= found["mined_share"] < 1 and found["samples_truncated"] > 0
    assert results["exam_train"]["metrics"]
