"""People's labels: out to review files and Label Studio, back again, and two people's labels to a gold set."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import DataError, RunError
from reasonrl.prm.label_checks import validate
from reasonrl.prm.quality.adjudication import adjudicate
from reasonrl.prm.quality.label_studio import labelling_config, marks_in, task_of
from reasonrl.prm.quality.reviewing import export, import_marks
from reasonrl.prm.quality.sources import labelled_of, read_labels

EXPORTS = Path(__file__).parent / "label_studio"
ROWS = get_world("reflective").rows(30, preset="prm", seed=5)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return lines(tmp_path / "labels.jsonl", ROWS)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(*words: Any) -> str:
    result = CliRunner().invoke(main, ["labels", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def filled(task: dict[str, Any], choices: list[str], **more: Any) -> dict[str, Any]:
    """The task as an export holds it, with one annotation in the form of Label Studio 1.23."""
    results: list[dict[str, Any]] = [
        {"from_name": f"label_{place}", "to_name": f"step_{place}", "type": "choices", "value": {"choices": [word]}}
        for place, word in enumerate(choices)
        if word
    ]
    why = {"from_name": "why_0", "to_name": "step_0", "type": "textarea", "value": {"text": ['so <b> "ä"']}}
    return {**task, "id": 7, "annotations": [{"completed_by": 3, "result": [*results, why], **more}]}


def test_the_interface_names_every_control_that_is_read() -> None:
    names = {node.get("name") for node in ElementTree.fromstring(labelling_config()).iter() if node.get("name")}
    assert {"label_{{idx}}", "why_{{idx}}", "step_{{idx}}"} <= names
    repeater = ElementTree.fromstring(labelling_config()).find("Repeater")
    assert repeater is not None and repeater.get("on") == "$steps"
    words = [node.get("value") for node in repeater.iter("Choice")]
    assert words == ["right", "wrong", "unsure"]


def test_a_task_comes_back_with_the_steps_it_had() -> None:
    parts = [" \n<script>$x</script>\u2028\n", "zwei\n\n"]
    steps = [[0, len(parts[0])], [len(parts[0]), len("".join(parts))]]
    row = {**ROWS[0], "text": "".join(parts), "steps": steps, "labels": [1, None], "reasons": ["looks right", ""]}
    task = task_of(labelled_of(row))
    assert task["data"]["steps"][0]["note"] == "looks right"
    assert [one["value"] for one in task["predictions"][0]["result"]] == [{"choices": ["right"]}]
    blind = task_of(labelled_of(row), blind=True)
    assert "predictions" not in blind and "looks right" not in json.dumps(blind)
    (marks,) = marks_in(filled(json.loads(json.dumps(blind)), ["wrong", "unsure"]))
    assert marks.labels == (0, None) and marks.reasons == ('so <b> "ä"', "") and marks.annotator == "3"
    assert (marks.record["text"], marks.record["steps"]) == (row["text"], row["steps"])
    assert list(marks_in(filled(task, ["wrong", ""], was_cancelled=True))) == []
    changed = json.loads(json.dumps(blind).replace("zwei", "drei"))
    for bad in (filled(changed, ["wrong"]), filled(task, ["maybe"]), {"data": {"text": "x"}}):
        with pytest.raises(DataError):
            list(marks_in(bad))


def test_what_label_studio_itself_exported_is_read(tmp_path: Path) -> None:
    # Made with Label Studio 1.23.2: one solution labelled in its browser interface, one over its API.
    found = {}
    for name in ("export", "export_min"):
        received = import_marks([EXPORTS / f"{name}.json"], tmp_path / name, names={"1": "anna"})
        assert received.solutions == {"anna": 2} and not received.aside.reasons
        found[name] = read(tmp_path / name / "anna.jsonl")
    assert found["export"] == found["export_min"]
    first, second = found["export"]
    assert first["labels"] == [None, 0, 1, 1, 1, 1, 1, 0, 1] and "reasons" not in first
    assert second["reasons"][0] == 'näh <b>"x"' and second["labels"][:4] == [1, 0, None, None]
    assert second["source"]["judge"] == "human:anna" and second["source"]["date"].startswith("20")
    assert validate(first) == []


def test_label_studio_and_back_by_commands(tmp_path: Path, labels: Path) -> None:
    told = said("export", labels, "--out", tmp_path / "out", "--format", "label-studio", "--n", 10)
    assert "10 solutions" in told and (tmp_path / "out" / "config.xml").read_text() == labelling_config()
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    words = {1: "right", 0: "wrong"}
    truth = {row["id"]: row["labels"] for row in ROWS}
    exported = [filled(task, [words[one] for one in truth[task["data"]["solution_id"]]]) for task in tasks]
    exported[0]["annotations"] *= 2
    (tmp_path / "export.json").write_text(json.dumps(exported))
    told = said("import", tmp_path / "export.json", "--out", tmp_path / "back", "--against", labels)
    assert "10 solutions" in told and "1 annotations were replaced" in told
    for record in read(tmp_path / "back" / "3.jsonl"):
        assert record["labels"] == truth[record["id"]] and record["moves"]
    again = CliRunner().invoke(main, ["labels", "export", str(labels), "--out", str(tmp_path / "out")])
    assert again.exit_code == 0  # the other form has other files
    again = CliRunner().invoke(main, ["labels", "export", str(labels), "--out", str(tmp_path / "out")])
    assert again.exit_code == 2 and "may hold people's work" in again.output


def test_who_gets_what_is_drawn_by_hash(tmp_path: Path) -> None:
    rows = [{**ROWS[number % 30], "id": f"s{number}", "labels": None} for number in range(400)]
    source = lines(tmp_path / "in.jsonl", [*rows, {"id": "bad"}])
    sent = export(source, tmp_path / "out", annotators=["anna", "ben"], double=0.3)
    mine = {name: {row["id"] for row in read(tmp_path / "out" / f"review.{name}.jsonl")} for name in ("anna", "ben")}
    assert mine["anna"] | mine["ben"] == {f"s{number}" for number in range(400)}
    assert len(mine["anna"] & mine["ben"]) == sent.both and 90 < sent.both < 150
    assert 80 < len(mine["anna"] - mine["ben"]) < 200 and sum(sent.aside.reasons.values()) == 1
    fewer = export(source, tmp_path / "few", n=20)
    more = export(source, tmp_path / "more", n=40)
    drawn = [{row["id"] for row in read(next(iter(one.files)))} for one in (fewer, more)]
    assert drawn[0] < drawn[1] and len(drawn[0]) == 20
    for wrong in ({"annotators": ["a/b"]}, {"annotators": ["a", "a"]}, {"double": 2.0}, {"form": "csv"}):
        with pytest.raises(DataError):
            export(source, tmp_path / "wrong", **wrong)
    assert not (tmp_path / "wrong").exists()


def reviewed(path: Path, name: str, error: float, seed: int) -> Path:
    """The review file filled in by somebody who errs now and then and leaves a step out."""
    rows, draw = read(path), random.Random(seed)
    truth = {row["id"]: row["labels"] for row in ROWS}
    for row in rows:
        assert row["annotator"] == name and all(step.keys() == {"text"} for step in row["steps"])
        row["human"] = [
            None if draw.random() < 0.05 else label if draw.random() > error else 1 - label
            for label in truth[row["id"]]
        ]
        row["why"][0] = f"{name} says so"
    return lines(path, rows)


def test_two_people_and_an_adjudicator_make_a_gold_set(tmp_path: Path, labels: Path) -> None:
    out, gold = tmp_path / "out", tmp_path / "gold.jsonl"
    said("export", labels, "--out", out, "--annotators", "anna,ben,cleo", "--double", "1", "--blind")
    people = [reviewed(out / f"review.{name}.jsonl", name, 0.15, seed) for seed, name in enumerate(["anna", "ben"])]
    said("import", *people, "--out", tmp_path / "people")
    sources = [f"{name}={tmp_path / 'people' / name}.jsonl" for name in ("anna", "ben")]
    told = said("adjudicate", *sources, "--out", gold)
    truth = {row["id"]: row["labels"] for row in ROWS}
    theirs = [{one.id: one.labels for one in read_labels(source.partition("=")[2])} for source in sources]
    pairs = [list(zip(*(one[row["id"]] for one in theirs), strict=True)) for row in ROWS]
    flat = [pair for solution in pairs for pair in solution]
    agreed, open_ = sum(a == b is not None for a, b in flat), sum(None in pair for pair in flat)
    assert f"{agreed} agreed, 0 decided, {len(flat) - agreed - open_} disputed, {open_} open" in told
    for record, solution in zip(read(gold), pairs, strict=True):
        assert record["labels"] == [a if a == b else None for a, b in solution]
        assert [vote["judge"] for vote in record["votes"]] == ["human:anna", "human:ben"]
    disputes = tmp_path / "gold.disputes.jsonl"
    rows = read(disputes)
    assert len(rows) == sum(any(a != b or a is None for a, b in solution) for solution in pairs)
    assert "anna says so" in json.dumps(rows[0]["steps"]) or rows[0]["human"][0] is not None
    for row in rows:
        row["human"] = [
            label if one is None else one for one, label in zip(row["human"], truth[row["id"]], strict=True)
        ]
        row["annotator"] = "chief"
    lines(disputes, rows)
    refused = CliRunner().invoke(main, ["labels", "adjudicate", *sources, "--out", str(gold)])
    assert refused.exit_code == 2 and "--decided" in refused.output and read(disputes) == rows
    told = said("adjudicate", *sources, "--out", gold, "--decided", disputes)
    assert f"{agreed} agreed, {len(flat) - agreed} decided, 0 disputed, 0 open" in told
    for record, solution in zip(read(gold), pairs, strict=True):
        wanted = [
            a if a == b is not None else label for (a, b), label in zip(solution, truth[record["id"]], strict=True)
        ]
        assert record["labels"] == wanted
    assert not (tmp_path / "gold.disputes.2.jsonl").exists()
    assert "labels" in said("agree", *sources, "--gold", gold)


def test_what_cannot_be_adjudicated_is_left_out_and_counted(tmp_path: Path) -> None:
    cut = {**ROWS[1], "steps": [[0, len(ROWS[1]["text"])]], "labels": [1]}
    one, other = lines(tmp_path / "a.jsonl", ROWS[:3]), lines(tmp_path / "b.jsonl", [ROWS[0], cut])
    found = adjudicate({"a": one, "b": other}, tmp_path / "g.jsonl", tmp_path / "d.jsonl")
    assert (found.solutions, found.single, found.other_steps) == (1, 1, 1)
    with pytest.raises(DataError, match="two people"):
        adjudicate({"a": one}, tmp_path / "g.jsonl", tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="labelled by two"):
        adjudicate({"a": one, "b": lines(tmp_path / "c.jsonl", ROWS[5:])}, tmp_path / "h.jsonl", tmp_path / "d.jsonl")
    assert not (tmp_path / "h.jsonl").exists() and not list(tmp_path.glob(".*partial"))


def test_files_with_people_s_work_are_not_lost(tmp_path: Path, labels: Path) -> None:
    export(labels, tmp_path, annotators=["anna"])
    with pytest.raises(RunError, match="people's work"):
        export(labels, tmp_path, annotators=["anna"])
    with pytest.raises(DataError, match="no labels of people"):
        import_marks([tmp_path / "review.anna.jsonl"], tmp_path / "people")
