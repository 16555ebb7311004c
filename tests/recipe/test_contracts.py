"""Tables that the recipe floor keeps of things it must not import, held to the things themselves."""

from __future__ import annotations

import importlib
import inspect
from typing import get_args

import pytest

from reasonrl.errors import RewardError
from reasonrl.recipe import names
from reasonrl.recipe.generate_trl_fields import TABLE, build_table, render
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.stage_base import Scheduler, TrainingStage
from reasonrl.recipe.stages import STAGES, SFTStage
from reasonrl.recipe.trl_args import OPERATIONAL_ARGS, owned_args, passing_args, trl_table


def test_the_trl_table_is_that_of_the_installed_trl():
    pytest.importorskip("trl")
    assert TABLE.read_text(encoding="utf-8") == render(build_table()), (
        "run python -m reasonrl.recipe.generate_trl_fields"
    )


def test_owned_and_operational_arguments_exist():
    table = trl_table()
    for stage in (SFTStage, PPOStage):
        config = stage.trl_config
        assert set(owned_args(config)) <= set(table[config]) | set(table["SFTConfig"])
        assert not set(passing_args(config)) & set(owned_args(config))
    assert set(table["SFTConfig"]) >= OPERATIONAL_ARGS


def test_our_defaults_where_names_are_trls():
    """A leaf that has TRL's name takes the same type of value."""
    words = {"bool": bool, "int": int, "float": (int, float), "str": str}
    for stage in (SFTStage, PPOStage):
        for name, entry in trl_table()[stage.trl_config].items():
            if name in stage.model_fields and not stage.model_fields[name].is_required():
                default = stage.model_fields[name].default
                if default is not None:
                    assert any(isinstance(default, words[kind]) for kind in entry["types"] if kind in words), name


def test_schedulers_are_among_transformers():
    choices = set(trl_table()["SFTConfig"]["lr_scheduler_type"]["choices"])
    assert set(Scheduler.__args__) <= choices


def test_passing_arguments_reach_the_config_of_trl():
    """Every argument that passes with its default is one that the real config takes."""
    trl = pytest.importorskip("trl")
    for stage in (SFTStage, PPOStage):
        config = getattr(trl, stage.trl_config)
        defaults = {name: trl_table()[stage.trl_config][name]["default"] for name in passing_args(stage.trl_config)}
        config(output_dir="unused", bf16=False, use_cpu=True, **{k: v for k, v in defaults.items() if k != "bf16"})


def test_aggregations_of_step_scores_are_those_of_the_reward_model():
    from reasonrl.prm.aggregation import AGGREGATIONS
    from reasonrl.recipe.prm_eval_stage import Aggregation

    assert get_args(Aggregation) == AGGREGATIONS


def test_rewards_are_the_registrys():
    registry = pytest.importorskip("reasonrl.rewards.registry")
    assert set(names.REWARDS) == set(registry.BUILT_IN)
    for name in registry.BUILT_IN:
        parameters = inspect.signature(registry.built_in_class(name)).parameters
        own = {key: value for key, value in parameters.items() if key not in registry.GIVEN}
        assert names.REWARDS[name] == set(own), name
        needed = {key for key, value in own.items() if value.default is inspect.Parameter.empty}
        assert names.REQUIRED_ARGS.get(name, frozenset()) == needed, name


def test_words_of_reward_arguments_are_those_of_the_rewards():
    """Every word of the table is taken, and no other."""
    registry = pytest.importorskip("reasonrl.rewards.registry")
    base = {"length_band": {"max_tokens": 4}, "cosine": {"max_tokens": 4}, "exact": {"pattern": "x"}}
    for (name, argument), words in names.ARG_CHOICES.items():
        for word in words:
            registry.get_reward({"name": name, "args": {**base.get(name, {}), argument: word}})
        with pytest.raises(RewardError, match=f"(?s){argument}.*allowed: {', '.join(sorted(words))}"):
            registry.get_reward({"name": name, "args": {**base.get(name, {}), argument: "no such word"}})


def test_worlds_are_the_registrys():
    worlds = pytest.importorskip("reasonrl.data_tools.worlds")
    assert set(names.WORLDS) == set(worlds.BUILT_IN)
    for name, world in worlds.BUILT_IN.items():
        parameters = inspect.signature(world().rows).parameters
        assert names.WORLDS[name] == set(parameters) - {"n", "split", "seed"}, name


def test_readers_are_those_of_the_data_room():
    files = pytest.importorskip("reasonrl.data_tools.files")
    assert set(files._READERS) == names.READERS


def test_tiny_models_are_those_of_the_model_room():
    tiny = pytest.importorskip("reasonrl.models.tiny")
    assert set(names.TINY_MODELS) == {f"tiny:{architecture}" for architecture in tiny.ARCHITECTURES}
    for name, sizes in names.TINY_MODELS.items():
        assert sizes == set(tiny.parse_tiny(name))


def test_suites_are_the_registrys():
    try:
        suites = importlib.import_module("reasonrl.eval.suites")
    except ImportError:
        pytest.skip("no registry of suites in this version")
    if hasattr(suites, "BUILT_IN"):
        assert set(names.SUITES) == set(suites.BUILT_IN)


def test_every_kind_has_a_stage_module():
    stages = pytest.importorskip("reasonrl.pipeline.stages")
    assert stages is not None
    for kind, model in STAGES.items():
        assert model.model_fields["kind"].default == kind
        assert importlib.util.find_spec(f"reasonrl.pipeline.stages.{kind}") is not None
        assert issubclass(model, TrainingStage) is (kind in ("sft", "ppo", "dpo"))
