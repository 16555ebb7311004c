"""Examinations of a process reward model: zones, figures, what they leave on disk, and how they are compared."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from statistics import fmean

import pytest

from reasonrl.errors import DataError, RunError
from reasonrl.eval.compare import compare_evaluations, read_comparison, write_comparison
from reasonrl.eval.exams.benchmarks import (
    examine_prmbench,
    examine_processbench,
    gsm8k_threshold,
    read_prmbench,
)
from reasonrl.eval.exams.best_of import examine_best_of
from reasonrl.eval.exams.record import Examined, Unit, read_units, write_examined
from reasonrl.eval.exams.scores import Scored, given_scores
from reasonrl.eval.exams.steps import examine_steps, solution_kind, zones_of
from reasonrl.eval.results import read_results
from reasonrl.eval.scoring import Judgement
from reasonrl.eval.study import compare_study, study_markdown, study_table, write_study
from reasonrl.prm.processbench import score_first_errors, solution_of
from reasonrl.prm.step_metrics import auroc, step_metrics

sys.path.insert(0, str(Path(__file__).parent))
from exam_world import examined, label_rows, made_scores, no_judge, sample_scores, samples


def figures(folder: Path, suite: str) -> dict[str, float]:
    return {name: found["value"] for name, found in read_results(folder)["suites"][suite]["metrics"].items()}


@pytest.mark.parametrize(
    ("labels", "zones", "kind"),
    [
        ([1, 1, 1], ["before_error"] * 3, "error_free"),
        (
            [1, 0, 0, 1, 0, 1],
            ["before_error", "first_error", "unrepaired", "repaired", "unrepaired", "repaired"],
            "reflective_right",
        ),
        ([0, 0], ["first_error", "unrepaired"], "wrong"),
        ([1, None, 0, 1], ["before_error", None, "first_error", "repaired"], None),
        ([], [], None),
    ],
)
def test_zones_follow_the_first_error(labels, zones, kind) -> None:
    assert zones_of(labels) == zones
    assert solution_kind(labels, None) == kind


def test_figures_of_steps_are_those_of_each_zones_steps(tmp_path) -> None:
    rows = label_rows(80)
    scored = made_scores(rows, 0.35)
    write_examined(tmp_path, "steps", examine_steps(rows, scored, threshold=0.4, aggregation="min"))
    found = figures(tmp_path, "steps")
    flat = [
        (score, label, zone, row)
        for row in rows
        for score, label, zone in zip(scored.scores[row["id"]], row["labels"], zones_of(row["labels"]), strict=True)
    ]
    whole = step_metrics([one[0] for one in flat], [bool(one[1]) for one in flat], 0.4)
    for name in ("macro_f1", "f1_wrong", "precision", "recall_wrong", "auroc", "brier", "calibration_error"):
        assert found[name] == pytest.approx(getattr(whole, name)), name
    share = fmean(label for _, label, _, _ in flat)
    assert found["f1[always right]"] == pytest.approx(2 * share / (1 + share))
    for zone in ("before_error", "first_error", "unrepaired", "repaired"):
        own = [(score >= 0.4) == label for score, label, its, _ in flat if its == zone]
        assert found[f"accuracy[{zone}]"] == pytest.approx(fmean(own)), zone
    after = [(score, bool(label)) for score, label, its, _ in flat if its in ("unrepaired", "repaired")]
    assert found["auroc[after error]"] == pytest.approx(auroc(*zip(*after, strict=True)))
    for kind in ("error_free", "reflective_right", "wrong"):
        its = [row for row in rows if solution_kind(row["labels"], row["correct"]) == kind]
        right = [(min(scored.scores[row["id"]]) >= 0.4) == row["correct"] for row in its]
        assert len(its) > 5
        assert found[f"solution_accuracy[{kind}]"] == pytest.approx(fmean(right)), kind


def test_solutions_without_labels_or_scores_are_counted(tmp_path) -> None:
    rows = label_rows(20)
    scored = made_scores(rows, 0.5)
    partly = Scored(
        {key: value for key, value in scored.scores.items() if key != rows[0]["id"]}, {rows[0]["id"]: "odd"}
    )
    rows[1] = {**rows[1], "labels": None}
    entry = write_examined(tmp_path, "steps", examine_steps(rows, partly))
    assert (entry["n_problems"], entry["unread"], entry["unlabelled"]) == (18, 1, 1)
    assert entry["warnings"][0] == "1 solutions could not be read, the first: odd"
    rows[2] = {**rows[2], "labels": rows[2]["labels"][1:]}
    with pytest.raises(DataError, match="labels and scores belong"):
        examine_steps(rows, partly)
    with pytest.raises(DataError, match="none has labels"):
        examine_steps([{**row, "labels": None} for row in rows], scored)


def test_best_of_is_the_expectation_over_all_subsets(tmp_path) -> None:
    rows = samples(6, 5)
    scored = sample_scores(rows, 0.3)
    best = examine_best_of(rows, scored, k=[2, 4], aggregations=["last", "min"], judge=no_judge)
    write_examined(tmp_path, "best_of", best)
    found, values = figures(tmp_path, "best_of"), {one.id: one.values for one in read_units(tmp_path, "best_of")}
    for rule, whole in (("last", lambda s: s[-1]), ("min", min)):
        for k in (2, 4):
            picks = []
            for problem in range(6):
                own = [row for row in rows if row["problem_id"] == f"p{problem}"]
                chosen = [
                    max(some, key=lambda row: whole(scored.scores[row["id"]]))["correct"]
                    for some in itertools.combinations(own, k)
                ]
                picks.append(fmean(chosen))
                assert values[f"p{problem}"][f"rm@{k}[{rule}]"] == pytest.approx(picks[-1])
            assert found[f"rm@{k}[{rule}]"] == pytest.approx(fmean(picks))
    assert found["random"] == pytest.approx(fmean(row["correct"] for row in rows))


def test_what_cannot_be_used_of_samples_is_counted(tmp_path) -> None:
    rows = samples(5, 4)
    scored = sample_scores(rows, 0.9)
    rows[0] = {**rows[0], "correct": None, "verdict": "bad_gold"}  # its problem has three left
    unread = {key: value for key, value in scored.scores.items() if key != rows[4]["id"]}
    entry = write_examined(
        tmp_path,
        "best_of",
        examine_best_of(rows, Scored(unread, {rows[4]["id"]: "empty"}), k=[4], aggregations=["last"], judge=no_judge),
    )
    assert (entry["n_problems"], entry["unverified"], entry["problems_left_out"], entry["unread"]) == (4, 1, 1, 1)
    with pytest.raises(DataError, match="k goes up to 8, and no problem has so many"):
        examine_best_of(rows, scored, k=[8], aggregations=["last"], judge=no_judge)


def test_answers_are_read_where_rows_do_not_bring_them(tmp_path) -> None:
    bare = [{key: row[key] for key in ("id", "problem", "answer", "text")} for row in samples(8, 6)]
    full = samples(8, 6)
    asked = []

    def judge(rows):
        asked.extend(rows)
        return [
            Judgement(row["text"].endswith("7."), 1.0, "correct", row["text"].split()[-1].strip(".")) for row in rows
        ]

    scored = sample_scores(full, 0.5)
    one = examine_best_of(bare, scored, k=[3], aggregations=["last"], judge=judge)
    two = examine_best_of(full, scored, k=[3], aggregations=["last"], judge=no_judge)
    assert len(asked) == 48
    assert [dict(unit.values) for unit in one.units] == [dict(unit.values) for unit in two.units]


def test_published_example_through_given_scores(qwen_example) -> None:
    """pass@8 96, rm@8 94, weighted maj@8 94 (Qwen2.5-Math's own figures)."""
    rows = [
        {
            "id": f"{place}#{index}",
            "problem_id": str(place),
            "problem": str(place),
            "correct": bool(right),
            "class": answer,
            "prm": [1 / (1 + math.exp(-logit)) for logit in logits],
        }
        for place, row in enumerate(qwen_example)
        for index, (answer, right, logits) in enumerate(zip(row["pred"], row["score"], row["pred_score"], strict=True))
    ]
    best = examine_best_of(rows, given_scores(rows, "prm"), k=[8], aggregations=["last"], judge=no_judge)
    found = {name: 100 * fmean(one.values[name] for one in best.units) for name in best.units[0].values}
    assert {name: round(value, 2) for name, value in found.items()} == {
        "random": 91.0,
        "pass@8": 96.0,
        "maj@8": 92.5,
        "rm@8[last]": 94.0,
        "weighted_maj@8[last]": 94.0,
    }


def test_given_scores_are_checked() -> None:
    rows = [{"id": "a", "s": [0.5, None]}, {"id": "b", "s": 0.25}, {"id": "c"}]
    found = given_scores(rows, "s")
    assert found.scores == {"a": [0.5, None], "b": [0.25]} and list(found.faults) == ["c"]
    with pytest.raises(DataError, match="pass logits through a sigmoid"):
        given_scores([{"id": "a", "s": 3.2}], "s")
    with pytest.raises(DataError, match="name the one that holds the scores"):
        given_scores(rows, "t")


def test_processbench_is_its_published_definition(tmp_path) -> None:
    rows = [
        solution_of({"id": f"r{n}", "problem": "p", "steps": ["a", "b", "c"], "label": label})
        for n, label in enumerate([-1, -1, 0, 2, 1, 2])
    ]
    scores = [[0.9, 0.8, 0.7], [0.9, 0.3, 0.7], [0.1, 0.9, 0.9], [0.9, 0.9, 0.2], [0.2, 0.2, 0.2], [0.9, 0.9, None]]
    scored = Scored({row["id"]: one for row, one in zip(rows, scores, strict=True)}, {})
    write_examined(tmp_path, "processbench_gsm8k", examine_processbench(rows, scored, 0.5))
    found = figures(tmp_path, "processbench_gsm8k")
    published = score_first_errors([-1, 1, 0, 2, 0, None], [row["first_error"] for row in rows])
    assert found["f1"] == pytest.approx(published.f1) == pytest.approx(0.5)
    assert found["accuracy[erroneous]"] == pytest.approx(published.accuracy_erroneous)
    assert 0.2 < gsm8k_threshold(rows, scored) < 0.9
    always = Scored({row["id"]: [1.0] * 3 for row in rows}, {})
    assert write_examined(tmp_path, "x", examine_processbench(rows, always, 0.5))["metrics"]["f1"]["value"] == 0.0


def test_prmbench_is_prmscore(tmp_path) -> None:
    rows = [
        {"idx": "a", "modified_question": "q", "modified_process": ["x", "y", "z"], "error_steps": [2],
         "classification": "redundency"},
        {"idx": "b", "modified_question": "q", "modified_process": ["x", "y"], "error_steps": [1, 2],
         "classification": "deception"},
        {"idx": "c", "original_question": "q", "modified_process": ["x"], "error_steps": [],
         "classification": "correct"},
    ]  # fmt: skip
    path = tmp_path / "prmbench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read_prmbench(path)
    scored = Scored({"a": [0.9, 0.1, 0.2], "b": [0.8, 0.1], "c": [0.1]}, {})
    entry = write_examined(tmp_path, "prmbench", examine_prmbench(records, scored, 0.5))
    # Said right: 1 0 0 | 1 0; true: 1 0 1 | 0 0. F1 of right 1/2, of wrong 2/3.
    assert entry["metrics"]["prm_score"]["value"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert entry["metrics"]["prm_score"]["value"] == pytest.approx(entry["prm_score"]["overall"])
    assert entry["metrics"]["prm_score[redundancy]"]["value"] == pytest.approx(
        entry["prm_score"]["kinds"]["redundancy"]
    )
    path.write_text(json.dumps({**rows[0], "error_steps": [4]}) + "\n")
    with pytest.raises(DataError, match="numbers of steps from 1 to 3"):
        read_prmbench(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {f"{skill}": examined(folder / f"{skill}", skill) for skill in (0.1, 0.3, 0.6)}


def test_examinations_stand_in_a_comparison(models, tmp_path) -> None:
    table = compare_evaluations(models, "0.1")
    assert table.suites == ("steps", "best_of")
    for suite, metric in (("steps", "macro_f1"), ("best_of", "rm@4[last]")):
        cell, base = table.cell(suite, metric, "0.6"), table.cell(suite, metric, "0.1")
        assert cell.difference.value == pytest.approx(cell.estimate.value - base.estimate.value)
        assert cell.difference.low > 0 and cell.p_corrected < 0.05
    assert table.cell("best_of", "pass@8", "0.6").difference.value == 0.0
    assert table.cell("steps", "f1[always right]", "0.6").p_value == 1.0
    paths = write_comparison(table, tmp_path)
    assert {path.name for path in paths} == {"table.md", "table.csv", "table.json", "table.png", "best_of.png"}
    assert read_comparison(tmp_path / "table.json") == table
    text = (tmp_path / "table.md").read_text()
    assert "| accuracy[unrepaired] | 0.6 |" in text and "60 solutions" in text and "30 problems" in text


def test_examinations_stand_in_a_study(models, tmp_path) -> None:
    runs = {
        "default": {0: {"PRM": models["0.6"]}, 1: {"PRM": models["0.3"]}},
        "orm": {0: {"PRM": models["0.3"]}, 1: {"PRM": models["0.1"]}},
    }
    study = compare_study(runs, baseline="PRM")
    lines = {(line.suite, line.metric, line.arm, line.versus): line for line in study.lines}
    against = lines["steps", "macro_f1", "orm", "arm default"]
    by_hand = compare_evaluations({"a": models["0.3"], "b": models["0.6"]}, "b").cell("steps", "macro_f1", "a")
    assert against.by_seed[0] == by_hand.difference
    assert against.difference.value == pytest.approx(fmean(one.value for one in against.by_seed.values()))
    assert {path.name for path in write_study(study, tmp_path)} == {
        "study.md",
        "study.json",
        "study.png",
        "best_of.png",
    }
    assert "### steps: accuracy[first_error]" in study_markdown(study)
    said = study_table(study)
    assert "steps: macro_f1" in said and "accuracy[first_error]" not in said


def test_an_examination_is_not_compared_with_samples(models, tmp_path) -> None:
    from eval_world import evaluate

    evaluate(tmp_path / "sampled", n=2, count=4)
    results = read_results(tmp_path / "sampled")
    results["suites"]["steps"] = results["suites"]["sums"]
    (tmp_path / "sampled" / "results.json").write_text(json.dumps(results))
    with pytest.raises(RunError, match="steps is an examination in one"):
        compare_evaluations({"a": models["0.1"], "b": tmp_path / "sampled"}, "a")


def test_figures_over_a_rows_own_problems_have_no_difference(tmp_path) -> None:
    """Which messages are all wrong is each run's own: `after` has few such problems, and not those of `before`."""
    for row, chosen in (("before", range(40)), ("after", range(36, 45))):
        own = {f"p{number}": {"emergent [8,2]": float(number % 3 == 0)} for number in chosen}
        units = [Unit(name, {"[8,2]": 1.0, **own.get(name, {})}) for name in (f"p{number}" for number in range(60))]
        write_examined(tmp_path / row, "rounds", Examined(units, "problems"))
    runs = {row: tmp_path / row for row in ("before", "after")}
    found = compare_evaluations(runs, "before")
    cell = found.cell("rounds", "emergent [8,2]", "after")
    assert cell.estimate.value == pytest.approx(3 / 9) and cell.difference is None and cell.p_value is None
    assert found.cell("rounds", "[8,2]", "after").difference.value == 0
    write_comparison(found, tmp_path / "table")
    arms = {"default": {0: runs}, "other": {0: {"before": runs["after"], "after": runs["before"]}}}
    study = compare_study(arms, baseline="before")
    told = [line for line in study.lines if line.metric == "emergent [8,2]"]
    assert {(line.arm, line.label, line.versus) for line in told} == {
        (arm, row, "") for arm in ("default", "other") for row in ("before", "after")
    }
    assert "emergent [8,2]" in study_markdown(study) and "emergent" in study_table(study)
