"""Packed rows against the same sequences read one by one, for several architectures."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from reasonrl.models import load_policy, packing
from reasonrl.models.packing import PACKED_SDPA, attention_blocks, enable_packing, packed_inputs

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, **HEADS),
    "qwen3": Qwen3Config(**SIZES, **HEADS, head_dim=8),
    "llama": LlamaConfig(**SIZES, **HEADS),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0),
}


def build(config, implementation="sdpa"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), dtype=torch.float64, attn_implementation=implementation
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)  # sharp attention: a leak shows
    return model.train()


def sequences(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 50, (length,), generator=generator) for length in lengths]


def one_by_one(model, texts):
    return torch.cat([model(input_ids=text.unsqueeze(0), use_cache=False).logits[0] for text in texts])


def as_a_row(model, texts):
    return model(**packed_inputs(texts), use_cache=False).logits[0]


def gradients(model, logits):
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def gap(ours, theirs):
    return float(((ours - theirs).norm() / theirs.norm()).detach())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [(9, 5, 5, 5, 2, 1), (7,), (4, 4), (1, 1, 1)])
def test_a_row_reads_and_learns_as_its_sequences_alone(name, lengths):
    texts = sequences(lengths)
    plain, model = build(CONFIGS[name]), build(CONFIGS[name])
    assert enable_packing(model) is None
    expected, ours = one_by_one(plain, texts), as_a_row(model, texts)
    assert gap(ours, expected) < 1e-12
    assert gap(gradients(model, ours), gradients(plain, expected)) < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 2**16))
def test_any_lengths_in_any_order(lengths, seed):
    model = build(CONFIGS["qwen2"])
    texts = sequences(lengths, seed)
    expected = one_by_one(model, texts)
    assert enable_packing(model) is None
    assert gap(as_a_row(model, texts), expected) < 1e-12


def previous_sequence_seen(monkeypatch):
    """Two neighbours are attended to as one sequence."""
    original = packing.attention_blocks

    def merged(lengths):
        lengths = [sum(lengths[:2]), *lengths[2:]]
        return original(lengths)

    monkeypatch.setattr(packing, "attention_blocks", merged)


def wrong_groups(monkeypatch):
    """Lengths are taken to stand in another order."""
    original = packing.attention_blocks
    monkeypatch.setattr(packing, "attention_blocks", lambda lengths: original(lengths[::-1]))


def not_causal(monkeypatch):
    original = packing.scaled_dot_product_attention
    monkeypatch.setattr(
        packing, "scaled_dot_product_attention", lambda *qkv, **rest: original(*qkv, **{**rest, "is_causal": False})
    )


@pytest.mark.parametrize("fault", [previous_sequence_seen, wrong_groups, not_causal])
def test_a_planted_leak_is_seen(monkeypatch, fault):
    texts = sequences((9, 5, 5, 2))
    model = build(CONFIGS["llama"])
    expected = one_by_one(model, texts)
    enable_packing(model)
    fault(monkeypatch)
    assert gap(as_a_row(model, texts), expected) > 1e-3


def test_positions_that_do_not_restart_are_seen():
    """Rotary positions only count distances, learned ones do not."""
    texts = sequences((9, 5, 5, 2))
    model = build(CONFIGS["gpt2"])
    expected = one_by_one(model, texts)
    enable_packing(model)
    inputs = packed_inputs(texts) | {"position_ids": torch.arange(21).unsqueeze(0)}
    assert gap(model(**inputs, use_cache=False).logits[0], expected) > 1e-3


def test_no_mask_and_no_square_work_is_made(monkeypatch):
    model = build(CONFIGS["qwen2"])
    enable_packing(model)
    calls = []
    original = packing.scaled_dot_product_attention
    masks = []

    def seen(query, key, value, **rest):
        calls.append((query.shape[0], query.shape[2], key.shape[1]))
        return original(query, key, value, **rest)

    monkeypatch.setattr(packing, "scaled_dot_product_attention", seen)
    monkeypatch.setattr(packing, "sdpa_mask", lambda *args, **kwargs: masks.append(kwargs))
    as_a_row(model, sequences((9, 5, 5, 5, 2)))
    assert masks == []
    assert calls == [(1, 9, 2), (3, 5, 2), (1, 2, 2)] * 2, "one call a run of equal lengths, keys not repeated"


def test_without_bounds_the_model_is_as_it_was():
    plain, model = build(CONFIGS["qwen2"]).eval(), build(CONFIGS["qwen2"]).eval()
    enable_packing(model)
    assert model.config._attn_implementation == PACKED_SDPA
    texts = sequences((6, 4))
    ids, mask = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, 6 - len(text) :], mask[row, 6 - len(text) :] = text, 1
    as_a_row(model, texts)
    for reader in (plain, model):
        reader.generation_config.eos_token_id = None
    ours, theirs = (one(input_ids=ids, attention_mask=mask).logits for one in (model, plain))
    assert torch.equal(ours, theirs)
    kept = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **kept), plain.generate(ids, **kept))


def test_gradient_checkpointing_recomputes_the_same_row():
    texts = sequences((9, 5, 5, 2))
    model, recomputed = build(CONFIGS["qwen2"]), build(CONFIGS["qwen2"])
    for one in (model, recomputed):
        enable_packing(one)
    recomputed.gradient_checkpointing_enable()
    ours, theirs = (gradients(one, as_a_row(one, texts)) for one in (recomputed, model))
    assert gap(ours, theirs) < 1e-12


def test_text_rows_of_a_vision_language_model():
    model, _ = load_policy("tiny:llava", dtype=torch.float64)
    texts = sequences((9, 5, 5, 2))
    expected = one_by_one(model, texts)
    assert enable_packing(model) is None
    assert model.config.text_config._attn_implementation == PACKED_SDPA
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert gap(as_a_row(model, texts), expected) < 1e-12


def test_an_adapter_over_the_model_reads_rows():
    from peft import LoraConfig, get_peft_model

    texts = sequences((9, 5, 5, 2))
    model = get_peft_model(build(CONFIGS["qwen2"]), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    expected = one_by_one(model, texts)
    assert enable_packing(model) is None
    assert gap(as_a_row(model, texts), expected) < 1e-12


def test_a_failed_pass_leaves_nothing_behind():
    model = build(CONFIGS["qwen2"])
    enable_packing(model)
    inputs = packed_inputs(sequences((5, 3)))
    with pytest.raises(IndexError):
        model(**{**inputs, "input_ids": inputs["input_ids"] + 50})
    assert packing._inside.get() == 0


def test_what_has_no_packed_form_says_so():
    assert "'eager' attention" in enable_packing(build(CONFIGS["llama"], "eager"))
    assert "no transformers model" in enable_packing(torch.nn.Linear(2, 2))


def test_calling_twice_changes_nothing():
    model = build(CONFIGS["llama"])
    assert enable_packing(model) is None and enable_packing(model) is None
    texts = sequences((4, 3))
    assert gap(as_a_row(model, texts), one_by_one(build(CONFIGS["llama"]), texts)) < 1e-12
    assert len(model._forward_pre_hooks) == 1


@pytest.mark.parametrize(
    ("lengths", "blocks"), [([5, 5, 3], [(5, 2), (3, 1)]), ([2, 3, 2], [(2, 1), (3, 1), (2, 1)]), ([], [])]
)
def test_blocks_are_runs_of_equal_lengths(lengths, blocks):
    assert attention_blocks(lengths) == blocks
