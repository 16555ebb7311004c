"""Weights that go over to vLLM in process: after every update both sides hold the same, and what did not arrive is
found.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout import SamplingParams, build_engine

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from vllm_help import requests_of, small_policy, worst_gap

from reasonrl.rollout import vllm_engine

PARAMS = SamplingParams(24, temperature=0.8)


def trainable(policy, adapter: bool):
    if not adapter:
        return policy
    targets = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
    return get_peft_model(policy, LoraConfig(r=8, lora_alpha=16, target_modules=targets))


def update(policy, optimizer, step: int) -> None:
    """One real optimizer step, on random text."""
    policy.train()
    ids = torch.randint(3, 259, (4, 48), generator=torch.Generator().manual_seed(step))
    policy(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    policy.eval()


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_after_each_of_five_updates_the_engine_draws_what_the_trainer_scores(tied, adapter):
    base, tokenizer = small_policy(tied=tied)
    synced = build_engine("vllm", base, tokenizer, max_model_len=512)
    stale = build_engine("vllm", base, tokenizer, max_model_len=512)
    stale.sync_weights(checkpoint_weights(base), 0)
    policy = trainable(base, adapter)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=5e-3)
    # The prompts fill more than one block of the key-value cache and come again: an old prefix would be found.
    requests = requests_of(8, length=160)
    try:
        for step in range(1, 6):
            update(policy, optimizer, step)
            synced.sync_weights(checkpoint_weights(policy), step)
            samples = list(synced.stream(requests, PARAMS))
            assert worst_gap(policy, samples, PARAMS) < 1e-4
            assert synced.last_gap.worst < 1e-4 and {s.weight_version for s in samples} == {step}
            assert worst_gap(policy, list(stale.stream(requests, PARAMS)), PARAMS) > 1e-2
    finally:
        synced.close()
        stale.close()


@pytest.fixture
def pair():
    model, tokenizer = small_policy(tied=True)
    engine = build_engine("vllm", model, tokenizer, max_model_len=512)
    yield model, engine
    engine.close()


def test_the_first_transfer_finds_a_head_that_kept_its_old_weights(pair, monkeypatch):
    model, engine = pair
    monkeypatch.setattr(vllm_engine, "refresh_packed_heads", lambda module: None)
    with pytest.raises(ModelError, match=r"version 1.*differ by [0-9.e+]+ on average.*allowed is 0.001"):
        engine.sync_weights(checkpoint_weights(model), 1)


def test_a_layer_that_arrives_wrong_is_found(pair):
    model, engine = pair
    engine.sync_weights(checkpoint_weights(model), 1)
    wrong = "model.layers.1.self_attn.v_proj.weight"
    with pytest.raises(ModelError, match="version 2, the vllm engine and the trainer read the same text differently"):
        engine.sync_weights(((n, -t if n == wrong else t) for n, t in checkpoint_weights(model)), 2)
    engine.sync_weights(checkpoint_weights(model), 3)
    assert engine.last_gap.worst < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n, t: None if n.endswith("0.mlp.down_proj.weight") else (n, t),
            "1 of 26 weights were not given: model",
        ),
        (lambda n, t: (f"critic.{n}", t), "vLLM does not take the weights"),
        (lambda n, t: (n, t[..., :-1]) if n.endswith("o_proj.weight") else (n, t), "vLLM does not take the weights"),
    ],
    ids=["missing", "unknown", "another shape"],
)
def test_weights_of_another_model_end_the_engine(pair, change, message):
    model, engine = pair
    changed = (change(n, t) for n, t in checkpoint_weights(model))
    with pytest.raises(ModelError, match=message):
        engine.sync_weights((item for item in changed if item is not None), 1)
    with pytest.raises(ModelError, match="half loaded"):
        list(engine.stream(requests_of(1), PARAMS))


def test_an_empty_iterator_moves_the_version_alone(pair):
    model, engine = pair
    engine.sync_weights(checkpoint_weights(model), 4)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    engine.sync_weights(iter(()), 5)
    assert {sample.weight_version for sample in engine.stream(requests_of(2), PARAMS)} == {5}
    assert engine.reading_gap(model).mean > 1e-2


def test_the_trainer_is_left_as_it_was(pair):
    model, engine = pair
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state = torch.get_rng_state()
    model.train()
    engine.sync_weights(checkpoint_weights(model), 1)
    list(engine.stream(requests_of(4), PARAMS))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
