"""The recipes that come with the library: each loads, prints as itself, and can be copied."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import ResolvedRecipe, expand_stages, load_recipe, print_config, shipped_recipes

ROWS = '{"problem": "1+1?", "question": "1+1?", "answer": "2", "solution": "2", "prompt": "1+1?"}\n'


def load_shipped(path: str | Path, folder: Path) -> ResolvedRecipe:
    """A recipe whose mandatory values (`???`, left to the user) are given a small real file or model."""
    try:
        return load_recipe(path)
    except RecipeError as error:
        missing = [problem.key for problem in error.problems if "has no value yet" in problem.message]
        if len(missing) != len(error.problems):
            raise
    (folder / "rows.jsonl").write_text(ROWS)
    return load_recipe(
        path, [f"{key}={folder / 'rows.jsonl' if key.endswith('path') else 'tiny:qwen2'}" for key in missing]
    )


@pytest.mark.parametrize("name", shipped_recipes())
def test_it_loads_expands_and_prints_as_itself(name, tmp_path):
    resolved = load_shipped(name, tmp_path)
    assert resolved.recipe.recipe == name.replace("/", "-")
    assert [one.name for one in expand_stages(resolved.recipe)]
    (tmp_path / "pasted.yaml").write_text(print_config(resolved))
    assert load_recipe(tmp_path / "pasted.yaml").recipe == resolved.recipe.model_copy(update={"base": ()})


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_copy_loads_as_the_shipped_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["recipes", "cp", name])
    assert result.exit_code == 0, result.output
    copied, shipped = (load_shipped(path, tmp_path).recipe for path in (f"./{name}.yaml", shipped_recipes()[name]))
    assert copied == shipped
    again = CliRunner().invoke(main, ["recipes", "cp", name])
    assert again.exit_code == 2 and "nothing is overwritten" in again.stderr
    named = CliRunner().invoke(main, ["recipes", "cp", name, "deep/mine.yaml"])
    assert named.exit_code == 0 and (tmp_path / "deep" / "mine.yaml").is_file()
