"""Stages of kind `gate`: what they measure, what they say, and where a failure is told."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import load_recipe

WORLD = {"world": "reflective", "n": 120, "split": "test"}
GATE = {
    "kind": "gate",
    "data": WORLD,
    "figures": "reflective",
    "bounds": {"well_formed": [0.99, None]},
    "within": {"wrong_on_hard": 0.12},
}
EASY = {**GATE, "data": {**WORLD, "args": {"slip": 0.1}}}


def recipe(folder, stages, **more):
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "gated", "output": str(folder / "run"), "stages": stages, **more}))
    return str(path)


def call(*arguments, status=0):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, result.output + result.stderr
    return result.output + result.stderr


def record(folder, stage, run="run"):
    return json.loads((folder / run / "stages" / stage / "gate.json").read_text())


def test_a_gate_measures_says_and_lets_the_run_go_on(tmp_path):
    stages = {
        "good": GATE,
        "bad": EASY,
        "again": {"kind": "gate", "results": "${stage:bad}", "bounds": {"passed": [0, 0]}},
    }
    path = recipe(tmp_path, stages)
    assert "gate on reflective of the rows: well_formed, wrong_on_hard" in call("train", path, "--dry-run")
    said = call("train", path)
    assert record(tmp_path, "good")["passed"] and record(tmp_path, "again")["passed"]
    failed = record(tmp_path, "bad")
    assert not failed["passed"] and failed["figures"]["well_formed"] == 1.0
    [check] = [check for check in failed["checks"] if not check["passed"]]
    assert (
        check["name"] == "wrong_on_hard" and abs(check["value"] - 0.1) < 0.08 and abs(check["expected"] - 0.65) < 0.08
    )
    assert "WARNING: gate 'bad' failed: not tested: wrong_on_hard is" in said and "'good' failed" not in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "gate failed: not tested: wrong_on_hard is" in page and page.count("not tested") < 4
    done = json.loads((tmp_path / "run" / "stages" / "bad" / "done.json").read_text())["result"]["metrics"]
    assert done["passed"] == 0.0 and done["sound"] == failed["figures"]["sound"]


def test_a_gate_that_stops_ends_the_run_before_what_follows(tmp_path):
    path = recipe(tmp_path, {"bad": {**EASY, "stop": True}, "after": GATE})
    said = call("train", path, status=1)
    assert "gate 'bad' failed: not tested: wrong_on_hard" in said
    assert record(tmp_path, "bad")["passed"] is False and not (tmp_path / "run" / "stages" / "after").exists()


def test_a_figure_that_nothing_counts_for_fails(tmp_path):
    rows = [{"problem": "7 a+5 b*3", "text": "no lines of this world"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    gate = {**GATE, "data": {"path": str(tmp_path / "rows.json")}}
    said = call("train", recipe(tmp_path, {"gate": gate}))
    assert "wrong_on_hard is nothing, for nothing counts for it" in said and "well_formed is 0" in said
    assert [check["value"] for check in record(tmp_path, "gate")["checks"]] == [0.0, None]
    assert "wrong_on_hard is nothing" in (tmp_path / "run" / "report.html").read_text()


def test_a_measure_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def longest(rows, at_least=0):\n    return {'longest': max(len(row['text']) for row in rows) - at_least}\n"
    )
    gate = {"kind": "gate", "data": WORLD, "figures": "mine.py:longest", "args": {"at_least": 5}}
    call("train", recipe(tmp_path, {"gate": {**gate, "bounds": {"longest": [50, 200]}}}))
    assert record(tmp_path, "gate")["expected"] is None
    said = call("train", recipe(tmp_path, {"other": {**gate, "within": {"longest": 3}}}), status=1)
    assert "the measure expects nothing of 'longest' -> write bounds for it" in said
    said = call("train", recipe(tmp_path, {"third": {**gate, "bounds": {"shortest": [0, 1]}}}), status=1)
    assert "there is no figure 'shortest' -> one of longest" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"figures": "reflectiv"}, "did you mean 'reflective'?"),
        ({"figures": None}, "data needs a measure"),
        ({"args": {"presets": "prm"}}, "is no argument of the measure 'reflective'"),
        ({"bounds": {"sound": [0.6, 0.5]}}, "lowest above highest"),
        ({"bounds": {}, "within": {}}, "nothing is looked at"),
        ({"data": None, "figures": None, "within": {}}, "neither data nor results is given"),
        ({"results": "${stage:first}"}, "both data and results are given"),
        ({"data": None, "figures": None, "results": "${stage:nobody}", "within": {}}, "there is no stage 'nobody'"),
    ],
)
def test_wrong_gates_are_refused(tmp_path, change, told):
    with pytest.raises(RecipeError, match=r"(?s)stages\.gate") as raised:
        load_recipe(recipe(tmp_path, {"first": GATE, "gate": {**GATE, **change}}))
    assert told in str(raised.value)


def test_tables_and_studies_tell_of_failed_gates(tmp_path):
    exam = {
        "kind": "eval",
        "model": "tiny:qwen2",
        "suites": {"exam": {"data": {"world": "arithmetic", "n": 3, "split": "test"}, "n": 2, "max_tokens": 3}},
    }
    table = {"kind": "compare", "rows": {"start": "${stage:exam}"}, "baseline": "start", "gates": ["${stage:gate}"]}
    stages = {"gate": EASY, "exam": exam, "table": table}
    study = {"arms": {"fine": {"stages.gate.data.args.slip": 0.65}}, "studies": {"both": {"arms": ["default", "fine"]}}}
    path = recipe(tmp_path, stages, **study)
    said = call("train", path, "--study", "both")
    note = "gate 'gate' failed, so this is not tested: wrong_on_hard is"
    for place in ("default-seed0/stages/table/table.md", "study.md", "default-seed0/report.html"):
        assert (
            note.replace("'", "&#39;" if place.endswith("html") else "'")
            in (tmp_path / "run" / "both" / place).read_text()
        ), place
    assert note not in (tmp_path / "run" / "both" / "fine-seed0" / "stages" / "table" / "table.md").read_text()
    assert "(in default-seed0)" in said
    with pytest.raises(RecipeError, match="'exam' is of kind eval, no gate"):
        load_recipe(recipe(tmp_path, {**stages, "table": {**table, "gates": ["${stage:exam}"]}}))


def test_every_seed_of_a_study_has_its_own_rows_measured(tmp_path):
    """A world's rows hang on the seed, a file's do not: only what was measured on the same rows may be shared."""
    rows = [{"problem": "1+1", "answer": "2", "well_formed": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text("def count(rows):\n    return {'rows': float(len(rows))}\n")
    file = {"path": str(tmp_path / "rows.jsonl")}
    of_files = {"kind": "gate", "figures": "mine.py:count", "bounds": {"rows": [1, 1]}}
    mixed = {**of_files, "data": {**file, "shuffle": True}}
    stages = {"drawn": GATE, "read": {**of_files, "data": file}, "mixed": mixed}
    path = recipe(tmp_path, stages, studies={"two": {"arms": ["default"], "seeds": [0, 1]}})
    said = call("train", path, "--study", "two")
    runs = ["run/two/default-seed0", "run/two/default-seed1"]
    first, second = (record(tmp_path, "drawn", run)["figures"]["pass@1"] for run in runs)
    assert first != second
    shared = [line for line in said.splitlines() if "shared" in line or "made by" in line]
    assert len(shared) == 1 and "read" in shared[0], said
