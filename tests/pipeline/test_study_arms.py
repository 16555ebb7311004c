"""What an arm changes, as a study says it at its start."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.pipeline.study_arms import arm_changes
from reasonrl.recipe import load_recipe

RECIPE = """
recipe: arms
model: tiny:qwen2
data:
  train: {world: arithmetic, n: 64, args: {operations: 2}}
  quiz: {world: arithmetic, split: test, n: 8}
  other: {world: arithmetic, n: 16}
stages:
  train: {kind: sft, max_steps: 2}
  more: {kind: sft, model: "${stage:train}", max_steps: 2, trl_args: {neftune_noise_alpha: 0.1}}
  exam:
    kind: eval
    model: "${stage:more}"
    max_tokens: 4
    reward: {name: gate, args: {parts: [stop, {name: exact, args: {pattern: '#([0-9 ]{1,40})$'}}]}}
    suites: {quiz: {data: "${data.quiz}"}}
arms:
  faster: {stages.train.learning_rate: 0.01}
  fewer: {data.train.n: 32}
  merged: {stages.more.trl_args: {adam_epsilon: 1.0e-6}}
  elsewhere: {stages.train.data: "${data.other}"}
  stricter: {stages.exam.reward.args.parts: [stop, {name: exact, args: {pattern: '#([0-9 ]{1,20})$'}}]}
studies:
  all: {arms: [default, faster, fewer], seeds: [3]}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "arms.yaml"
    path.write_text(RECIPE)
    return path


def changes(path, arm):
    return arm_changes(load_recipe(path).recipe, load_recipe(path, arm=arm, seed=5).recipe)


def test_the_main_recipe_changes_nothing_whatever_the_seed(recipe):
    assert changes(recipe, "default") == []


def test_a_value(recipe):
    default = load_recipe(recipe).recipe.stages["train"].learning_rate
    assert changes(recipe, "faster") == [f"stages.train.learning_rate: {default} -> 0.01"]


def test_data_that_several_stages_read_is_told_once(recipe):
    assert changes(recipe, "fewer") == ["stages.{train,more}.data.n: 64 -> 32"]


def test_what_a_merged_mapping_keeps_is_shown(recipe):
    assert changes(recipe, "merged") == [
        'stages.more.trl_args: {"neftune_noise_alpha": 0.1} -> {"neftune_noise_alpha": 0.1, "adam_epsilon": 1e-06}'
    ]


def test_other_data(recipe):
    assert changes(recipe, "elsewhere") == [
        'stages.train.data.args: {"operations": 2} -> {}',
        "stages.train.data.n: 64 -> 16",
    ]


def test_only_what_differs_in_a_long_list(recipe, monkeypatch):
    monkeypatch.setattr("reasonrl.pipeline.study_arms.WIDEST", 60)
    change = 'reward.args.parts[1].args.pattern: "#([0-9 ]{1,40})$" -> "#([0-9 ]{1,20})$"'
    assert changes(recipe, "stricter") == [f"stages.exam.{place}{change}" for place in ("suites.quiz.", "")]


def test_a_study_says_it_before_anything_is_run(recipe, tmp_path):
    done = CliRunner().invoke(
        main,
        ["train", str(recipe), "--study", "all", "--dry-run", f"output={tmp_path / 'out'}"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    head = done.stdout.partition("study all, run 1 of 3")[0]
    assert "study all, arm fewer: stages.{train,more}.data.n: 64 -> 32" in head
    assert "study all, arm faster: stages.train.learning_rate: " in head
    assert "arm default" not in head
