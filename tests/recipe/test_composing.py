"""Composing: base files < recipe < arm < command line, interpolation, inheritance, origins."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from reasonrl.errors import RecipeError
from reasonrl.recipe import Reference, composed_yaml, load_recipe, load_runs
from reasonrl.recipe.yaml_files import parse_yaml

STAGES = """\
stages:
  sft: {kind: sft, model: tiny:qwen2, data: "${data.train}", max_steps: 5}
"""
DATA = "data: {train: {world: arithmetic, n: 8, args: {operations: 2, modulus: 10}}}\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    return folder / "recipe.yaml"


def test_layers_win_in_order(tmp_path):
    path = write(
        tmp_path,
        ground="seed: 1\nrollout: {batch_size: 1, max_batch_tokens: 10}\nmodel: ground\nreport_to: [wandb, trackio]\n",
        middle="base: ground.yaml\nseed: 2\nrollout: {batch_size: 2}\n",
        recipe="base: [middle.yaml]\nmodel: mine\nreport_to: [tensorboard]\n"
        + DATA
        + STAGES
        + "arms: {a: {seed: 3, model: arm, stages.sft.max_steps: 6}}\n",
    )
    plain = load_recipe(path)
    assert (plain.recipe.seed, plain.recipe.model, plain.recipe.rollout.batch_size) == (2, "mine", 2)
    assert plain.recipe.rollout.max_batch_tokens == 10
    assert plain.recipe.report_to == ("tensorboard",)  # lists replace
    assert plain.origins["seed"].file.endswith("middle.yaml") and plain.origins["seed"].line == 2
    assert plain.origins["rollout.max_batch_tokens"].file.endswith("ground.yaml")
    assert plain.origins["model"].line == 2
    arm = load_recipe(path, ["stages.sft.max_steps=7"], arm="a")
    assert (arm.recipe.seed, arm.recipe.model, arm.recipe.stages["sft"].max_steps) == (3, "arm", 7)
    assert arm.origins["stages.sft.max_steps"].token == "stages.sft.max_steps=7"
    assert arm.origins["seed"].line == 7
    assert load_recipe(path, ["seed=9"], arm="a", seed=4).recipe.seed == 4


def test_the_plain_composition_is_what_omegaconf_makes_of_it(tmp_path):
    """Independent oracle: OmegaConf's own merge and resolution of the same layers."""
    ground = (
        "seed: 1\nlaunch: {num_processes: 2}\ndata: {train: {world: arithmetic, n: 8, args: {operations: [1, 2]}}}\n"
    )
    recipe = (
        "base: ground.yaml\nrecipe: both\ndata: {train: {n: 16, args: {modulus: 5}}}\noutput: out/${recipe}/${seed}\n"
        + STAGES
    )
    path = write(tmp_path, ground=ground, recipe=recipe)
    tokens = ["data.train.args.operations=[3]", "stages.sft.learning_rate=1e-4"]
    merged = OmegaConf.merge(OmegaConf.create(ground), OmegaConf.create(recipe), OmegaConf.from_dotlist(tokens))
    expected = OmegaConf.to_container(merged, resolve=True)
    tree = load_recipe(path, tokens).tree
    tree["stages"]["sft"].pop("launch")  # inherited, which OmegaConf knows nothing of
    assert tree == expected


def test_an_override_of_an_interpolated_mapping_changes_a_copy(tmp_path):
    path = write(tmp_path, recipe=DATA + STAGES)
    recipe = load_recipe(path, ["stages.sft.data.n=32", "data.train.args.modulus=7"])
    data = recipe.recipe.stages["sft"].data
    assert (data.n, data.args["modulus"]) == (32, 7)  # the copy follows later changes of what it copies
    assert recipe.recipe.data["train"].n == 8
    assert recipe.origins["stages.sft.data.n"].token == "stages.sft.data.n=32"
    assert recipe.origins["stages.sft.data.world"].line == 1


def test_arms_nested_and_dotted_are_the_same(tmp_path):
    arms = (
        "arms:\n  dotted: {stages.sft.data.args.modulus: 3}\n  nested: {stages: {sft: {data: {args: {modulus: 3}}}}}\n"
    )
    path = write(tmp_path, recipe=DATA + STAGES + arms)
    dotted, nested = (load_recipe(path, arm=arm).recipe for arm in ("dotted", "nested"))
    assert dotted.stages == nested.stages
    assert dotted.arms["dotted"] == dotted.arms["nested"]
    assert load_recipe(path, arm="default").recipe == load_recipe(path).recipe


def test_stages_inherit(tmp_path):
    path = write(
        tmp_path,
        recipe=DATA
        + """\
model: tiny:qwen2
rollout: {batch_size: 4}
launch: {num_processes: 2}
stages:
  rl: {kind: ppo, reward: math, prompts_per_step: 4, max_completion_length: 8, max_steps: 1, launch: {num_processes: 1}}
  ev: {kind: eval, max_tokens: 9, n: 3, suites: {a: {data: "${data.train}"}, b: {data: "${data.train}", n: 5}}}
""",
    )
    resolved = load_recipe(path)
    rl, ev = resolved.recipe.stages["rl"], resolved.recipe.stages["ev"]
    assert (rl.model, rl.rollout.batch_size, rl.launch.num_processes, rl.data.n) == ("tiny:qwen2", 4, 1, 8)
    assert (ev.suites["a"].max_tokens, ev.suites["a"].n, ev.suites["b"].n, ev.launch.num_processes) == (9, 3, 5, 2)
    origin = resolved.origins["stages.rl.model"]
    assert (origin.kind, origin.source, origin.line) == ("inherited", "model", 2)
    assert resolved.origins["stages.ev.suites.a.n"].source == "stages.ev.n"
    assert resolved.origins["stages.ev.suites.b.n"].kind == "file"


def test_a_gate_on_results_does_not_inherit_data(tmp_path):
    stages = """stages:
  look: {kind: eval, suites: {t: {data: "${data.train}", max_tokens: 8}}}
  on_results: {kind: gate, results: "${stage:look}", bounds: {t/accuracy: [null, 0.2]}}
  on_rows: {kind: gate, figures: worksheet, bounds: {n: [1, null]}}
"""
    head = "recipe: r\nmodel: tiny:qwen2\ndata: {train: {world: worksheet, n: 4}}\n"
    path = write(tmp_path, recipe=head + stages)
    gates = load_recipe(path).recipe.stages
    assert gates["on_results"].data is None and gates["on_rows"].data.world == "worksheet"


def test_evaluations_do_not_inherit_what_is_for_training(tmp_path):
    path = write(
        tmp_path,
        recipe="model: tiny:qwen2\nrollout: {engine: vllm, max_logprob_gap: 0.1, length_aware: true, batch_size: 3}\n"
        + DATA
        + "stages:\n  look: {kind: eval, max_tokens: 8, suites: {t: {data: '${data.train}', n: 1}}}\n",
    )
    rollout = load_recipe(path).recipe.stages["look"].rollout
    assert (rollout.engine, rollout.batch_size) == ("vllm", 3)
    assert rollout.max_logprob_gap is None and rollout.length_aware is False


def test_an_inherited_mistake_is_told_once_where_it_is_written(tmp_path):
    path = write(tmp_path, recipe=DATA + STAGES + "launch: {num_processes: 0}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert problem.key == "launch.num_processes" and problem.origin.endswith("recipe.yaml:4")


def test_resolvers_and_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOW_MANY", "12")
    path = write(
        tmp_path,
        recipe=STAGES
        + "data: {train: {world: arithmetic, n: '${oc.decode:${oc.env:HOW_MANY}}', system_prompt: 'a \\${b}'}}\n"
        + "output: ${oc.env:NOT_SET,elsewhere}/${recipe}\n",
    )
    recipe = load_recipe(path).recipe
    assert recipe.data["train"].n == 12 and recipe.output == f"elsewhere/{tmp_path.name}"
    assert recipe.data["train"].system_prompt == "a ${b}"


def test_yaml_numbers_and_words(tmp_path):
    """1e-4 is a number, a time and a date are texts, and anchors work."""
    text = (
        "model: &m tiny:qwen2\n"
        + DATA
        + """\
stages:
  a: &a {kind: sft, model: *m, data: "${data.train}", learning_rate: 1e-4, max_steps: 1_000}
  b: {<<: *a, max_steps: 2}
"""
    )
    stages = load_recipe(write(tmp_path, recipe=text)).recipe.stages
    assert stages["a"].learning_rate == 1e-4 and stages["a"].max_steps == 1000
    assert stages["b"].learning_rate == 1e-4 and stages["b"].max_steps == 2
    override = load_recipe(tmp_path / "recipe.yaml", ["data.train.system_prompt=12:30", "recipe=2024-01-01"]).recipe
    assert override.data["train"].system_prompt == "12:30" and override.recipe == "2024-01-01"


def test_references_stay_texts_in_the_tree(tmp_path):
    path = write(
        tmp_path,
        recipe=DATA
        + STAGES.replace("max_steps: 5", "max_steps: 5, save_steps: 3")
        + '  more: {kind: sft, model: "${stage:sft@step=3}", data: "${data.train}", max_cpu_seconds: "${stage:sft}"}\n',
    )
    resolved = load_recipe(path)
    assert resolved.tree["stages"]["more"]["model"] == "${stage:sft@step=3}"
    assert resolved.recipe.stages["more"].model == Reference("sft", step=3)
    assert resolved.recipe.stages["more"].max_cpu_seconds == Reference("sft")


def test_the_composed_tree_loads_as_the_same_recipe(tmp_path):
    """What the pipeline writes into the run directory as config.yaml."""
    odd = "data: {train: {world: arithmetic, n: 8, system_prompt: '1e-4', template: '\\${x} {problem}: # no'}}\n"
    path = write(tmp_path, recipe=odd + STAGES + "arms: {a: {stages.sft.max_steps: 9, stages.sft.model: '${model}'}}\n")
    resolved = load_recipe(path, ["seed=3", "output=12:30", "model='0x1f'"], arm="a")
    (tmp_path / "config.yaml").write_text(composed_yaml(resolved.tree))
    again = load_recipe(tmp_path / "config.yaml")
    assert again.recipe == resolved.recipe and again.tree == resolved.tree
    assert (again.recipe.data["train"].system_prompt, again.recipe.output) == ("1e-4", "12:30")
    assert again.recipe.data["train"].template == "${x} {problem}: # no"


def test_nothing_travels_that_can_be_changed(tmp_path):
    recipe = load_recipe(write(tmp_path, recipe=DATA + STAGES)).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.stages["sft"].learning_rate = 1.0


def test_custom_functions_are_found_in_the_base_directory(tmp_path):
    stage = "  rl: {kind: ppo, model: tiny:qwen2, data: '${data.train}', reward: 'mine.py:f', prompts_per_step: 2,"
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, recipe=DATA + STAGES + stage + " max_completion_length: 4, max_steps: 1}\n")
    (tmp_path / "elsewhere" / "mine.py").write_text("def f(completions):\n    return []\n")
    with pytest.raises(RecipeError, match="there is no file"):
        load_recipe(path)
    assert load_recipe(path, base_directory=tmp_path / "elsewhere").recipe.stages["rl"].reward == "mine.py:f"


def test_the_runs_of_a_study_are_those_that_load_one_by_one(tmp_path):
    arms = "arms: {hot: {model: arm, stages.sft.max_steps: 6}, cold: {model: ice}}\n"
    recipe = write(tmp_path, recipe="model: ground\n" + DATA + STAGES + arms)
    pairs = [("default", 0), ("hot", 0), ("hot", 3)]
    together = load_runs(recipe, ["seed=2"], pairs)
    for arm, seed in pairs:
        alone = load_recipe(recipe, ["seed=2"], arm=arm, seed=seed)
        assert composed_yaml(together[arm, seed].tree) == composed_yaml(alone.tree)
        assert together[arm, seed].recipe == alone.recipe
    with pytest.raises(RecipeError, match="no arm 'warm'"):
        load_runs(recipe, [], [("warm", 0)])
    with pytest.raises(RecipeError, match=r"stages\.sft\.max_steps"):
        load_runs(recipe, ["stages.sft.max_steps=-1"], pairs)


def test_what_a_study_overrides_is_checked_with_the_recipe_and_lies_under_the_command_line(tmp_path):
    studies = "studies: {{s: {{overrides: ['stages.sft.max_steps={}', 'model=small']}}}}\n"
    good = write(tmp_path, recipe="model: ground\n" + DATA + STAGES + studies.format(3))
    assert load_recipe(good).recipe.model == "ground"
    assert load_recipe(good).recipe.studies["s"].overrides == ("stages.sft.max_steps=3", "model=small")
    bad = write(tmp_path, recipe="model: ground\n" + DATA + STAGES + studies.format(-3))
    with pytest.raises(RecipeError, match=r"stages\.sft\.max_steps"):
        load_recipe(bad)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nb: &b {n: 1, args: {<<: *a, y: 3}}\nc: {<<: *b, n: 2}\nd: *b\n",
        "a: &a {x: 1, y: 2}\nb: {<<: &b {<<: *a, y: 3}, x: 4}\nc: *b\nd: [*b, {<<: [*a, *b]}]\n",
    ],
)
def test_mappings_that_lay_over_others_may_be_named_again(text):
    """Independent oracle: PyYAML's own reading."""
    layer = parse_yaml(text, "recipe.yaml")
    assert layer.problems == [] and layer.tree == yaml.safe_load(text)
    for again, key in (("e: {x: 1, x: 2, <<: *a}\n", "e.x"), ("e: {k: &k {x: 1, x: 2}, <<: *k}\n", "e.k.x")):
        assert [problem.key for problem in parse_yaml(text + again, "recipe.yaml").problems] == [key]
