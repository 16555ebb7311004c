"""Suites: entries, rows made ready, checks, protocols, overrides; files a user writes, and what is said of mistakes."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from reasonrl.cli import main
from reasonrl.errors import DataError, RecipeError
from reasonrl.eval.scoring import Answer, build_scorer
from reasonrl.eval.suites import SuiteEntry, content_of, get_protocol, protocols, resolve, shipped_suites
from reasonrl.eval.suites.listing import markdown_table, protocols_markdown
from reasonrl.recipe import EvalStage

TREE = Path(__file__).resolve().parents[2]


def written(folder: Path, table: list[dict[str, Any]], **entry: Any) -> str:
    """A file of one suite named `mine`, with its rows beside it."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    whole = {"mine": {"about": "a suite", "source": "rows.jsonl", **entry}}
    (folder / "my.yaml").write_text(yaml.safe_dump(whole))
    return str(folder / "my.yaml")


def load(folder: Path, table: list[dict[str, Any]], overrides: dict[str, Any] | None = None, **entry: Any) -> Any:
    return resolve(written(folder, table, **entry), overrides=overrides)["mine"].load()


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(*args, **options)
    return str(caught.value)


def test_every_shipped_suite_resolves_and_tells_where_its_settings_are_from() -> None:
    entries = shipped_suites()
    wanted = (
        "math math500 gsm8k aime24 aime25 aime26 amc23 hmmt_feb_2025 minerva olympiadbench gpqa_diamond mmlu mmlu_pro"
        " brumo_2025 smt_2025 cmimc_2025 imo_answerbench apex_2025 hle_text mathvision mathvision_testmini mathvista"
        " mathverse_vision_only dynamath we_math logicvista mmmu_pro charxiv_reasoning mmbench_en blink mmstar"
        " hallusionbench pope realworldqa phyx mme mm_vet livecodebench_v5"
    )
    assert not set(wanted.split()) - set(entries)
    for name, entry in entries.items():
        overrides = {"reward": "math"} if entry.answer == "judge" else {}
        suite = resolve(name, overrides=overrides)[name]
        assert (suite.n, suite.temperature, suite.max_tokens) == (entry.n, entry.temperature, entry.max_tokens)
        assert entry.settings_from != "the entry", name
        # A number without a source must have been counted here, in a file whose content is known.
        assert entry.verified or entry.rows is None or entry.rows_from, name
        assert "{answer}" not in (entry.user_template() or "")


def test_a_protocol_lies_over_the_entries_and_overrides_over_both() -> None:
    suites = resolve("aime24,math500,gsm8k", "bcpg", {"max_tokens": 99, "math500": {"n": 3}})
    assert [suite.n for suite in suites.values()] == [40, 3, shipped_suites()["gsm8k"].n]
    assert {suite.max_tokens for suite in suites.values()} == {99}
    assert {suite.temperature for suite in suites.values()} == {0.6}
    pacore = resolve("aime25,hmmt_feb_2025,apex_2025,imo_answerbench,livecodebench_v6", "pacore")
    assert [suite.n for suite in pacore.values()] == [64, 64, 64, 8, 8]
    assert resolve("hle_text", "pacore", {"reward": "math"})["hle_text"].n == 1
    votes = get_protocol("pacore").self_consistency
    assert votes is not None and (votes.pool, votes.resamplings) == (512, 64)
    assert resolve("aime24", "orz")["aime24"].n == 16
    for name in ("orz", "bcpg", "ovr", "dapo"):
        assert protocols()[name].derived, f"{name} assumes things that its paper does not state"


def test_a_headline_and_votes_become_metrics() -> None:
    names = {name: suite.metrics for name, suite in resolve("dynamath,we_math,mme,aime24").items()}
    assert names == {
        "dynamath": ("worst_case",),
        "we_math": ("we_math_strict", "we_math_loose"),
        "mme": ("pairs",),
        "aime24": (),
    }
    pool = resolve("aime24", "pacore", {"n": 512})["aime24"].metrics
    assert pool == tuple(f"self_consistency@{k}:64" for k in (4, 16, 64, 256))
    assert resolve("aime24", "pacore")["aime24"].metrics == ()


def test_ten_lines_of_yaml_make_a_suite(tmp_path: Path) -> None:
    rows = [{"q": f"{number} + 1 = ?", "a": str(number + 1)} for number in range(5)]
    file = written(tmp_path, rows, columns={"problem": "q", "answer": "a"}, n=2, max_tokens=64, rows=5)
    assert len(Path(file).read_text().splitlines()) <= 10
    suite = resolve(f"{file}:mine", overrides={"limit": 3})["mine"]
    found, check = suite.load()
    assert [row["answer"] for row in found] == ["1", "2", "3"] and check.rows == 5
    # Relative files of the entry start at the YAML's folder, and the name alone means all of its suites.
    assert suite.data.path == str(tmp_path / "rows.jsonl") and list(resolve(file)) == ["mine"]


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


def test_the_local_file_is_preferred_and_the_hub_is_left_otherwise(tmp_path: Path) -> None:
    assert resolve("aime24", data_root=tmp_path)["aime24"].data.hub == "HuggingFaceH4/aime_2024"
    (tmp_path / "aime24").mkdir()
    (tmp_path / "aime24" / "test.jsonl").write_text("{}\n")
    data = resolve("aime24", data_root=tmp_path)["aime24"].data
    assert data.hub is None and data.path == str(tmp_path / "aime24" / "test.jsonl")
    first, second = (resolve("aime24", data_root=root)["aime24"] for root in (tmp_path, tmp_path / "copy"))
    assert first.identity != second.identity  # a file and a hub's data set
    assert resolve("aime24", overrides={"n": 2}, data_root=tmp_path)["aime24"].identity == first.identity
    assert resolve("aime24", overrides={"temperature": 0.5}, data_root=tmp_path)["aime24"].identity != first.identity


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"sourse": "x.jsonl"}, "mine.sourse: unknown key 'sourse' -> did you mean 'source'?"),
        ({"n": "4"}, "mine.n: is '4'; allowed: a whole number -> remove the quotes"),
        ({"answer": "maths"}, "mine.answer: is 'maths'; allowed: math, choice, mixed, yes_no, code, judge"),
        ({"source": {"file": "a"}}, "mine.source.file: unknown key 'file' -> did you mean 'path'?"),
        ({"source": {"path": "a", "name": "b"}}, "mine.source.name: belongs to a hub source"),
        ({"source": {"split": "test"}}, "mine.source: has neither path nor hub -> add path: FILE"),
        ({"n": 2, "temperature": 0.0}, "mine.n: is 2 at temperature 0"),
        ({"n": 2, "k": [1, 4]}, "mine.k: asks for pass@4 from n = 2"),
        ({"metric": "worst_case"}, "mine.group: is needed by metric: worst_case"),
        ({"answer": "choice"}, "mine.options: is needed by answer: choice"),
        ({"content": "abc"}, "mine.content: is 'abc'"),
        ({"options": []}, "mine.options"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_line(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    message = refusal(written(tmp_path, [{"problem": "p", "answer": "1"}], **entry))
    assert said in message and f"{tmp_path / 'my.yaml'}:" in message


def test_mistakes_in_names_and_overrides_are_all_told_at_once(tmp_path: Path) -> None:
    said = refusal("aime42,math500,gsm8", "orrz", {"n": 1})
    assert "there is no protocol 'orrz' -> did you mean 'orz'?" in said
    said = refusal("aime42,math500,gsm8", overrides={"n": 1})
    assert "'aime42' -> did you mean" in said and "'gsm8' -> did you mean 'gsm8k'?" in said
    said = refusal("math500", overrides={"temprature": 1.0, "aime24": {"n": 1}, "math500": {"nn": 2}})
    assert "temprature: is neither" in said and "aime24: is neither" in said and "math500.nn: is no setting" in said
    assert "suites.math500.temperature: is 'hot'; allowed: a number" in refusal(
        "math500", overrides={"temperature": "hot"}
    )
    assert "suites.hle_text.reward: is judged by a model" in refusal("hle_text")
    assert "names no suite" in refusal(" , ")
    assert "there is no such file" in refusal(str(tmp_path / "none.yaml"))
    assert "did you mean 'mine'?" in refusal(written(tmp_path, [{"problem": "p", "answer": "1"}]) + ":min")


def test_a_stage_of_a_recipe_names_suites_and_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reasonrl.pipeline.stages import eval as stage

    monkeypatch.chdir(tmp_path)
    written(tmp_path, [{"problem": "p", "answer": "1"}], temperature=0.5)
    config = {"model": "tiny:qwen2", "suites": ["my.yaml:mine", "aime24"], "protocol": "orz", "max_tokens": 8}
    suites = stage.suites_of(EvalStage.model_validate(config))
    assert [(suite.n, suite.temperature, suite.max_tokens) for suite in suites.values()] == [(16, 1.0, 8)] * 2
    before = stage.identity_extra(EvalStage.model_validate(config))
    written(tmp_path, [{"problem": "p", "answer": "1"}], temperature=0.5, system_prompt="Be brief.")
    after = stage.identity_extra(EvalStage.model_validate(config))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"suite mine"} and before.keys() == after.keys()
    with pytest.raises(ValueError, match="belongs to suites that are named"):
        EvalStage.model_validate(config | {"suites": {"a": {"data": {"path": "x"}, "max_tokens": 8}}})


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


def test_csv_files_of_answers_are_suites(tmp_path: Path) -> None:
    (tmp_path / "imo_answerbench").mkdir()
    with (tmp_path / "imo_answerbench" / "answerbench_v2.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Problem ID", "Problem", "Short Answer", "Category"])
        table.writerows([f"imo-{at}", f"Find ${at}$.", f"{at}", "Algebra"] for at in range(400))
    rows, _ = resolve("imo_answerbench_v2", data_root=tmp_path)["imo_answerbench_v2"].load()
    assert len(rows) == 400 and rows[7]["id"] == "imo-7" and rows[7]["subject"] == "Algebra"


def test_the_documents_tables_are_made_from_the_entries() -> None:
    text = (TREE / "docs" / "suites.md").read_text(encoding="utf-8")
    assert markdown_table() in text, "run the generator of docs/suites.md: reasonrl.eval.suites.listing"
    assert protocols_markdown() in text
    keys = set(SuiteEntry.model_fields) - set()
    explained = text[text.index("| key | what it says |") : text.index("## The suites")]
    assert not [key for key in keys if f"`{key}`" not in explained]


def test_the_command_lists_and_shows(tmp_path: Path) -> None:
    runner = click.testing.CliRunner()
    listed = runner.invoke(main, ["suites", "ls", "--data", str(tmp_path)])
    assert listed.exit_code == 0
    assert all(f"\n{name} " in f"\n{listed.output}" for name in [*shipped_suites(), *protocols()])
    shown = runner.invoke(main, ["suites", "show", "aime24"])
    entry = yaml.safe_load(shown.output)["aime24"]
    assert SuiteEntry.model_validate(entry) == shipped_suites()["aime24"]
    assert yaml.safe_load(runner.invoke(main, ["suites", "show", "pacore"]).output)["pacore"]["n"] == 64
    wrong = runner.invoke(main, ["suites", "show", "aime42"])
    assert wrong.exit_code == 2 and "there is no suite 'aime42'" in wrong.output


def test_recipes_know_the_names_and_refuse_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reasonrl.recipe import load_recipe, names

    assert set(shipped_suites()) == names.SUITES and set(protocols()) == names.PROTOCOLS
    monkeypatch.chdir(tmp_path)
    written(tmp_path, [{"problem": "p", "answer": "1"}])

    def recipe(suites: str, protocol: str) -> Path:
        (tmp_path / "r.yaml").write_text(
            f"stages: {{e: {{kind: eval, model: 'tiny:qwen2', suites: {suites}, protocol: {protocol}}}}}"
        )
        return tmp_path / "r.yaml"

    assert load_recipe(recipe("[math500, 'my.yaml:mine', my.yaml]", "orz"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe("[math50, your.yaml]", "paccore"))
    said = str(caught.value)
    assert "there is no suite 'math50' -> did you mean 'math500'?" in said
    assert "there is no file 'your.yaml'" in said and "protocol 'paccore' -> did you mean 'pacore'?" in said
