"""`reasonrl score`: one line a record, kills, refusals, ProcessBench."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from reasonrl.data_tools.worlds import reflective
from reasonrl.errors import DataError, RunError
from reasonrl.eval import score_command
from reasonrl.eval.score_command import ScoreSettings, score_file, score_processbench
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.prm.processbench import first_below, score_first_errors
from reasonrl.prm.scoring import score_solutions

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("prm")
    made = ScalarHeadModel.from_pretrained(TINY, seed=2)
    with torch.no_grad():
        made.head.weight *= 60
    made.save_pretrained(folder)
    load_tokenizer(TINY).save_pretrained(folder)
    return str(folder)


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_record_has_its_line_and_a_killed_call_goes_on(tmp_path, model, monkeypatch) -> None:
    monkeypatch.setattr(score_command, "CHUNK", 4)
    rows = reflective.ReflectiveWorld().rows(n=10, split="train", seed=1)
    odd = [
        {"id": "cut", "problem": "p", "text": "no steps"},
        "{torn",
        {"id": "two", "problem": "p", "text": "a\n\nb", "note": "\ud800"},
    ]
    source = write(tmp_path / "in.jsonl", [*rows[:3], odd[0], odd[1], *rows[3:], odd[2]])
    said: list[str] = []
    out = tmp_path / "out.jsonl"
    found = score_file(source, out, ScoreSettings(model, "min"), say=said.append)
    lines = read(out)
    assert (found["scored"], found["failed"], len(lines)) == (10, 3, 13)
    assert "it has no steps" in lines[3]["error"]
    assert lines[4]["error"] and lines[4]["step_scores"] is None
    scorer_model = ScalarHeadModel.from_pretrained(model)
    expected = score_solutions(scorer_model, load_tokenizer(model), rows)
    scored = [line for line in lines if "error" not in line]
    for line, row, scores in zip(scored, rows, expected, strict=True):
        assert line["step_scores"] == pytest.approx(scores, abs=1e-5)
        assert (line["score"], line["aggregate"]) == (min(line["step_scores"]), "min")
        assert {name: line[name] for name in row} == row
    assert found["always right"]["recall"] == 1.0
    assert any("always right" in line for line in said)

    # Killed in the middle of a line: what is there stays, byte for byte.
    whole = out.read_bytes()
    place = random.Random(0).randrange(len(whole) // 2, len(whole) - 40)
    out.write_bytes(whole[:place])
    score_file(source, out, ScoreSettings(model, "min"), say=said.append)
    again = read(out)
    assert out.read_bytes()[: whole.rfind(b"\n", 0, place) + 1] == whole[: whole.rfind(b"\n", 0, place) + 1]
    assert [line["id"] for line in again] == [line["id"] for line in lines]
    assert any("records are scored already" in line for line in said)

    with pytest.raises(RunError, match="aggregate was 'min', is 'last'"):
        score_file(source, out, ScoreSettings(model), say=said.append)
    score_file(source, out, ScoreSettings(model, split=True), restart=True, say=said.append)
    assert all(line["aggregate"] == "last" for line in read(out))
    assert [line["id"] for line in read(out) if "error" in line] == [lines[4]["id"]]  # segmented by rules


def test_processbench(tmp_path, model) -> None:
    draw = random.Random(4)
    for name in ("gsm8k", "math"):
        rows = []
        for number in range(24):
            steps = [f"Step {k}: {draw.randint(0, 99)} + 1 = {draw.randint(0, 99)}" for k in range(draw.randint(1, 5))]
            label = draw.choice([-1, draw.randrange(len(steps))])
            rows.append({"id": f"{name}-{number}", "problem": "Add.", "steps": steps, "label": label})
        write(tmp_path / f"{name}.jsonl", rows)
    files = [tmp_path / "gsm8k.jsonl", tmp_path / "math.jsonl"]
    found = score_processbench(files, ScoreSettings(model), out=tmp_path / "out", say=lambda _: None)
    for name in ("gsm8k", "math"):
        rows = read(tmp_path / "out" / f"{name}.jsonl")
        labels = [row["first_error"] for row in rows]
        predictions = [first_below(row["step_scores"], found["threshold"]) for row in rows]
        assert found["subsets"][name]["f1"] == score_first_errors(predictions, labels).f1
    # No threshold does better on gsm8k.
    rows = read(tmp_path / "out" / "gsm8k.jsonl")
    tried = [
        score_first_errors([first_below(row["step_scores"], t / 500) for row in rows], [r["first_error"] for r in rows])
        for t in range(501)
    ]
    assert found["subsets"]["gsm8k"]["f1"] >= max(one.f1 for one in tried) > 0
    assert found["mean_f1"] == sum(found["subsets"][name]["f1"] for name in ("gsm8k", "math")) / 2
    given = score_processbench(files[1:], ScoreSettings(model), out=tmp_path / "out", threshold=0.5, say=lambda _: None)
    assert given["threshold"] == 0.5
    with pytest.raises(DataError, match="gsm8k among them to choose the threshold by"):
        score_processbench(files[1:], ScoreSettings(model), out=tmp_path / "out", say=lambda _: None)
