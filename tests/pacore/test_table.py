"""`reasonrl pacore table` on a run whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.pacore import Answer, Plan
from reasonrl.pacore.batch import Batch, Problem
from reasonrl.pacore.spec import PlanSpec
from reasonrl.pacore.store import CallStore

RIGHT = {"p0": {0, 1}, "p1": {0, 1, 2, 3, 4, 5}, "p2": set()}
"""Which of a problem's six plain answers are right; all wrong ones say the same."""


async def answered(call):
    """A synthesis is always right; 10 tokens a plain answer, 5 the last."""
    name = f"p{call.messages[0]['content'].split('problem ')[1][0]}"
    right = call.last or call.index in RIGHT[name]
    return Answer(f"<think>…</think>It is \\boxed{{{7 if right else 8}}}.", None, "stop", 20, 5 if call.last else 10)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    import asyncio

    problems = [
        Problem(f"p{k}", [{"role": "user", "content": f"problem {k}"}], {"answer": "7", "gold": "8"}) for k in range(3)
    ]
    with CallStore(tmp_path / "run", PlanSpec(rounds=(3,)).settings()) as store:
        asyncio.run(Batch(problems, Plan(rounds=(3,)), store, solo=6).over_endpoint(answered, 2))
    return tmp_path / "run"


def test_arms_and_their_tokens(run):
    done = CliRunner().invoke(main, ["pacore", "table", str(run), "--workers", "0", "--draws", "500"])
    assert done.exit_code == 0, done.output
    arms = {row["arm"]: row for row in json.loads((run / "table.json").read_text())["arms"]}
    values = {name: row["accuracy"]["value"] for name, row in arms.items()}
    # Of p0's six answers two are right: one in three, and 1/5 of all votes of three.
    assert values["one answer"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=0.02)
    assert values["majority of 3"] == pytest.approx((0.2 + 1 + 0) / 3, abs=0.02)
    assert values["majority, equal tokens"] == pytest.approx((0.2 + 1 + 0) / 3, abs=0.02)  # 35 tokens are three answers
    assert values["any right, equal tokens"] == pytest.approx((0.8 + 1 + 0) / 3, abs=0.02)
    assert values["rounds"] == 1.0 and arms["rounds"]["tokens"] == 35 and arms["rounds"]["prompt_tokens"] == 80
    assert arms["majority, equal tokens"]["tokens"] == 30 and arms["majority, equal tokens"]["exhausted"] == 0
    assert arms["one answer"]["rounds_minus_this"]["value"] == pytest.approx(1 - values["one answer"])
    assert "rounds [3, 1]" in done.output and "100.0 [" in done.output


def test_other_golds_and_no_golds(run, tmp_path):
    done = CliRunner().invoke(main, ["pacore", "table", str(run), "--workers", "0", "--answer-column", "gold"])
    assert done.exit_code == 0 and json.loads((run / "table.json").read_text())["arms"][-1]["accuracy"]["value"] == 0
    for words, message in (([str(run), "--answer-column", "x"], "column 'x'"), ([str(tmp_path)], "holds no run")):
        failed = CliRunner().invoke(main, ["pacore", "table", *words])
        assert failed.exit_code == 2 and message in failed.output
