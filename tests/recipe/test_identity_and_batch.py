"""Identity, operational and extensible fields; the identity key; batch arithmetic."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.recipe import (
    EvalStage,
    LaunchConfig,
    PPOStage,
    RolloutConfig,
    SFTStage,
    extensible_of,
    identity_key,
    identity_of,
    plan_batch,
)
from reasonrl.recipe.fields import FieldClass, field_class

DATA = {"world": "arithmetic", "n": 8}
PPO = {
    "model": "tiny:qwen2",
    "data": DATA,
    "reward": "math",
    "prompts_per_step": 8,
    "max_completion_length": 8,
    "max_steps": 3,
}


def marked(model: type, wanted: FieldClass) -> set[str]:
    return {name for name in model.model_fields if field_class(model, name) is wanted}


def test_which_fields_are_what():
    assert marked(SFTStage, FieldClass.OPERATIONAL) == {
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "padding_free",
    }
    assert marked(SFTStage, FieldClass.EXTENSIBLE) == {"max_steps"}
    assert marked(PPOStage, FieldClass.OPERATIONAL) == {
        "save_steps",
        "save_total_limit",
        "tokens_per_microbatch",
        "track_behaviours",
        "padding_free",
        "log_completions_steps",
        "stop_on",
    }
    assert marked(PPOStage, FieldClass.EXTENSIBLE) == {"max_steps"}
    assert marked(LaunchConfig, FieldClass.OPERATIONAL) == LaunchConfig.model_fields.keys() - {"limits"}
    assert marked(RolloutConfig, FieldClass.IDENTITY) == {"engine", "dtype"}
    assert marked(RolloutConfig, FieldClass.EXTENSIBLE) == set()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"max_steps": 9}, True),
        ({"tokens_per_microbatch": 64}, True),
        ({"rollout": {"batch_size": 2}}, True),
        ({"rollout": {"engine": "vllm"}}, False),
        ({"launch": {"num_processes": 2}}, True),
        ({"dataloader_num_workers": 2}, True),
        ({"learning_rate": 2e-6}, False),
        ({"optim": "sgd"}, False),
        ({"data": {"world": "arithmetic", "n": 9}}, False),
        ({"reward": "format"}, False),
        ({"model": "${stage:sft}"}, False),
        ({"prompts_per_step": 16}, False),
        ({"rollout": {"own_copy": True}}, True),
        ({"max_staleness": 1, "rollout": {"own_copy": True}}, False),
        ({"vllm_importance_sampling_correction": True}, False),
        ({"train_while_generating": True, "advantage": "group", "num_generations": 2}, False),
    ],
)
def test_what_changes_the_identity_of_ppo(change, same):
    before, after = (identity_of(PPOStage.model_validate({**PPO, **extra})) for extra in ({}, change))
    assert (before == after) is same
    assert (identity_key(before, ["a"]) == identity_key(after, ["a"])) is same


def judged(workers=1, **endpoint):
    asked = {"base_url": "http://127.0.0.1:1/v1", "model": "judge", **endpoint}
    parts = [{"name": "math", "args": {"workers": workers}}, {"name": "llm_verifier", "args": {"endpoint": asked}}]
    return {"reward": {"name": "gate", "args": {"parts": parts}}}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"workers": 3}, True),
        ({"base_url": "http://127.0.0.1:2/v1"}, True),
        ({"max_concurrency": 64, "timeout": 9.0}, True),
        ({"model": "another"}, False),
        ({"extra_body": {"top_k": 1}}, False),
    ],
)
def test_where_and_how_fast_rewards_are_computed_is_no_identity(change, same):
    before, after = (identity_of(PPOStage.model_validate({**PPO, **judged(**extra)})) for extra in ({}, change))
    assert (before == after) is same
    assert "judge" in str(before)


def test_a_bare_name_in_a_list_of_rewards_is_a_mapping_of_it():
    spellings = ["math", "stop"], [{"name": "math"}, "stop"], [{"name": "math"}, {"name": "stop", "weight": 1.0}]
    stages = [PPOStage.model_validate({**PPO, "reward": list(reward)}) for reward in spellings]
    keys = {identity_key(identity_of(stage), ["a"]) for stage in stages}
    assert len(keys) == 1
    assert stages[0].reward == [{"name": name, "weight": 1.0, "args": {}} for name in ("math", "stop")]
    weighted = PPOStage.model_validate({**PPO, "reward": ["math", {"name": "stop", "weight": 0.5}]})
    assert identity_key(identity_of(weighted), ["a"]) not in keys


def test_arguments_of_a_reward_of_ones_own_are_its_identity():
    own = [{"reward": {"name": "mine.py:f", "args": {"workers": workers}}} for workers in (1, 2)]
    one, two = (identity_of(PPOStage.model_validate({**PPO, **extra})) for extra in own)
    assert one != two


def test_sft_knows_its_global_batch():
    """More processes mean more sequences a step, which changes the result of SFT."""
    base = {"model": "m", "data": DATA}
    one = identity_of(SFTStage.model_validate(base))
    two = identity_of(SFTStage.model_validate({**base, "launch": {"num_processes": 2}}))
    assert (one["global_batch_size"], two["global_batch_size"]) == (8, 16)


def test_eval_suites_may_grow_and_defaults_do_not_count_twice():
    suites = {"a": {"data": DATA, "n": 4, "max_tokens": 5}}
    flat = EvalStage.model_validate({"model": "m", "suites": suites})
    staged = EvalStage.model_validate({"model": "m", "n": 4, "max_tokens": 5, "suites": {"a": {"data": DATA}}})
    assert extensible_of(flat) == extensible_of(staged) == {"suites.a.n": 4, "suites.a.metrics": ()}
    assert identity_of(flat) == identity_of(staged)
    more = EvalStage.model_validate({"model": "m", "suites": {"a": {**suites["a"], "n": 8}}})
    assert identity_of(more) == identity_of(flat)
    assert extensible_of(more) == {"suites.a.n": 8, "suites.a.metrics": ()}


def test_references_are_texts_and_everything_is_json():
    identity = identity_of(PPOStage.model_validate({**PPO, "model": "${stage:sft.2@step=4}".replace(".2", "")}))
    assert identity["model"] == "${stage:sft@step=4}"
    assert json.loads(json.dumps(identity)) == identity


def test_the_key_is_the_same_in_every_process_and_order():
    identity = {"b": [1, 2.5, None], "a": {"y": "é", "x": True}}
    shuffled = {"a": {"x": True, "y": "é"}, "b": [1, 2.5, None]}
    code = f"from reasonrl.recipe import identity_key; print(identity_key({shuffled!r}, ['k', 'l']))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    key = identity_key(identity, ["k", "l"])
    assert key == other
    assert (
        len({key, identity_key(identity, ["l", "k"]), identity_key(identity, ["k"]), identity_key({}, ["k", "l"])}) == 4
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_is_no_json_has_no_key(value):
    with pytest.raises(ValueError, match="JSON"):
        identity_key({"x": value}, [])


@given(*[st.integers(1, 12)] * 5)
def test_batch_plan_splits_evenly_or_refuses(prompts, samples, processes, critic, actor):
    """Independent oracle: deal the samples out one by one."""
    total = prompts * samples
    shares = [[len(range(part, total, count)) for part in range(count)] for count in (processes, critic, actor)]
    if any(len(set(share)) > 1 or 0 in share for share in shares):
        with pytest.raises(ValueError, match="does not divide the samples of a step"):
            plan_batch(prompts, samples, num_processes=processes, critic_steps=critic, actor_steps=actor)
        return
    plan = plan_batch(
        prompts, samples, num_processes=processes, critic_steps=critic, actor_steps=actor, num_iterations=3
    )
    assert [plan.samples_per_process, plan.samples_per_critic_step, plan.samples_per_actor_step] == [
        share[0] for share in shares
    ]
    assert plan.actor_optimizer_steps == 3 * actor


def test_the_fix_of_a_bad_split_is_a_good_split():
    for prompts, samples, critic in itertools.product(range(1, 9), range(1, 5), range(1, 9)):
        try:
            plan_batch(prompts, samples, critic_steps=critic)
        except ValueError:
            stage = {**PPO, "prompts_per_step": prompts, "num_generations": samples, "critic_steps": critic}
            with pytest.raises(ValueError) as caught:
                PPOStage.model_validate(stage)
            fix = caught.value.errors()[0]["ctx"]["fix"]
            steps, more = (int(word) for word in fix.replace(",", "").split() if word.isdigit())
            plan_batch(prompts, samples, critic_steps=steps)
            plan_batch(more, samples, critic_steps=critic)


def test_one_line():
    line = str(plan_batch(128, 2, num_processes=2, critic_steps=4, actor_steps=1, num_iterations=2))
    assert line == (
        "128 prompts x 2 samples = 256 samples a step / 2 processes = 128 each"
        " -> 4 critic steps of 64 samples, 1 policy step of 256 samples x 2 passes"
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"max_staleness": 1, "rollout": {"engine": "vllm"}},
        {"max_staleness": 1, "rollout": {"engine": "servers", "start": 1}},
        {"max_staleness": 1, "rollout": {"own_copy": True}, "vllm_importance_sampling_mode": "sequence_mask"},
        {
            "max_staleness": 1,
            "rollout": {"own_copy": True},
            "vllm_importance_sampling_correction": False,
            "top_p": 0.9,
        },
        {
            "vllm_importance_sampling_correction": True,
            "vllm_importance_sampling_clip_max": None,
            "vllm_importance_sampling_clip_min": 0.5,
        },
    ],
)
def test_overlaps_and_corrections_that_fit(extra):
    stage = PPOStage.model_validate({**PPO, **extra})
    assert all(getattr(stage, name) == value for name, value in extra.items() if name != "rollout")
