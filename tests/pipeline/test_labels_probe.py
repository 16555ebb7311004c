"""`reasonrl labels probe`: a judge over HTTP that drifts is caught, one that does not is not; kills, edits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prm"))
from judge_world import Act, ScriptedServer, Seen, code_in, honest, kinds_in, reply_of, row_of

from reasonrl.cli import main
from reasonrl.prm.quality.probe import drift_of, freeze

KINDS = [["right", "right", "right"], ["right", "error", "propagation"], ["error", "cessation", "right"]]
LABEL = {"right": 1, "cessation": 1, "error": 0, "propagation": 0}


def gold_rows(count: int = 30) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        kinds = KINDS[number % 3]
        row = row_of(number, kinds)
        parts = [f"{part}\n\n" for part in row["text"].split("\n\n") if part]
        ends = [len("".join(parts[: place + 1])) for place in range(len(parts))]
        steps = [[end - len(part), end] for part, end in zip(parts, ends, strict=True)]
        rows.append({**row, "steps": steps, "labels": [LABEL[kind] for kind in kinds]})
    return rows


@pytest.fixture
def gold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*gold_rows(), {"id": "x"}]))
    return path


def recipe_at(folder: Path, url: str, **more: Any) -> str:
    endpoint = {"base_url": url, "model": "judge", "max_concurrency": 4, "backoff": 0.01}
    stage = {
        "kind": "annotate",
        "data": {"path": "gold.jsonl"},
        "judges": [{"name": "endpoint", "args": {"endpoint": endpoint, "re_asks": 0, **more}}],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "labels", "output": "run", "stages": {"annotate": stage}}))
    return str(path)


def probe(recipe: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["labels", "probe", recipe, "--set", "probe", *words], catch_exceptions=False)


def lenient(seen: Seen, number: int) -> Act:
    """Overlooks errors before the last step, as a judge does after a change behind its name."""
    kinds = kinds_in(seen)
    last = kinds[-1] if LABEL[kinds[-1]] else "error"
    return Act(reply_of(code_in(seen), [*["right"] * (len(kinds) - 1), "right" if LABEL[last] else "error"]))


def test_a_judge_that_drifts_behind_its_name_is_caught(gold: Path) -> None:
    mood = honest
    with ScriptedServer(lambda seen, number: mood(seen, number)) as server:
        recipe = recipe_at(gold.parent, server.url)
        assert probe(recipe).exit_code == 2  # no probe set yet
        first = probe(recipe, "--freeze", str(gold))
        assert first.exit_code == 0 and "1 row set aside" in first.output
        assert "accuracy 100.0 [" in first.output and "over 60 steps" in first.output  # 90 but for the last ones
        again = probe(recipe)
        assert again.exit_code == 0 and "change: +0.0 [+0.0, +0.0] points" in again.output
        assert len(server.seen) == 60 and not (gold.parent / "run").exists()
        mood = lenient
        fallen = probe(recipe)
        # A third of the solutions errs at the second step, another third at the first: 20 of 60 steps are overlooked.
        assert fallen.exit_code == 3 and "FELL" in fallen.output and "change: -33.3 [" in fallen.output
        assert "20 labels changed" in fallen.output and "differs" not in fallen.output
        borne = probe(recipe, "--tolerance", "0.5", "--against", "2", "--json")
        figures = json.loads(borne.output)
        assert borne.exit_code == 0 and figures["run"] == 4 and figures["against"] == 2
        assert figures["change"]["value"] == pytest.approx(-1 / 3) and figures["flipped"] == 20
        held = probe(recipe, "--against", "3")
        assert held.exit_code == 0 and "+0.0 [+0.0, +0.0]" in held.output
        assert probe(recipe, "--against", "9").exit_code == 2
    assert json.loads(Path("probe/runs/003/figures.json").read_text())["accuracy"]["value"] == pytest.approx(2 / 3)


def test_other_settings_are_told_and_failures_counted(gold: Path) -> None:
    def script(seen: Seen, number: int) -> Act:
        return Act("no") if seen.body.get("seed") == 7 and "Line 4." in seen.prompt else honest(seen, number)

    with ScriptedServer(script) as server:
        probe(recipe_at(gold.parent, server.url), "--freeze", str(gold))
        said = probe(recipe_at(gold.parent, server.url, seed=7)).output
    assert "judges differs" in said and "1 solutions have no labels in it" in said and "over 58 steps" in said


def test_what_is_frozen_stays_as_it_is(gold: Path) -> None:
    frozen = freeze(gold, gold.parent / "probe")
    records = gold.parent / "probe" / "probe.jsonl"
    assert (frozen.solutions, frozen.steps) == (30, 90)
    assert frozen.sha256 == hashlib.sha256(records.read_bytes()).hexdigest()
    recipe = recipe_at(gold.parent, "http://127.0.0.1:9/v1")
    again = probe(recipe, "--freeze", str(gold))
    assert again.exit_code == 2 and "never change" in again.output
    records.write_text(records.read_text().replace('"labels": [1, 1, 1]', '"labels": [1, 0, 1]', 1))
    changed = probe(recipe)
    assert changed.exit_code == 2 and "not what was frozen" in changed.output


def test_a_killed_run_is_gone_on_with(gold: Path) -> None:
    with ScriptedServer(lambda seen, number: Act(honest(seen, number).text, seconds=0.1)) as server:
        recipe = recipe_at(gold.parent, server.url)
        command = [sys.executable, "-m", "reasonrl", "labels", "probe", recipe, "--set", "probe"]
        process = subprocess.Popen([*command, "--freeze", str(gold)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(server.seen) < 9 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        said = probe(recipe)
        assert said.exit_code == 0 and "run 1: accuracy 100.0" in said.output
        assert 30 <= len(server.seen) <= 30 + 2 * 4
    assert [path.name for path in Path("probe/runs").iterdir()] == ["001"]
    assert drift_of(Path("probe"), 1).flipped == 0
