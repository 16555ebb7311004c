"""Suites by name: shipped entries, protocols, overrides, a user's file, and what is said of mistakes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml

from reasonrl.cli import main
from reasonrl.errors import DataError, RecipeError
from reasonrl.eval.suites import SuiteEntry, get_protocol, protocols, resolve, shipped_suites
from reasonrl.eval.suites.listing import markdown_table, protocols_markdown
from reasonrl.recipe import EvalStage

sys.path.insert(0, str(Path(__file__).parent))
from suite_files import written

TREE = Path(__file__).resolve().parents[2]


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


def test_names_are_folders_and_belong_to_one_suite(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "1"}]
    file = Path(written(tmp_path, rows))
    other = tmp_path / "other.yml"
    other.write_text(file.read_text())
    assert list(resolve(f"{other}:mine,{other}")) == ["mine"]  # one suite, named twice
    other.write_text(file.read_text().replace("a suite", "another suite"))
    assert "two different suites are named 'mine'" in refusal(f"{file},{other}")
    other.write_text(file.read_text().replace("mine:", "../mine:"))
    assert "other.yml:1: ../mine: is a name with other signs" in refusal(str(other))


def test_a_users_file_may_name_data_below_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "far.jsonl").write_text('{"problem": "p", "answer": "far"}\n')
    file = written(tmp_path, [{"problem": "p", "answer": "near"}], source="far.jsonl")

    def answer() -> str:
        return str(resolve(file, data_root=tmp_path / "data")["mine"].load()[0][0]["answer"])

    assert answer() == "far"
    (tmp_path / "far.jsonl").write_text('{"problem": "p", "answer": "beside"}\n')
    assert answer() == "beside"
    absent = resolve("charxiv_descriptive", overrides={"reward": "math"}, data_root=tmp_path)["charxiv_descriptive"]
    with pytest.raises(DataError, match=r"no file .*charxiv/descriptive.jsonl \(.*yours to make\) -> .* REASONRL_DATA"):
        absent.load()


def test_an_installed_package_adds_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extra_suites.py").write_text(
        f"entry = {{'about': 'theirs', 'source': {str(tmp_path / 'rows.jsonl')!r}, 'n': 3, 'max_tokens': 5}}\n"
        "def whole():\n"
        f"    return {{'data': {{'path': {str(tmp_path / 'rows.jsonl')!r}, 'limit': 1}}, 'max_tokens': 7}}\n"
        "wrong = {'about': 'theirs', 'sauce': 'x'}\n"
    )
    info = tmp_path / "extra_suites-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra_suites\nVersion: 1\n")
    points = "".join(
        f"{name} = extra_suites:{thing}\n" for name, thing in (("e", "entry"), ("w", "whole"), ("b", "wrong"))
    )
    (info / "entry_points.txt").write_text(f"[reasonrl.suites]\n{points}")
    (tmp_path / "rows.jsonl").write_text('{"problem": "p", "answer": "1"}\n' * 2)
    monkeypatch.syspath_prepend(str(tmp_path))
    suites = resolve("e,w", overrides={"temperature": 0.5})
    assert [(suite.n, suite.max_tokens, suite.temperature) for suite in suites.values()] == [(3, 5, 0.5), (1, 7, 0.5)]
    assert [len(suite.load()[0]) for suite in suites.values()] == [2, 1]
    assert "suites.b.sauce: unknown key 'sauce' -> did you mean 'source'?" in refusal("b")


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


def test_the_command_checks_rows(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": "2"}]
    runner = click.testing.CliRunner()
    content = resolve(written(tmp_path, rows))["mine"].load()[1].content
    right = runner.invoke(main, ["suites", "check", written(tmp_path, rows, content=content)])
    assert right.exit_code == 0 and right.output == f"mine: 2 rows, verified, content {content}\n"
    wrong = runner.invoke(
        main, ["suites", "check", written(tmp_path, rows[:1], content=content), "--data", str(tmp_path)]
    )
    assert wrong.exit_code == 1 and "have the content" in wrong.output
