"""`reasonrl pacore run --engine` with a loaded model: equal answers whatever is drawn together, and on from a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main

WORDS = ("--engine", "transformers", "--model", "tiny:qwen2", "--max-tokens", "8", "--rounds", "3,2", "--solo", "4")


def run(folder: Path, out: str, *more: str) -> dict[str, dict]:
    words = ["pacore", "run", str(folder / "in.jsonl"), "--out", str(folder / out), *WORDS, *more]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return {row["id"]: row for row in map(json.loads, (folder / out / "results.jsonl").read_text().splitlines())}


@pytest.mark.slow  # loads a model four times
def test_a_loaded_model_goes_through_rounds(tmp_path):
    lines = [json.dumps({"id": f"p{k}", "problem": f"{k} + 1 = ?", "answer": str(k + 1)}) for k in range(4)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    whole = run(tmp_path, "whole")
    assert {name: [one["calls"] for one in row["rounds"]] for name, row in whole.items()} == {
        f"p{k}": [3, 2, 1] for k in range(4)
    }
    assert all(0 < row["completion_tokens"] <= 6 * 8 and row["prompt_tokens"] > 0 for row in whole.values())
    assert run(tmp_path, "small", "--set", "batch_size=2", "--at-once", "1") == whole
    run(tmp_path, "part", "--limit", "2")
    assert run(tmp_path, "part") == whole
    calls = [json.loads(line) for line in (tmp_path / "part" / "calls.jsonl").read_text().splitlines()]
    keys = [(row["id"], row["round"], row["index"]) for row in calls]
    assert len(keys) == len(set(keys)) == 4 * (4 + 2 + 1)
    said = CliRunner().invoke(main, ["pacore", "table", str(tmp_path / "whole")])
    assert said.exit_code == 0 and "majority, equal tokens" in said.output
