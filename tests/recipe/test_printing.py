"""`--print-config`: every value with its origin, as YAML that is the same recipe."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.recipe import load_recipe
from reasonrl.recipe.printing import print_config

RECIPE = """\
base: ground.yaml
data:
  train: {world: arithmetic, n: 8, args: {operations: [1, 2]}, columns: {}, system_prompt: "two\\nlines: \\\\${x} # no"}
stages:
  sft: {kind: sft, data: "${data.train}", max_steps: 5, optim: sgd}
  rl:
    kind: ppo
    model: ${stage:sft}
    data: ${data.train}
    reward: [{name: math, weight: 2}, {name: format}]
    prompts_per_step: 4
    max_completion_length: 8
    max_steps: 1
    save_steps: 1
  ev: {kind: eval, model: "${stage:rl@step=1}", n: 2, max_tokens: 3, suites: {a-b: {data: "${data.train}", k: [1, 2]}}}
  table: {kind: compare, rows: {"before: 1e-4": "${stage:ev}"}, baseline: "before: 1e-4"}
arms: {hot: {stages.rl.temperature: 1.5, stages.rl.model: "${model}"}}
studies: {s: {arms: [default, hot], seeds: [0, 1]}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ground.yaml").write_text("recipe: printed\nmodel: tiny:qwen2\nrollout: {batch_size: 2}\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_it_is_the_same_recipe_when_pasted(recipe):
    for arm in (None, "hot"):
        resolved = load_recipe(recipe, ["stages.rl.learning_rate=1e-4"], arm=arm)
        (recipe.parent / "pasted.yaml").write_text(print_config(resolved))
        assert load_recipe("pasted.yaml").recipe == resolved.recipe.model_copy(update={"base": ()})


def test_every_value_has_its_origin(recipe):
    result = CliRunner().invoke(
        main, ["train", "recipe.yaml", "--print-config", "stages.rl.learning_rate=1e-4", "--arm", "hot"]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()

    def origin(text: str, after: str = "") -> str:
        start = next(number for number, line in enumerate(lines) if line.strip() == after) if after else 0
        line = next(line for line in lines[start:] if line.strip().startswith(text))
        return line.rpartition("  # ")[2]

    assert origin("learning_rate: 0.0001", "rl:") == "command line 'stages.rl.learning_rate=1e-4'"
    assert origin("temperature: 1.5", "rl:") == "recipe.yaml:17"
    assert origin("gamma: 1.0") == "default"
    assert origin("recipe: printed") == "ground.yaml:1"
    assert origin("prompts_per_step: 4") == "recipe.yaml:11"
    assert origin("batch_size: 2", "rl:") == "inherited from rollout.batch_size (ground.yaml:3)"
    assert origin("optim: sgd") == "recipe.yaml:5"
    assert origin("n: 2", "a-b:") == "inherited from stages.ev.n (recipe.yaml:15)"
    assert origin("seed: 0") == "default"
    valued = [line for line in lines if re.match(r"\s*\S+: \S", line)]
    assert len(valued) > 100 and all("  # " in line for line in valued)


def test_nothing_is_written(recipe):
    before = sorted(recipe.parent.iterdir())
    CliRunner().invoke(main, ["train", "recipe.yaml", "--print-config"])
    assert sorted(recipe.parent.iterdir()) == before


def test_dumping_a_weighted_reward_warns_of_nothing(recipe):
    """The stages dump their config when they build the reward: pydantic's warning stood in the middle of a run."""
    stage = load_recipe(recipe).recipe.stages["rl"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terms = stage.model_dump(mode="python")["reward"]
    assert terms == [{"name": "math", "weight": 2.0, "args": {}}, {"name": "format", "weight": 1.0, "args": {}}]
