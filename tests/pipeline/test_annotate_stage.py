"""The stage kind `annotate` and `reasonrl annotate`: recipes, parts beside each other, retries, what changes a key."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prm"))
from judge_world import Act, ScriptedServer, Seen, honest, row_of

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.prm import judges
from reasonrl.recipe import identity_of, load_recipe
from reasonrl.recipe.annotate_stage import JUDGES

KINDS = [["right", "right"], ["right", "error", "propagation"], ["error", "cessation", "right"]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [row_of(number, KINDS[number % 3]) for number in range(24)]
    # Another's names for the columns, as in files of others.
    lines = [{"question": row.pop("problem"), "output": row.pop("text"), **row} for row in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def recipe_at(folder: Path, url: str, **changes: Any) -> str:
    endpoint = {"base_url": url, "model": "judge", "max_concurrency": 4, "backoff": 0.01}
    stage = {
        "kind": "annotate",
        "data": {"path": "in.jsonl", "columns": {"problem": "question", "solution": "output"}},
        "segment": {"shortest": 0, "longest": 100},
        "judges": [{"name": "endpoint", "args": {"endpoint": endpoint, "re_asks": 0}}],
        "shard_size": 5,
        **changes,
    }
    path = folder / "recipe.json.yaml"
    path.write_text(json.dumps({"recipe": "labels", "output": "run", "stages": {"annotate": stage}}))
    return str(path)


def call(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def labels(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "run" / "stages" / "annotate" / "labels").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_recipe_is_annotated_and_carried_on(folder: Path) -> None:
    ill = True

    def script(seen: Seen, number: int) -> Act:
        return Act("no") if ill and "Line 7.0" in seen.prompt else honest(seen, number)

    with ScriptedServer(script) as server:
        recipe = recipe_at(folder, server.url)
        assert "judge endpoint: judge" in call("annotate", recipe, "--dry-run") and not (folder / "run").exists()
        said = call("annotate", recipe)
        assert "1 of 24 rows have no labels" in said and len(server.seen) == 24
        done = json.loads((folder / "run" / "stages" / "annotate" / "done.json").read_text())["result"]
        assert done["data"] == "labels" and done["metrics"]["solutions"] == 23 and done["metrics"]["failed"] == 1
        # How fast and where the judge is asked changes no label: the stage is done.
        text = Path(recipe).read_text()
        Path(recipe).write_text(text.replace('"max_concurrency": 4', '"max_concurrency": 9'))
        assert "skipped" in call("train", "--if-needed", recipe)
        ill = False
        assert "24 solutions" in call("annotate", recipe, "--retry-failed") and len(server.seen) == 25
    found = labels(folder)
    assert [record["id"] for record in found] == [f"s{number}" for number in range(24)]
    assert [record["labels"] for record in found[:3]] == [[1, 1], [1, 0, 0], [0, 1, 1]]
    assert found[0]["problem"] == "Problem 0?" and found[0]["text"].startswith("Line 0.0")


def test_parts_of_several_processes_end_as_one_stage(folder: Path) -> None:
    with ScriptedServer(honest) as server:
        recipe = recipe_at(folder, server.url)
        assert "not all there yet" in call("annotate", recipe, "--shard", "2/2")
        assert not (folder / "run" / "stages" / "annotate" / "done.json").exists()
        assert "all 5 shards are there" in call("annotate", recipe, "--shard", "1/2")
        assert "skipped" in call("annotate", recipe) and "all labels are there" in call(
            "annotate", recipe, "--shard=1/2"
        )
        assert len(server.seen) == 24
    assert len(labels(folder)) == 24


def test_a_stage_that_reads_an_unfinished_one_waits_for_it(folder: Path) -> None:
    recipe = Path(recipe_at(folder, "http://127.0.0.1:9/v1"))
    tree = json.loads(recipe.read_text())
    first = {**tree["stages"]["annotate"], "judges": [{"name": "oracle"}]}
    tree["stages"] = {"first": first, "second": {**first, "data": "${stage:first}"}}
    recipe.write_text(json.dumps(tree))
    result = CliRunner().invoke(main, ["annotate", str(recipe), "--stage", "second", "--shard", "1/2"])
    assert result.exit_code == 2 and "first makes, which is not done" in result.output
    result = CliRunner().invoke(main, ["annotate", str(recipe), "--retry-failed"])
    assert result.exit_code == 2 and "has 2 annotations -> --stage first" in result.output


def test_without_a_name_all_annotations_are_made(tmp_path: Path) -> None:
    world = {"kind": "annotate", "data": {"world": "reflective", "n": 4}, "judges": [{"name": "oracle"}]}
    after = {"kind": "gate", "results": "${stage:second}", "bounds": {"solutions": [4, 4]}}
    other = {"kind": "sft", "model": "tiny:qwen2", "data": {"world": "arithmetic", "n": 9}, "max_steps": 1}
    stages = {
        "other": other,
        "first": world,
        "second": {**world, "data": {"world": "reflective", "n": 4, "split": "test"}},
    }
    stages["after"] = after
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "two", "output": str(tmp_path / "run"), "stages": stages}))
    result = CliRunner().invoke(main, ["annotate", str(path)])
    assert result.exit_code == 0, result.output
    made = sorted(one.name for one in (tmp_path / "run" / "stages").iterdir())
    assert made == ["first", "second"], "what no annotation reads is not made"


def test_an_annotation_of_an_annotation(folder: Path) -> None:
    world = {"world": "reflective", "n": 12}
    noisy = {"name": "noisy", "args": {"kappa": 0.5, "world": "reflective"}}
    oracle = {"name": "oracle", "args": {"world": "reflective"}}
    stages = {
        "first": {"kind": "annotate", "data": world, "judges": [noisy]},
        "annotate": {"kind": "annotate", "data": "${stage:first}", "judges": [noisy, oracle], "consensus": "all"},
    }
    path = folder / "two.yaml"
    path.write_text(json.dumps({"recipe": "two", "output": "run", "stages": stages}))
    call("annotate", str(path), "--stage", "annotate")
    found = labels(folder)
    assert len(found) == 12
    for record in found:
        ours, truth = (vote["labels"] for vote in record["votes"])
        both = [a if a == b else None for a, b in zip(ours, truth, strict=True)]
        assert record["labels"][:-1] == both[:-1] and record["labels"][-1] == int(record["correct"])


def test_what_is_mined_of_wrong_answers_alone(folder: Path) -> None:
    from reasonrl.models import load_tokenizer
    from reasonrl.observe.report import write_report

    def noisy(**more: Any) -> dict[str, Any]:
        return {"name": "noisy", "args": {"precision": 0.8, "recall": 0.8, "world": "reflective", **more}}

    stage = {
        "kind": "annotate",
        "data": {"world": "reflective", "n": 60},
        "only": "wrong",
        "judges": [noisy(), noisy(seed=1)],
        "consensus": "one:1",
        "segment": {"method": "lines"},
        "truth": {"world": "reflective"},
        "tokenizer": "tiny:qwen2",
    }
    path = folder / "mined.yaml"
    path.write_text(json.dumps({"recipe": "mined", "output": "run", "stages": {"annotate": stage}}))
    said = call("train", str(path))
    found = labels(folder)
    wrong = [record for record in found if not record["correct"]]
    assert len(found) == 60 and 0 < len(wrong) < 60 and f"{60 - len(wrong)} right" in said
    assert all(record["labels"] is None for record in found if record["correct"])
    for record in wrong:  # the second judge alone
        assert record["labels"][:-1] == record["votes"][1]["labels"][:-1] and record["labels"][-1] == 0
    mined = json.loads((folder / "run" / "stages" / "annotate" / "mined.json").read_text())
    tokenizer = load_tokenizer("tiny:qwen2")
    tokens = sum(len(tokenizer(record["text"], add_special_tokens=False)["input_ids"]) for record in wrong)
    assert mined["unit"] == "tokens" and mined["with_truth"] == mined["answers"] == len(wrong)
    for row in mined["sources"].values():
        assert row["right"] + row["wrong"] + row["open"] == tokens
    done = json.loads((folder / "run" / "stages" / "annotate" / "done.json").read_text())["result"]["metrics"]
    assert done["mined/1.noisy/precision"] == mined["sources"]["1.noisy"]["precision"] > 0.5
    assert done["passed/right"] == 60 - len(wrong)
    assert "How far judges agree on wrong answers" in write_report(folder / "run").read_text()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"judges": [{"name": "endpiont"}]}, "did you mean 'endpoint'"),
        ({"judges": [{"name": "noisy", "args": {"kapa": 1}}]}, "did you mean 'kappa'"),
        ({"judges": [{"name": "endpoint"}]}, "args.endpoint: is missing"),
        ({"judges": []}, "judges"),
        ({"segment": {"shortest": 10, "longest": 5}}, "above longest"),
        ({"segment": {"model": "sat-3l-sm"}}, "belongs to method sat"),
        ({"consensus": "most"}, "all, any, majority, weighted or one:NAME"),
        ({"consensus": "one:prm"}, "names no judge -> judges: 0.endpoint"),
        ({"judges": [{"name": "oracle", "weight": 2.0}]}, "only a weighted consensus reads"),
        ({"truth": {}}, "one of them says where the truth is"),
    ],
)
def test_mistakes_are_named_before_anything_runs(folder: Path, changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(RecipeError, match=wanted):
        load_recipe(recipe_at(folder, "http://127.0.0.1:9/v1", **changes))


def test_what_changes_labels_changes_the_key(folder: Path) -> None:
    def identity(url: str = "http://127.0.0.1:9/v1", **changes: Any) -> Any:
        return identity_of(load_recipe(recipe_at(folder, url, **changes)).recipe.stages["annotate"])

    assert identity() == identity("http://127.0.0.1:10/v1")
    assert identity() != identity(segment={"shortest": 1, "longest": 100})
    assert identity() != identity(judges=[{"name": "oracle"}])


def test_the_recipe_knows_the_judges_arguments() -> None:
    for name, arguments in JUDGES.items():
        module, _, member = judges.JUDGES[name].partition(":")
        maker = getattr(importlib.import_module(module), member)
        assert set(inspect.signature(maker).parameters) == arguments, name
    assert set(JUDGES) == set(judges.JUDGES)


def test_people_review_a_sample_and_look_at_solutions(folder: Path) -> None:
    recipe = recipe_at(folder, "http://127.0.0.1:9/v1")
    result = CliRunner().invoke(main, ["annotate", recipe, "--audit", "4"])
    assert result.exit_code == 2 and "no complete shard" in result.output

    def script(seen: Seen, number: int) -> Act:
        return Act(honest(seen, number).text.replace("because error", "<script>alert(1)</script>"))

    with ScriptedServer(script) as server:
        recipe = recipe_at(folder, server.url)
        call("annotate", recipe)
        assert "no step is reviewed yet" in call("annotate", recipe, "--audit", "6")
        path = folder / "run" / "stages" / "annotate" / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == 6 == len({line["id"] for line in lines})
        steps = sum(len(line["steps"]) for line in lines)
        for line in lines:
            line["human"] = [step["label"] for step in line["steps"]]
        lines[0]["human"][0] = 1 - lines[0]["human"][0]  # people disagree once
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        # A larger sample holds the smaller one, and keeps what people said.
        said = call("annotate", recipe, "--audit", "8")
        assert f"{steps:,} labelled steps of 6 of 8 solutions reviewed" in said
        assert f"  {100 * (1 - 1 / steps):.1f} [" in said and "labels, without last steps" in said
        again = call("annotate", recipe, "--audit", "2")  # a smaller one loses nothing
        assert again.splitlines()[1:] == said.splitlines()[1:] and "6 of 6 solutions" in again
        lines[0]["human"] = [2]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = CliRunner().invoke(main, ["annotate", recipe, "--audit", "6"])
        assert result.exit_code == 1 and "line 1" in result.output

        shown = CliRunner().invoke(main, ["annotate", recipe, "--inspect", "s1"], color=True).output
        assert "\x1b[32mstep 1: right" in shown and "\x1b[31mstep 2: error" in shown and "because propagation" in shown
        call("annotate", recipe, "--inspect", "any:3", "--html", str(folder / "page.html"))
        assert (folder / "page.html").read_text().count("<h2>") == 3
        call("annotate", recipe, "--inspect", "s1", "--html", str(folder / "page.html"))
        text = (folder / "page.html").read_text()
        assert "<script>" not in text and "&lt;script&gt;alert(1)" in text
        result = CliRunner().invoke(main, ["annotate", recipe, "--inspect", "nobody"])
        assert result.exit_code == 2 and "no labelled solution" in result.output
        assert len(server.seen) == 24
