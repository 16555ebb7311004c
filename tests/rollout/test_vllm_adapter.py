"""A LoRA policy in vLLM as an adapter: the base goes over once, then a few small factors, and the engine draws from the
policy that is trained all the same.
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
from reasonrl.rollout.transfer import hand_over

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from test_vllm_sync import update
from vllm_help import requests_of, small_policy, worst_gap

PARAMS = SamplingParams(24, temperature=0.8)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS = {
    "some layers": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"]},
    "all layers, ranks and scales of their own": {
        "r": 4,
        "lora_alpha": 12,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 9, "up_proj": 2},
        "alpha_pattern": {"v_proj": 30, "up_proj": 5},
        "use_rslora": True,
    },
}
CACHE = 128 * 2**20


def size_of(pairs) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in pairs)


def optimizer_of(policy):
    return torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=5e-3)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_after_each_of_five_updates_the_engine_draws_what_the_trainer_scores(tied, settings):
    base, tokenizer = small_policy(tied=tied)
    policy = get_peft_model(base, LoraConfig(**settings))
    whole = size_of(checkpoint_weights(policy))
    trained = size_of((n, p) for n, p in policy.named_parameters() if p.requires_grad)
    options = {"lora": "adapter", "max_model_len": 512, "kv_cache_memory_bytes": CACHE}
    synced = build_engine("vllm", policy, tokenizer, **options)
    stale = build_engine("vllm", policy, tokenizer, **options)
    optimizer = optimizer_of(policy)
    # The prompts fill more than one block of the key-value cache and come again: an old prefix would be found.
    requests = requests_of(8, length=160)
    try:
        assert hand_over(synced, policy, 0).bytes == hand_over(stale, policy, 0).bytes == whole + trained
        for step in range(1, 6):
            update(policy, optimizer, step)
            moved = hand_over(synced, policy, step)
            assert moved.bytes == trained < whole / 10 and moved.metrics["rollout/sync_mb"] == trained / 2**20
            samples = list(synced.stream(requests, PARAMS))
            assert worst_gap(policy, samples, PARAMS) < 1e-4
            assert synced.last_gap.worst < 1e-4 and {s.weight_version for s in samples} == {step}
            assert worst_gap(policy, list(stale.stream(requests, PARAMS)), PARAMS) > 1e-2
    finally:
        synced.close()
        stale.close()


def test_an_engine_built_before_the_adapter_takes_it_with_the_first_sample():
    base, tokenizer = small_policy(tied=True)
    with pytest.raises(ModelError, match=r"no LoRA layers yet.*max_lora_rank"):
        build_engine("vllm", base, tokenizer, lora="adapter")
    engine = build_engine(
        "vllm", base, tokenizer, lora="adapter", max_lora_rank=6, max_model_len=512, kv_cache_memory_bytes=CACHE
    )
    try:
        with pytest.raises(ModelError, match="the policy has no LoRA layers"):
            list(engine.stream(requests_of(2), PARAMS))
        policy = get_peft_model(base, LoraConfig(r=6, target_modules=["o_proj", "down_proj"]))
        update(policy, optimizer_of(policy), 1)
        samples = list(engine.stream(requests_of(4), PARAMS))
        assert worst_gap(policy, samples, PARAMS) < 1e-4
        with pytest.raises(ModelError, match=r"no adapter came -> give what weights_of"):
            engine.sync_weights(checkpoint_weights(policy), 2)
        with pytest.raises(ModelError, match="half loaded"):
            list(engine.stream(requests_of(1), PARAMS))
    finally:
        engine.close()


def test_a_factor_that_arrives_wrong_is_found():
    base, tokenizer = small_policy(tied=True)
    policy = get_peft_model(base, LoraConfig(r=8, target_modules=["o_proj", "down_proj"]))
    update(policy, optimizer_of(policy), 1)
    engine = build_engine("vllm", policy, tokenizer, lora="adapter", max_model_len=512, kv_cache_memory_bytes=CACHE)
    try:
        wrong = "layers.1.self_attn.o_proj.lora_B.weight"
        with pytest.raises(ModelError, match="version 1, the vllm engine and the trainer read the same text different"):
            engine.sync_weights(((n, -9 * t if n.endswith(wrong) else t) for n, t in engine.weights_of(policy)), 1)
        hand_over(engine, policy, 2)
        assert engine.last_gap.worst < 1e-4
        with pytest.raises(ModelError, match="came without its other factor"):
            engine.sync_weights((pair for pair in engine.weights_of(policy) if not pair[0].endswith(wrong)), 3)
    finally:
        engine.close()
