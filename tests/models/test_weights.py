"""A policy's weights under checkpoint names, and the reading that tells whether two sides hold the same ones."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.models.weights import checkpoint_names, checkpoint_weights
from reasonrl.rollout.agreement import gap_between, reading_ids, require_agreement, teacher_forced

TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture
def policy():
    return load_policy("tiny:qwen2")[0]


def with_adapter(policy, **settings):
    """LoRA whose B is not zero, as after some training."""
    tuned = get_peft_model(policy, LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS, **settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return tuned


def test_a_plain_policy_gives_its_own_parameters(policy):
    given = dict(checkpoint_weights(policy))
    own = dict(policy.named_parameters())
    assert given.keys() == own.keys() == checkpoint_names(policy)
    assert all(given[name].data_ptr() == own[name].data_ptr() for name in own)


@pytest.mark.parametrize("through", ["the adapter's model", "the policy inside"])
def test_lora_is_merged_under_the_names_of_the_checkpoint(policy, through):
    names = {name for name, _ in policy.named_parameters()}
    tuned = with_adapter(policy)
    before = {name: parameter.detach().clone() for name, parameter in tuned.named_parameters()}
    given = dict(checkpoint_weights(tuned if through == "the adapter's model" else tuned.get_base_model()))
    assert given.keys() == names
    assert all(torch.equal(before[name], parameter) for name, parameter in tuned.named_parameters())
    merged = dict(copy.deepcopy(tuned).merge_and_unload().named_parameters())
    for name in names:
        assert torch.allclose(given[name], merged[name], atol=1e-7, rtol=0), name
    moved = [
        name for name in names if not torch.equal(given[name], before.get(f"base_model.model.{name}", given[name]))
    ]
    assert not moved, "what no adapter touches is the policy's own"
    plain = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(given[plain], before[f"base_model.model.{plain[:-7]}.base_layer.weight"])


def test_a_switched_off_or_merged_adapter_is_not_added_again(policy):
    name = "model.layers.1.mlp.down_proj.weight"
    start = dict(policy.named_parameters())[name].detach().clone()
    tuned = with_adapter(policy)
    merged = dict(checkpoint_weights(tuned))[name]
    with tuned.disable_adapter():
        assert torch.equal(dict(checkpoint_weights(tuned))[name], start)
    tuned.merge_adapter()
    assert torch.allclose(dict(checkpoint_weights(tuned))[name], merged, atol=1e-7)
    assert not torch.allclose(merged, start, atol=1e-3)


def test_a_module_trained_in_whole_beside_the_adapter(policy):
    tuned = with_adapter(policy, modules_to_save=["norm"])
    trained = next(
        p for name, p in tuned.named_parameters() if name.endswith("model.norm.modules_to_save.default.weight")
    )
    trained.data.fill_(7.0)
    assert torch.equal(dict(checkpoint_weights(tuned))["model.norm.weight"], trained)
    assert "model.norm.weight" in checkpoint_names(tuned)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True, "bias": "none"}])
def test_an_adapter_that_is_no_plain_sum_is_refused(policy, settings):
    tuned = get_peft_model(policy, LoraConfig(r=4, target_modules=["o_proj"], **settings))
    with pytest.raises(ModelError, match=r"o_proj.*cannot be merged into one weight"):
        checkpoint_names(tuned)


def test_readings_of_equal_models_agree_and_others_do_not(policy):
    _, tokenizer = load_policy("tiny:qwen2")
    ids = reading_ids(tokenizer, most=64)
    assert len(ids) == 64
    own = teacher_forced(policy, ids)
    with torch.no_grad():
        logits = policy(torch.tensor([ids])).logits[0, :-1]
    oracle = [float(torch.log_softmax(row.double(), -1)[token]) for row, token in zip(logits, ids[1:], strict=True)]
    assert own == pytest.approx(oracle, abs=1e-5)
    require_agreement(gap_between(own, oracle), 1e-3, 1, "vllm")
    with torch.no_grad():
        policy.model.layers[0].mlp.down_proj.weight.mul_(3)
    gap = gap_between(teacher_forced(policy, ids), own)
    assert gap.mean > 1e-3 and gap.tokens == 63
    message = rf"version 5.*differ by {gap.mean:.3g} on average.*\(token {gap.position}: engine"
    with pytest.raises(ModelError, match=message.replace("+", r"\+")):
        require_agreement(gap, 1e-3, 5, "vllm")


def test_reading_leaves_the_mode_of_the_model_alone(policy):
    policy.train()
    teacher_forced(policy, [5, 6, 7])
    assert policy.training


def test_a_reading_that_is_no_number_never_agrees():
    with pytest.raises(ModelError, match="inf on average"):
        require_agreement(gap_between([-1.0, float("nan")], [-1.0, -2.0]), 1e3, 1, "vllm")
