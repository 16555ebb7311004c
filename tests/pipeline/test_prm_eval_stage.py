"""The stage `prm_eval` and the command `reasonrl prm-eval` with real models: figures, kills, growth, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import RecipeError
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.observe.records import read_records
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"
REWARD = {"name": "exact", "args": {"pattern": r"^#(\d)\Z"}}


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> dict[str, Path]:
    """An untrained process reward model, label rows, and sample rows without steps."""
    folder = tmp_path_factory.mktemp("material")
    ScalarHeadModel.from_pretrained(TINY, seed=3).save_pretrained(folder / "prm")
    load_tokenizer(TINY).save_pretrained(folder / "prm")
    rows = get_world("reflective").rows(40, split="test")
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = []
    for seed in range(4):
        for row in get_world("reflective").rows(60, seed=seed):  # of many problems; here four a name
            number = len(samples) % 60
            kept = {name: row[name] for name in ("problem", "answer", "text", "correct")}
            samples.append({**kept, "id": f"{number}#{seed}", "problem_id": str(number), "extracted": row["text"][-1]})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return {"prm": folder / "prm", "labels": folder / "labels.jsonl", "samples": folder / "samples.jsonl"}


def write(folder: Path, material: dict[str, Path], **changes: object) -> Path:
    exam = {
        "kind": "prm_eval",
        "model": str(material["prm"]),
        "segment": {"method": "lines"},
        "steps": {
            "own": {"data": {"path": str(material["labels"])}},
            "harder": {"data": {"world": "reflective", "split": "test", "n": 12, "args": {"repair": 0.05}}},
        },
        "best_of": {"data": {"path": str(material["samples"])}, "k": [2], "aggregations": ["last"]},
        "search": {
            "policy": TINY,
            "data": {"world": "reflective", "split": "test", "n": 6},
            "candidates": [1, 2],
            "step_end": "\n",
            "max_steps": 2,
            "max_step_tokens": 6,
            "reward": REWARD,
        },
        **changes,
    }
    recipe = {"recipe": "exam", "output": str(folder / "run"), "stages": {"exam": exam}}
    recipe["stages"]["table"] = {"kind": "compare", "rows": {"PRM": "${stage:exam}"}, "baseline": "PRM"}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def results(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "run" / "stages" / "exam" / "results.json").read_text())["suites"]


def test_a_stage_examines_and_grows_without_scoring_again(tmp_path, material) -> None:
    said: list[str] = []
    train(load_recipe(write(tmp_path, material)), say=said.append)
    suites = results(tmp_path)
    assert list(suites) == ["own", "harder", "best_of", "search"]
    assert suites["own"]["n_problems"] == 40 and suites["best_of"]["n_problems"] == 60
    assert {"search@1", "search@2"} == suites["search"]["metrics"].keys()
    stage = tmp_path / "run" / "stages" / "exam"
    done = json.loads((stage / "done.json").read_text())["result"]["metrics"]
    assert done["own/macro_f1"] == suites["own"]["metrics"]["macro_f1"]["value"]
    assert any("f1[always right]" in line for line in said)
    table = json.loads((tmp_path / "run" / "stages" / "table" / "table.json").read_text())
    assert {cell["suite"] for cell in table["cells"]} == set(suites)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "own: percent with 95 % intervals over 40 solutions" in page and "accuracy[unrepaired]" in page
    before = {path: path.read_bytes() for path in stage.glob("*/scores.jsonl")}
    more = {"best_of": {"data": {"path": str(material["samples"])}, "k": [2, 4], "aggregations": ["last", "min"]}}
    again: list[str] = []
    train(load_recipe(write(tmp_path, material, **more)), say=again.append)
    assert "rm@4[min]" in results(tmp_path)["best_of"]["metrics"]
    assert (stage / "best_of.png").exists() and (tmp_path / "run" / "plots" / "table_best_of.png").exists()
    assert {path: path.read_bytes() for path in stage.glob("*/scores.jsonl")} == before
    assert not any("loading the process reward model" in line for line in again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None, "best_of": None, "search": None}, "examines nothing"),
        ({"model": None}, "is missing, and own asks it"),
        ({"best_of": {"own": {"data": {"path": "x"}}}}, "'own' is the name of an exam under steps already"),
        ({"search": {"policy": TINY, "data": {"path": "x"}, "candidates": [3], "width": 2}}, "cannot be shared out"),
        ({"search": {"policy": TINY, "data": {"path": "x"}, "beams": 2}}, "did you mean 'width'"),
        ({"benchmarks": {"processbench": ["math"], "threshold": "gsm8k"}}, "add gsm8k to processbench"),
        ({"best_of": {"data": {"path": "x"}, "aggregations": ["median"]}}, "last"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, material, changes, message) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, material, **changes))
    assert message in str(caught.value)


def call(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["prm-eval", *map(str, arguments)])
    assert result.exit_code == status, result.output + result.stderr
    return result.output + result.stderr


def test_the_command(tmp_path, material) -> None:
    bench = tmp_path / "data" / "processbench"
    bench.mkdir(parents=True)
    rows = [{"id": f"g{n}", "problem": "p", "steps": ["a b", "c"], "label": n % 2 - 1} for n in range(6)]
    (bench / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    common = [material["prm"], "--output", out, "--steps", material["labels"]]
    assert "step scores against labels" in call(*common, "--dry-run") and not out.exists()
    said = call(*common, "--processbench", "gsm8k", "--data", tmp_path / "data")
    assert "processbench_gsm8k: 6 solutions" in said and "f1[always right]" in said
    assert "threshold: 0.5 -> 0.7" in call(*common, "steps.threshold=0.7", status=2)
    call(*common, "--best-of", material["samples"], "--k", "2", "segment.method=rules")  # a new suite joins
    assert len(json.loads((out / "results.json").read_text())["suites"]) == 3
    call(*common, "steps.threshold=0.7", "--restart")
    assert list(json.loads((out / "results.json").read_text())["suites"]) == ["steps"]
    assert "is 'two', not numbers" in call(*common, "--k", "two", status=2)
    assert "processbench/math.jsonl is not there" in call(
        material["prm"], "--output", tmp_path / "b", "--processbench", "math", "--data", tmp_path / "data", status=1
    )


def test_rows_that_bring_their_scores_need_no_model(tmp_path) -> None:
    rows = [
        {
            "id": f"{p}#{i}",
            "problem_id": str(p),
            "problem": "q",
            "correct": i == p % 3,
            "class": str(i),
            "s": i == p % 3,
        }
        for p in range(12)
        for i in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "s": 0.9 if row["s"] else 0.2}) + "\n" for row in rows))
    said = call("best_of.scores=s", "--best-of", path, "--k", "3", "--output", tmp_path / "out")
    assert "rm@3[last]" in said
    found = json.loads((tmp_path / "out" / "results.json").read_text())["suites"]["best_of"]["metrics"]
    assert found["rm@3[last]"]["value"] == 1.0 and found["maj@3"]["value"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_killed_examinations_end_as_an_unbroken_one(tmp_path, material) -> None:
    """kill -9 while solutions are scored and while it searches; every solution is scored once."""

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        many = {"data": {"world": "reflective", "n": 3000}}
        search = {
            **json.loads(write(folder, material).read_text())["stages"]["exam"]["search"],
            "data": {"world": "reflective", "n": 600},
        }
        path = write(folder, material, steps=many, search=search)
        command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", str(path)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def lines(folder: Path, name: str) -> list[dict]:
        return read_records(folder / "run" / "stages" / "exam" / name)

    whole = start(tmp_path / "whole")
    for name, least in (("steps/scores.jsonl", 500), ("steps/scores.jsonl", 1500), ("search/found.jsonl", 1)):
        process = start(tmp_path / "killed")
        while process.poll() is None and len(lines(tmp_path / "killed", name)) < least:
            time.sleep(0.05)
        assert process.poll() is None, f"it ended before {name} had {least} lines"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for process in (start(tmp_path / "killed"), whole):
        assert process.wait(timeout=900) == 0
    for name in ("steps/scores.jsonl", "search/found.jsonl"):
        keys = [(line["id"], line.get("candidates")) for line in lines(tmp_path / "killed", name)]
        assert len(keys) == len(set(keys)) == len(lines(tmp_path / "whole", name))
    broken, unbroken = results(tmp_path / "killed"), results(tmp_path / "whole")
    for suite, entry in unbroken.items():
        for metric, found in entry["metrics"].items():
            assert broken[suite]["metrics"][metric]["value"] == pytest.approx(found["value"], abs=1e-6), (suite, metric)
