"""The stage kind `segment`, and a generator that learns to mark its steps from what it makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prm"))
from judge_world import ScriptedServer
from test_resegment import pairs, rows_of, solution

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import identity_of, load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def recipe_at(folder: Path, url: str = "http://127.0.0.1:9/v1", concurrency: int = 3, **changes: Any) -> str:
    llm = {"endpoint": {"base_url": url, "model": "cutter", "max_concurrency": concurrency}, "re_asks": 0}
    segment = {
        "kind": "segment",
        "data": {"path": "in.jsonl"},
        "segment": {"shortest": 20, "longest": 120},
        "llm": llm,
        "separator": "\n\n",
        "shard_size": 5,
        **changes,
    }
    generator = {"kind": "sft", "model": TINY, "data": "${stage:resegment}", "max_steps": 2, "max_length": 512}
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for _, row in rows_of(12)))
    path = folder / "r.yaml"
    stages = {"resegment": segment, "generator": generator}
    path.write_text(json.dumps({"recipe": "generator", "output": "run", "stages": stages}))
    return str(path)


def test_a_generator_is_trained_on_what_was_segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(pairs) as server:
        recipe = recipe_at(tmp_path, server.url)
        dry = CliRunner().invoke(main, ["train", recipe, "--dry-run"], catch_exceptions=False)
        assert dry.exit_code == 0 and "steps by cutter, prompt " in dry.output and "written anew" in dry.output
        done = CliRunner().invoke(main, ["train", recipe], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert len(server.seen) == 12
        again = CliRunner().invoke(main, ["train", recipe_at(tmp_path, server.url, concurrency=7)])
        assert again.output.count("skipped") == 2 and len(server.seen) == 12
    stage = tmp_path / "run" / "stages" / "resegment"
    metrics = json.loads((stage / "done.json").read_text())["result"]["metrics"]
    assert metrics["rows"] == 12 and metrics["fallen_back"] == 0 and metrics["steps_per_solution"] > 3
    rows = [json.loads(line) for file in sorted((stage / "rows").iterdir()) for line in file.open()]
    assert [row["original_text"] for row in rows] == [solution(number) for number in range(12)]
    assert (tmp_path / "run" / "stages" / "generator" / "model").is_dir()


def test_rules_alone_make_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = json.loads(Path(recipe_at(tmp_path, llm=None, separator=None)).read_text())
    del tree["stages"]["generator"]
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    done = CliRunner().invoke(main, ["train", "r.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [
        json.loads(line)
        for file in sorted((tmp_path / "run" / "stages" / "resegment" / "rows").iterdir())
        for line in file.open()
    ]
    assert all(row["steps"] and "original_text" not in row and "segmented_by" not in row for row in rows)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"segment": {"method": "given"}}, "this stage makes the steps"),
        ({"segment": {"method": "lines"}}, "joins pieces that rules make"),
        ({"llm": {"endpoint": {"model": "m"}}}, "base_url"),
        ({"llm": {"endpoint": {"base_url": "http://x/v1", "model": "m"}, "replay": "text"}}, "did you mean 'reply'"),
        ({"step_separator": "x"}, "did you mean 'separator'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=wanted):
        load_recipe(recipe_at(tmp_path, **changes))


def test_what_changes_steps_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def identity(**changes: Any) -> Any:
        return identity_of(load_recipe(recipe_at(tmp_path, **changes)).recipe.stages["resegment"])

    assert identity() == identity(url="http://127.0.0.1:10/v1", concurrency=9)
    assert identity() != identity(separator="\n") != identity(segment={"shortest": 21, "longest": 120})
