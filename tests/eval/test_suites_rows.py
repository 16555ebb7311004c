"""Rows of suites: options, golds, groups and pictures made ready; checks against what is expected; LiveCodeBench."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasonrl.errors import DataError
from reasonrl.eval.scoring import Answer, build_scorer
from reasonrl.eval.suites import content_of, resolve

sys.path.insert(0, str(Path(__file__).parent))
from suite_files import load, written

QUESTIONS = [
    {"q": "Capital of Peru?", "right": "Lima", "wrong": "Cusco", "worse": "Quito"},
    {"q": "Capital of Chile?", "right": "Santiago", "wrong": "Iquique", "worse": "La Paz"},
    {"q": "Capital of Kenya?", "right": "Nairobi", "wrong": "Mombasa", "worse": "Kampala"},
]


def test_options_stand_in_the_problem_and_the_gold_is_their_letter(tmp_path: Path) -> None:
    entry = {
        "columns": {"problem": "q", "answer": "right"},
        "options": ["right", "wrong", "worse"],
        "gold": "first",
        "answer": "choice",
    }
    rows, _ = load(tmp_path, QUESTIONS, **entry)
    assert [row["answer"] for row in rows] == ["A"] * 3
    assert rows[0]["problem"] == "Capital of Peru?\n\n(A) Lima\n(B) Cusco\n(C) Quito"
    shuffled, _ = load(tmp_path, QUESTIONS, shuffle_options=True, **entry)
    for row, question in zip(shuffled, QUESTIONS, strict=True):
        assert row["options"][row["answer"]] == question["right"]
        assert sorted(row["options"].values()) == sorted(question[key] for key in ("right", "wrong", "worse"))
    assert {row["answer"] for row in shuffled} != {"A"}
    # A row's order hangs on its own text: not on its neighbours, nor on the run.
    alone, _ = load(tmp_path, QUESTIONS[2:], shuffle_options=True, **entry)
    assert alone[0]["options"] == shuffled[2]["options"]


@pytest.mark.parametrize(
    ("gold", "answer", "cell"),
    [
        ("index", 1, ["x", "y"]),
        ("letter", "B", "['x', 'y']"),  # as MMMU writes lists: Python's way, in a text
        ("letter", "(b)", '["x", "y"]'),
        ("text", "y", ["x", "y"]),
        ("letter", "B", "A. x; B. y"),
        ("letter", "B", 'A:"x", B:"y"'),
        ("letter", "B", {"label": ["A", "B"], "text": ["x", "y"]}),
    ],
)
def test_golds_and_options_as_data_sets_write_them(tmp_path: Path, gold: str, answer: Any, cell: Any) -> None:
    row = {"problem": "which?", "answer": answer, "options": cell}
    rows, _ = load(tmp_path, [row], options="options", gold=gold, answer="choice")
    assert rows[0]["answer"] == "B" and list(rows[0]["options"]) == ["A", "B"]
    assert rows[0]["options"]["B"].strip('"') == "y"


def test_a_gold_among_no_options_is_refused_with_its_row(tmp_path: Path) -> None:
    row = {"id": "seven", "problem": "which?", "answer": "F", "options": ["x", "y"]}
    with pytest.raises(DataError, match=r"'mine': row seven: the answer 'F' is no letter of its 2 options ->"):
        load(tmp_path, [row], options="options", answer="choice")


def test_rows_are_narrowed_by_values_dates_and_pictures(tmp_path: Path) -> None:
    rows = [
        {"problem": str(at), "answer": "1", "kind": kind, "day": day, "image": image}
        for at, (kind, day, image) in enumerate(
            [
                ("a", "2024-08-01T00:00:00", ""),
                ("b", "2024-07-31", ""),
                ("a", "2025-01-31T23:59:59", ""),
                ("c", "2024-09-01", ""),
                ("a", "2025-02-01", ""),
                ("b", "2024-10-01", "x.png"),
            ]
        )
    ]
    entry = {"only": {"kind": ["a", "b"]}, "since": {"day": "2024-08-01"}, "until": {"day": "2025-01-31"}}
    found, _ = load(tmp_path, rows, text_only=True, columns={"images": "image"}, **entry)
    assert [row["problem"] for row in found] == ["0", "2"] and "images" not in found[0]
    with pytest.raises(DataError, match=r"no column 'sort' -> .*allowed"):
        load(tmp_path, rows, only={"sort": "a"})
    with pytest.raises(DataError, match="none of the 6 rows"):
        load(tmp_path, rows, only={"kind": "z"})


def test_groups_labels_words_for_golds_and_several_pictures(tmp_path: Path) -> None:
    row = {"q": "Is <image 2> red?", "a": "0", "set": 7, "hard": "Level 2", "i1": "a.png", "i2": "b.png", "i3": None}
    rows, _ = load(
        tmp_path,
        [row],
        columns={"problem": "q", "answer": "a"},
        images=["i1", "i2", "i3"],
        gold_values={"0": "no", "1": "yes"},
        answer="yes_no",
        group="set",
        metric="pairs",
        labels={"level": "hard"},
    )
    (made,) = rows
    assert (made["answer"], made["group"], made["level"], made["images"]) == ("no", "7", "Level 2", ["a.png", "b.png"])
    assert made["problem"] == "Is <image2> red?"
    with pytest.raises(DataError, match=r"the answer '0' is none of gold_values \(yes\)"):
        load(tmp_path, [row], columns={"problem": "q", "answer": "a"}, gold_values={"yes": "yes"})


def test_a_mixed_suite_judges_each_row_by_its_kind(tmp_path: Path) -> None:
    rows = [
        {"id": "c", "problem": "which?", "answer": "B", "options": ["3", "4"]},
        {"id": "m", "problem": "In (A) x (B) y, how many?", "answer": "4", "options": []},
    ]
    suite = resolve(written(tmp_path, rows, options="options", answer="mixed"))["mine"]
    made, _ = suite.load()
    assert [row["answer_kind"] for row in made] == ["choice", "math"]
    assert "letter" in made[0]["instruction"] and "letter" not in made[1]["instruction"]
    judge = build_scorer(suite.reward, None, made)

    def right(*texts: str) -> list[bool | None]:
        asked = [{"role": "user", "content": "?"}]
        return [
            verdict.right
            for verdict in judge([Answer(row, asked, text, ()) for row, text in zip(made, texts, strict=True)])
        ]

    assert right(r"\boxed{B}", r"\boxed{4}") == [True, True]
    assert right(r"\boxed{4}", r"\boxed{B}") == [True, False]  # the option's value is the option
    assert right(r"\boxed{A}", r"\boxed{5}") == [False, False]


def test_changed_and_missing_rows_are_refused_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": str(at), "problem": f"p{at}", "answer": str(at)} for at in range(1, 4)]
    content = load(tmp_path, rows)[1].content
    known = {"rows": 3, "content": content}
    assert load(tmp_path, rows[::-1], **known)[1].state == "verified"
    changed = [*rows[:2], rows[2] | {"answer": "9"}]
    with pytest.raises(DataError, match=rf"have the content \w+…, where {content[:12]}… is expected"):
        load(tmp_path, changed, **known)
    with pytest.raises(DataError, match=r"has 2 usable rows \(set aside: 1 x empty answer .*where 3 are expected"):
        load(tmp_path, [*rows[:2], rows[2] | {"answer": " "}], **known)
    loaded, check = load(tmp_path, changed, {"check": False}, **known)
    assert len(loaded) == 3 and check.state == "unverified" and check.content != content
    # A number that others have published is no reason to refuse a file.
    loaded, check = load(tmp_path, rows, rows=4, rows_from="a paper")
    assert len(loaded) == 3 and check.state == "unverified"
    assert "has 3 usable rows, where 4 are expected (a paper)" in caplog.text


def test_the_content_is_that_of_a_plain_sum_over_the_rows() -> None:
    rows = [{"problem": "é", "answer": "1", "options": ["a", "b"], "images": ["x.png"], "level": 3}, {"problem": "b"}]
    lines = ['["b", null, null, 0]', '["é", "1", ["a", "b"], 1]']
    assert content_of(rows) == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert content_of([rows[1], rows[0] | {"level": 4, "images": ["elsewhere/x.png"]}]) == content_of(rows)
    assert content_of([rows[0]]) != content_of(rows)


class _Dangerous:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/reasonrl-was-run"),))


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_livecodebench_is_read_from_its_own_files_and_nothing_in_them_is_run(tmp_path: Path) -> None:
    hidden = json.dumps([{"input": "3\n", "output": "6\n", "testtype": "stdin"}])
    public = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])
    call = json.dumps([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}])
    common = {"difficulty": "easy", "platform": "x", "question_title": "t"}
    rows = [
        {"question_id": "a", "contest_date": "2024-08-03T00:00:00", "starter_code": "", "metadata": "{}"}
        | {"question_content": "Double it.", "public_test_cases": public, "private_test_cases": packed(hidden)},
        {"question_id": "b", "contest_date": "2025-01-31T00:00:00", "starter_code": "class Solution:\n    ..."}
        | {"metadata": json.dumps({"func_name": "total"}), "question_content": "Sum."}
        | {"public_test_cases": call, "private_test_cases": call},
        {"question_id": "c", "contest_date": "2025-02-01T00:00:00", "starter_code": "", "metadata": "{}"}
        | {"question_content": "Late.", "public_test_cases": public, "private_test_cases": packed(hidden)},
    ]
    (tmp_path / "livecodebench").mkdir()
    file = tmp_path / "livecodebench" / "test5.jsonl"
    file.write_text("".join(json.dumps(row | common) + "\n" for row in rows))
    suite = resolve("livecodebench_v5", data_root=tmp_path)["livecodebench_v5"]
    made, _ = suite.load()  # 279 rows are expected, by what others say: told, not refused
    assert [row["id"] for row in made] == ["a", "b"] and made[1]["fn_name"] == "total"
    assert [test["output"] for test in made[0]["tests"]] == ["2\n", "6\n"]
    judge = build_scorer(suite.reward, None, made)
    double, total = (
        "print(2 * int(input()))",
        "class Solution:\n    def total(self, xs, y):\n        return sum(xs) + y",
    )
    verdicts = judge(
        [Answer(row, [], f"```python\n{code}\n```", ()) for row, code in zip(made, (double, total), strict=True)]
    )
    assert [verdict.right for verdict in verdicts] == [True, True]

    file.write_text(json.dumps(rows[0] | common | {"private_test_cases": packed(_Dangerous())}) + "\n")
    with pytest.raises(DataError, match=r"test5.jsonl:1: no row of LiveCodeBench: UnpicklingError: it asks for"):
        suite.load()
    assert not Path("/tmp/reasonrl-was-run").exists()


def test_configurations_and_splits_of_a_data_set_make_one_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    configs = [{"config_name": name, "data_files": []} for name in ("Depth", "Style")]
    for config in configs:
        for split in ("one", "two"):
            file = folder / f"{config['config_name']}_{split}.jsonl"
            file.write_text(
                json.dumps({"idx": 1, "prompt": f"{file.stem}?", "answer": "(B)", "choices": ["x", "y"]}) + "\n"
            )
            config["data_files"].append({"split": split, "path": file.name})  # type: ignore[attr-defined]
    (folder / "README.md").write_text("---\n" + yaml.safe_dump({"configs": configs}) + "---\n")
    source = {"hub": str(folder), "names": ["Depth", "Style"], "split": "one+two"}
    file = tmp_path / "my.yaml"
    entry = {"about": "a suite", "source": source, "options": "choices", "answer": "choice", "rows": 4}
    file.write_text(yaml.safe_dump({"mine": entry}))
    other = str(tmp_path / "other.yaml")
    Path(other).write_text(yaml.safe_dump({"mine": entry | {"content": "0" * 64}}))
    # A copy on the hub may be worded otherwise than the known file.
    assert resolve(other)["mine"].load()[1].state == "other" and "has other rows than the file" in caplog.text
    rows, check = resolve(str(file))["mine"].load()
    asked = [row["problem"].split("?")[0] for row in rows]
    assert asked == ["Depth_one", "Depth_two", "Style_one", "Style_two"] and check is not None and check.rows == 4
    assert {row["answer"] for row in rows} == {"B"} and len({row["id"] for row in rows}) == 4


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("yes", "Yes.", True),
        ("no", r"\boxed{No}", True),
        ("yes", r"\boxed{no}", False),
        ("yes", "Yes, there is a dog in the picture.", True),
        ("no", "Yes, there is.", False),
        ("no", r"I see no dog, yes? \boxed{\text{no}}", True),
        ("yes", "The answer is no.", False),
    ],
)
def test_yes_and_no(tmp_path: Path, gold: str, text: str, right: bool) -> None:
    suite = resolve(written(tmp_path, [{"problem": "Is there a dog?", "answer": gold}], answer="yes_no"))["mine"]
    (row,) = suite.load()[0]
    assert build_scorer(suite.reward, None, [row])([Answer(row, [], text, ())])[0].right is right


def test_csv_files_of_answers_are_suites(tmp_path: Path) -> None:
    (tmp_path / "imo_answerbench").mkdir()
    with (tmp_path / "imo_answerbench" / "answerbench_v2.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Problem ID", "Problem", "Short Answer", "Category"])
        table.writerows([f"imo-{at}", f"Find ${at}$.", f"{at}", "Algebra"] for at in range(400))
    rows, _ = resolve("imo_answerbench_v2", data_root=tmp_path)["imo_answerbench_v2"].load()
    assert len(rows) == 400 and rows[7]["id"] == "imo-7" and rows[7]["subject"] == "Algebra"
