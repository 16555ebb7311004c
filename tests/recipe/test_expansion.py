"""Loops unrolled, references resolved to stage instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonrl.errors import RecipeError
from reasonrl.recipe import DataSource, Recipe, Reference, expand_stages, load_recipe

LOOP = """\
model: tiny:qwen2
data: {train: {world: arithmetic, n: 8}}
stages:
  warm: {kind: sft, model: tiny:qwen2, data: "${data.train}", max_steps: 5}
  train: {kind: sft, model: "${previous:train,FALLBACK}", data: "${data.train}", max_steps: 5}
  check: {kind: eval, model: "${stage:train}", max_tokens: 4, suites: {a: {data: "${data.train}"}}}
  final: {kind: eval, model: "${stage:train}", max_tokens: 4, suites: {a: {data: "${data.train}"}}}
  first: {kind: eval, model: "${stage:train.1}", max_tokens: 4, suites: {a: {data: "${data.train}"}}}
  table: {kind: compare, rows: {last: "${stage:check}", final: "${stage:final}"}, baseline: last}
loop: {stages: [train, check], times: 3}
"""


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path).recipe


@pytest.mark.parametrize(
    ("fallback", "model"),
    [
        (",${stage:warm}", Reference("warm")),
        (",${model}", "tiny:qwen2"),
        ("", "tiny:qwen2"),
        (",org/other", "org/other"),
    ],
)
def test_loop(tmp_path, fallback, model):
    recipe = load(tmp_path, LOOP.replace(",FALLBACK", fallback))
    instances = {one.name: one for one in expand_stages(recipe)}
    assert list(instances) == [
        *("warm", "train.1", "check.1", "train.2", "check.2", "train.3", "check.3"),
        *("final", "first", "table"),
    ]
    assert instances["train.1"].config.model == model
    assert instances["train.2"].config.model == Reference("train.1")
    assert instances["train.3"].config.model == Reference("train.2")
    assert [instances[f"check.{turn}"].config.model for turn in (1, 2, 3)] == [
        Reference(f"train.{turn}") for turn in (1, 2, 3)
    ]
    assert instances["final"].config.model == Reference("train.3")
    assert instances["first"].config.model == Reference("train.1")
    assert instances["table"].config.rows == {"last": Reference("check.3"), "final": Reference("final")}
    assert instances["table"].inputs == (Reference("check.3"), Reference("final"))
    assert instances["train.1"].inputs == ((model,) if isinstance(model, Reference) else ())


def test_previous_data_falls_back_to_a_source():
    """Data from a stage is for kinds to come; the fallback of pass 1 is a source already."""
    from reasonrl.recipe.expansion import StageGraph, _follow

    graph = StageGraph({"sample": "rollout", "train": "sft"}, ("sample", "train"), 2)
    reference = Reference.parse("${previous:sample,${data.train}}")
    source = DataSource(world="arithmetic", n=4)
    assert _follow(graph, reference, "data", "train", 1, None, {"train": source}) is source
    assert _follow(graph, reference, "data", "train", 2, None, {"train": source}) == Reference("sample.1")


@pytest.mark.parametrize(
    ("swap", "message", "fix"),
    [
        (("${previous:train,FALLBACK}", "${stage:check}"), "makes no model", "warm, train"),
        (("${previous:train,FALLBACK}", "${previous:check}"), "makes no model", "warm, train"),
        (("${previous:train,FALLBACK}", "${stage:train}"), "its own stage", "use ${previous:train}"),
        (("${previous:train,FALLBACK}", "${stage:train.1}"), "from inside the loop", "${previous:train}"),
        (("${previous:train,FALLBACK}", "${previous:warm}"), "'warm' is not in a loop", "train, check"),
        (("${previous:train,FALLBACK}", "${previous:train,${data.train}}"), "takes a model", "train"),
        (("${stage:train.1}", "${stage:train.4}"), "no pass 4", "1 to 3"),
        (("[train, check]", "[check, train]"), "next to each other", "warm, train, check"),
        (("model: tiny:qwen2\n", "seed: 1\n"), "no previous pass", "second argument"),
        (("${stage:train}", "${stage:train@all}"), "means several models", "@step=N"),
    ],
)
def test_refused(tmp_path, swap, message, fix):
    text = LOOP.replace(*swap, 1).replace(",FALLBACK", "")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    told = [problem for problem in caught.value.problems if message in problem.message]
    assert told, str(caught.value)
    assert fix in told[0].fix


def test_a_recipe_built_in_code_is_checked_too():
    stage = {"kind": "eval", "model": "${stage:nowhere}", "max_tokens": 3, "suites": {"a": {"data": {"world": "x"}}}}
    recipe = Recipe.model_validate({"recipe": "x", "stages": {"a": stage}})
    with pytest.raises(RecipeError, match="nowhere"):
        expand_stages(recipe)


@pytest.mark.parametrize(
    "text",
    [
        "${stage:rl}",
        "${stage:rl.critic}",
        "${stage:rl@step=300}",
        "${stage:rl.critic@step=3}",
        "${stage:rl@all}",
        "${stage:train.2}",
        "${previous:train}",
        "${previous:train,${model}}",
        "${previous:train.critic,${stage:a.critic@step=3}}",
    ],
)
def test_reference_texts_round_trip(text):
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["${stage:}", "${stage:a b}", "${stage:a@step=x}", "${stage:a,b}", "${previous:a,}", "stage:a"]
)
def test_what_is_no_reference(text):
    with pytest.raises(ValueError, match="allowed"):
        Reference.parse(text)


REWARDED = """\
data: {train: {world: arithmetic, n: 8}}
stages:
  rl: {kind: ppo, model: tiny:qwen2, data: "${data.train}", max_steps: 5, prompts_per_step: 2,
       max_completion_length: 8, reward: REWARD}
"""


def test_a_list_of_rewards_takes_bare_names(tmp_path):
    recipe = load(tmp_path, REWARDED.replace("REWARD", "[math, {name: stop, weight: 0.5}]"))
    assert [(term["name"], term["weight"]) for term in recipe.stages["rl"].reward] == [("math", 1.0), ("stop", 0.5)]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("[math, stpo]", ("stages.rl.reward.1", "there is no reward 'stpo'", "did you mean 'stop'?")),
        ("[math, length_band]", ("stages.rl.reward.1.args.max_tokens", "is needed by the reward 'length_band'")),
        ("[math, 5]", ("stages.rl.reward.1", "is 5; allowed: a reward's name, or a mapping of name, weight and args")),
        ('[math, ""]', ("stages.rl.reward.1.name",)),
        ("[math, mine.py:f]", ("stages.rl.reward.1", "there is no file")),
    ],
)
def test_a_bad_name_in_a_list_of_rewards_is_said(tmp_path, reward, said):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, REWARDED.replace("REWARD", reward))
    assert all(part in str(caught.value) for part in said), str(caught.value)
