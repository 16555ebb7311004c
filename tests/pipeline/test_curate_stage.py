"""The stage kind `curate` in a run: what it says, what follows it, a judge behind a server, the schema's messages."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import load_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "endpoints"))
from scripted_server import Act, ScriptedServer

STEPS = [
    {"step": "rules", "characters": {"problem": [2, 400]}},
    {"step": "behaviours"},
    {"step": "deduplicate"},
    {"step": "decontaminate", "against": {"exam": {"world": "arithmetic", "split": "test", "n": 20}}},
    {"step": "mix", "weights": {"sums": 3, "eyes": 1}},
]


def recipe(folder, **stage):
    path = folder / "recipe.yaml"
    sources = {
        "sums": {"world": "arithmetic", "n": 60, "args": {"operations": 2}},
        "eyes": {"path": str(folder / "eyes.jsonl")},
    }
    made = {"kind": "curate", "sources": sources, "steps": STEPS, **stage}
    after = {
        "kind": "gate",
        "data": "${stage:data}",
        "figures": str(folder / "count.py:count"),
        "bounds": {"n": [1, None]},
    }
    stages = {"data": made, "after": after}
    (folder / "count.py").write_text("def count(rows):\n    return {'n': float(len(rows))}\n")
    path.write_text(json.dumps({"recipe": "curated", "output": str(folder / "run"), "stages": stages}))
    return str(path)


def call(*arguments, status=0):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output + result.stderr
    return result.output + result.stderr


def eyes(folder, count=12):
    images = pytest.importorskip("PIL.Image")
    lines = []
    for number in range(count):
        file = io.BytesIO()
        images.new("RGB", (8 + number, 8)).save(file, "PNG")
        (folder / f"{number}.png").write_bytes(file.getvalue())
        row = {
            "id": f"e{number}",
            "question": "How wide <image> is it?",
            "answer": str(8 + number),
            "image": f"{number}.png",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "eyes.jsonl").write_text("".join(lines))


def test_a_recipe_curates_says_what_it_dropped_and_hands_on(tmp_path):
    eyes(tmp_path)
    (tmp_path / "3.png").write_bytes(b"")
    path = recipe(tmp_path)
    dry = call("train", path, "--dry-run")
    assert "source eyes: first row at" in dry and "step 5: mix {'weights': {'sums': 3.0, 'eyes': 1.0}}" in dry
    said = call("train", path)
    assert (
        "00-intake: 71 of 72 rows kept; 1 x picture has zero bytes (e3)" in said
        and "05-mix: 44 of 71 rows kept" in said
    )
    folder = tmp_path / "run" / "stages" / "data"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 44 and sum("images" in row for row in rows) == 11 and "n_backtracking" in rows[0]
    done = json.loads((folder / "done.json").read_text())["result"]["metrics"]
    assert done["read"] == 72 and done["kept"] == 44 and done["kept/03-deduplicate"] == 71
    gate = json.loads((tmp_path / "run" / "stages" / "after" / "gate.json").read_text())
    assert gate["figures"] == {"n": 44.0}
    assert "would be skipped" in call("train", path, "--dry-run")


def answer(seen, number):
    """YES for a problem with a 1 in it, by three of four votes where it has a 2; pictures are there."""
    turn = seen.body["messages"][0]["content"]
    text = turn if isinstance(turn, str) else turn[-1]["text"]
    code = text.rpartition("VERDICT ")[2].partition(":")[0]
    if isinstance(turn, list):
        assert turn[0]["image_url"]["url"].startswith("data:image/png;base64,")
        return Act(text=f"It does.\nVERDICT {code}: YES")
    problem = text.partition("problem begins]\n")[2].partition("\n[")[0]
    if "9" in problem:
        return Act(text="I cannot say.")
    yes = "1" in problem and not ("2" in problem and seen.body["seed"] == 2)
    return Act(text=f"So.\nVERDICT {code}: {'YES' if yes else 'NO'}")


def test_a_judge_says_which_rows_can_be_checked_and_counts_its_votes(tmp_path):
    eyes(tmp_path)
    with ScriptedServer(answer) as server:
        endpoint = {"base_url": server.url, "model": "judge", "max_retries": 1}
        steps = [
            {"step": "judge", "question": "checkable", "endpoint": endpoint, "re_asks": 1},
            {"step": "judge", "question": "relevance", "endpoint": endpoint, "votes": 1},
        ]
        sums = {"world": "arithmetic", "n": 40, "args": {"operations": 2}}
        path = recipe(tmp_path, steps=steps, sources={"sums": sums, "eyes": {"path": str(tmp_path / "eyes.jsonl")}})
        call("train", path)
        asked = len(server.seen)
        folder = tmp_path / "run" / "stages" / "data"
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        record = json.loads((folder / "curation.json").read_text())
        votes = [json.loads(line) for line in (folder / "scores" / "01-judge.jsonl").read_text().splitlines()]
        wordless = record["steps"][1]["dropped"]["checkable: the judge gave no verdict"]
        assert len(votes) + wordless == 52 and wordless > 3
        for row in rows:
            problem = row["problem"]
            assert "images" in row or ("1" in problem and not {"2", "9"} & set(problem)), problem
        assert sum("images" in row for row in rows) == 12 and all(
            row.get("relevance") == 1.0 for row in rows if "images" in row
        )
        # The step made again asks for nothing but what had no verdict.
        for name in ("steps/01-judge.json", "steps/02-judge.json", "done.json"):
            (folder / name).unlink()
    assert asked == 4 * len(votes) + 2 * 4 * wordless + 12


def test_what_is_wrong_with_a_curation_is_said(tmp_path):
    def problems(**stage):
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe(tmp_path, **stage))
        return str(caught.value)

    (tmp_path / "eyes.jsonl").write_text('{"problem": "a", "answer": "b"}\n')
    assert "unknown step 'dedup'; steps: rules, keep" in problems(steps=[{"step": "dedup"}])
    assert "has no step" in problems(steps=[{"share": 0.5}])
    said = problems(steps=[{"step": "mix", "weights": {"sum": 1}}])
    assert "steps.0.weights.sum: is no source -> sources: sums, eyes" in said
    assert "write edges that rise" in problems(steps=[{"step": "stratify", "by": "x", "bins": [2, 1]}])
    assert "is not a condition" in problems(steps=[{"step": "keep", "when": "1 +"}])
    said = problems(steps=[{"step": "loss", "model": "tiny:qwen2"}, {"step": "judge", "question": "fun", "endpoint": {
        "base_url": "http://x/v1", "model": "m"}}])  # fmt: skip
    assert "write top: 0.03" in said and "one of checkable, relevance" in said
    said = problems(sources={"a": {"world": "arithmetic", "n": 3, "template": "{problem}!"}}, steps=[])
    assert "sources.a.template: is no part of curated rows" in said


@pytest.mark.slow
def test_the_loss_of_a_light_model_drops_what_it_finds_strange(tmp_path):
    """Solutions of noise among solutions that a little model has learnt."""
    clean = {"world": "arithmetic", "n": 200, "args": {"operations": 1}}
    rows = [{"id": f"n{k}", "problem": f"{k}+1?", "answer": "1", "solution": "qj#xv~zzk!" * 3} for k in range(6)]
    (tmp_path / "noise.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = {
        "light": {"kind": "sft", "model": "tiny:qwen2", "data": clean, "max_steps": 60, "learning_rate": 3e-3},
        "data": {
            "kind": "curate",
            "sources": {"clean": clean, "noise": {"path": str(tmp_path / "noise.jsonl")}},
            "steps": [{"step": "loss", "model": "${stage:light}", "top": 6 / 206}],
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "light", "output": str(tmp_path / "run"), "stages": stages}))
    call("train", str(path))
    dropped = (tmp_path / "run" / "stages" / "data" / "dropped" / "01-loss.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in dropped} == {row["id"] for row in rows}
