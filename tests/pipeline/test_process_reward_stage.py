"""A recipe that trains a process reward model and then a policy with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import load_recipe

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def recipe_at(folder: Path, advantage: str = "gae", **changes: object) -> str:
    process = {"model": "${stage:prm}", "weight": 0.5, "segment": {"shortest": 0, "longest": 8}, **changes}
    world = {"world": "reflective", "n": 16}
    stages = {
        "prm": {
            "kind": "prm",
            "model": TINY,
            "data": world,
            "max_steps": 1,
            "solutions_per_step": 8,
            "max_length": 400,
        },
        "rl": {
            "kind": "ppo",
            "model": TINY,
            "data": world,
            "reward": "math",
            "advantage": advantage,
            "process_reward": process,
            "prompts_per_step": 4,
            "num_generations": 2,
            "max_completion_length": 12,
            "max_steps": 1,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "shaped", "output": "run", "stages": stages}))
    return str(path)


def test_a_policy_is_trained_with_the_model_of_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_at(tmp_path)
    dry = CliRunner().invoke(main, ["train", recipe, "--dry-run"], catch_exceptions=False)
    assert dry.exit_code == 0 and "process reward: ${stage:prm}, score x 0.5 a step" in dry.output, dry.output
    done = CliRunner().invoke(main, ["train", recipe], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [line] = map(json.loads, (tmp_path / "run" / "stages" / "rl" / "metrics.jsonl").read_text().splitlines())
    assert line["process_reward/steps"] > 0 and line["process_reward/unplaced_fraction"] == 0
    assert line["token_reward"] == pytest.approx(line["process_reward/sum"]) and 0 < line["process_reward/score"] < 1
    assert "skipped" in CliRunner().invoke(main, ["train", recipe]).output


@pytest.mark.parametrize(
    ("advantage", "changes", "wanted"),
    [
        ("group", {}, "process_reward: is there, but advantage: group adds"),
        ("gae", {"segment": {"method": "given"}}, "segment.method: is given"),
        ("gae", {"form": "delta"}, "form"),
        ("gae", {"coef": 0.1}, "did you mean 'weight'"),
        ("gae", {"model": "${stage:rl}"}, "refers to its own stage"),
    ],
)
def test_what_cannot_be_is_named_before_anything_runs(
    tmp_path: Path, advantage: str, changes: dict[str, object], wanted: str
) -> None:
    with pytest.raises(RecipeError, match=wanted):
        load_recipe(recipe_at(tmp_path, advantage, **changes))
