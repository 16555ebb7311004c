"""The recipe bcpg_nsa at its own size, rehearsed: the sums of its plan, and that its arms change what they say."""

from __future__ import annotations

import json
import re

from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.recipe import load_recipe


def test_the_plan_adds_up(tmp_path, monkeypatch) -> None:
    """2,069 problems, as the paper kept: rows, tokens and draws, for 64 processes."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"Which number is {number}?", "answer": str(number)} for number in range(2069)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"problem": "1+1?", "text": "So 2.", "steps": [[0, 5]], "labels": [1]}
    (tmp_path / "labels.jsonl").write_text(json.dumps(record) + "\n")
    given = ["data.train.path=rows.jsonl", "data.labels.path=labels.jsonl"]
    done = CliRunner().invoke(main, ["train", "bcpg_nsa", "--dry-run", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [line] = re.findall(r"plan: (.*)", done.stdout)
    numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", line)]
    problems, n, samples, length, tokens, epochs, again, draws, batch, steps, share, processes = numbers
    assert (problems, n, length, epochs, batch, processes) == (2069, 32, 22000, 8, 512, 64)
    assert samples == again == problems * n == 66_208
    assert tokens == samples * length
    assert draws == samples * epochs
    assert steps - 1 < draws / batch <= steps
    assert share * processes == batch


def test_arms_share_all_but_what_they_change() -> None:
    given = ["data.train.path=recipes", "data.labels.path=recipes"]
    plain = load_recipe("bcpg_nsa", given).recipe
    for name in plain.arms:
        other = load_recipe("bcpg_nsa", given, arm=name).recipe
        changed = [stage for stage in plain.stages if plain.stages[stage] != other.stages[stage]]
        assert changed == ["train"], name
