"""Packed rows in the trainer: the same numbers, gradients and trajectories as padded ones, and when rows are padded."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from helpers import TINY, make_run, movement_gap
from transformers import Lfm2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from reasonrl.models import ScalarHeadModel, build_tokenizer, packing
from reasonrl.trainers import packed_batch as packed_module
from reasonrl.trainers import passes as passes_module
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.loss_terms import Counts, loss_weights
from reasonrl.trainers.targets import Targets

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": None,
    "eos_token_id": None,
}


def saved(tmp_path, config_class, **changes) -> str:
    """A checkpoint of another architecture with the tiny models' tokenizer."""
    tokenizer = build_tokenizer()
    config = config_class(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **{**SIZES, **changes})
    torch.manual_seed(0)
    path = tmp_path / config.model_type
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def ragged(dtype, seed=0):
    """A ragged batch with targets, one sample masked in places and one unscored."""
    generator = torch.Generator().manual_seed(seed)
    prompts, lengths = [3, 9, 1, 4, 6, 2], [12, 1, 7, 7, 3, 12]
    ids = [torch.randint(3, 200, (p + n,), generator=generator) for p, n in zip(prompts, lengths, strict=True)]
    mask = (torch.arange(12).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long()
    mask[2, 3:5] = 0
    mask[4] = 0
    real = [torch.randn(6, 12, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]
    batch = RolloutBatch(ids, prompts, mask, real[0][:, 0], torch.ones(6).bool(), torch.zeros(6, 12))
    # Old log-probabilities apart from the current ones, so that ratios and their clip are at work.
    old = (-5.3 + 0.2 * real[2]) * mask
    return batch, Targets(mask, real[0] * mask, real[1] * mask, 0.1 * real[2] * mask, old, None)


def read_and_learn(tmp_path, dtype, packed, model):
    run = make_run(
        tmp_path, dtype=dtype, model=model, padding_free=packed, tokens_per_microbatch=24, cliprange_value=0.05
    )
    trainer, update = run.trainer, run.trainer.update
    update.choose_rows(run.policy, None, trainer.processing_class)
    assert update.packed is packed
    batch, targets = ragged(dtype)
    numbers = {"logprobs": update.logprobs(run.policy, batch), "values": update.values(batch)}
    with torch.no_grad():
        entropy = torch.zeros(batch.mask.shape, dtype=dtype)
        for micro, _ in update.micro_batches(batch, range(len(batch))):
            of_rows = micro.gather(update.forward(run.policy, micro.labels, **micro.inputs)[1])
            entropy[micro.rows, : micro.width] = of_rows.to(dtype)
    numbers["entropy"] = entropy * batch.mask
    update.train_policy(run.policy, None, batch, targets, 0)
    numbers["policy gradient"] = torch.cat([p.grad.flatten() for p in run.policy.parameters()])
    held = {}

    def hold_back():
        held["gradient"] = torch.cat([p.grad.flatten() for p in run.critic.parameters()])
        return 0.0

    trainer.critic.step = hold_back
    update.train_critic(batch, targets, 0)
    return numbers | {"critic gradient": held["gradient"]}, trainer.meter.means()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_packed_and_padded_are_one(tmp_path, architecture, dtype, bound):
    model = TINY if architecture == "qwen2" else saved(tmp_path, LlamaConfig)
    packed, of_packed = read_and_learn(tmp_path / "packed", dtype, True, model)
    padded, of_padded = read_and_learn(tmp_path / "padded", dtype, False, model)
    for name, expected in padded.items():
        assert float(expected.norm()) > 0, name
        assert float((packed[name] - expected).norm() / expected.norm()) <= bound, name
    for name in ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "approx_kl", "entropy"):
        assert of_packed[name] == pytest.approx(of_padded[name], rel=bound, abs=bound), name
    assert of_padded["clip_fraction"] > 0 and of_padded["value_clip_fraction"] > 0
    assert (of_packed["packed"], of_packed["padding_fraction"]) == (1, 0)
    assert of_padded["packed"] == 0 and of_padded["padding_fraction"] > 0.02


SETTINGS = {"max_steps": 10, "actor_steps": 2, "critic_steps": 2, "cliprange_value": 0.02, "gamma": 0.97, "lam": 0.9}


def walk(tmp_path, dtype, **changes):
    run = make_run(tmp_path, dtype=dtype, **{**SETTINGS, **changes})
    run.trainer.train()
    return run


def gap_of(run, other):
    policy = movement_gap(run.start, run.policy.state_dict(), other.policy.state_dict())
    return max(policy, movement_gap(run.critic_start, run.critic.state_dict(), other.critic.state_dict()))


@pytest.mark.parametrize(
    ("dtype", "bound", "budgets"), [(torch.float32, 1e-3, (90,)), (torch.float64, 1e-9, (1, 60, 100_000))]
)
def test_ten_updates_walk_one_path_at_any_budget(tmp_path, dtype, bound, budgets):
    padded = walk(tmp_path / "padded", dtype, padding_free=False, tokens_per_microbatch=150)
    for budget in budgets:
        packed = walk(tmp_path / str(budget), dtype, tokens_per_microbatch=budget)
        assert [line["packed"] for line in packed.metrics] == [1] * 10
        assert gap_of(packed, padded) <= bound, budget
        for ours, theirs in zip(packed.metrics, padded.metrics, strict=True):
            assert ours["reward"] == theirs["reward"] and ours["tokens"] == theirs["tokens"]


def leaking_attention(monkeypatch):
    """A row's sequences are attended to as one."""
    monkeypatch.setattr(packing, "attention_blocks", lambda lengths: [(sum(lengths), 1)])


def neighbours_numbers(monkeypatch):
    """Numbers are read one token further on, at a row's later sequences."""
    original = packed_module.make_packed_micro_batch

    def shifted(batch, rows):
        micro = original(batch, rows)
        micro.positions[1:] += 1
        return micro

    monkeypatch.setattr(passes_module, "make_packed_micro_batch", shifted)


def another_order(monkeypatch):
    """Rows are put together in another order than their tokens."""
    original = packed_module.packed_inputs
    monkeypatch.setattr(packed_module, "packed_inputs", lambda sequences: original(sequences[::-1]))


@pytest.mark.parametrize("fault", [leaking_attention, neighbours_numbers, another_order])
def test_a_planted_fault_leaves_the_path(tmp_path, monkeypatch, fault):
    padded = walk(tmp_path / "padded", torch.float64, padding_free=False)
    fault(monkeypatch)
    run = make_run(tmp_path / "packed", dtype=torch.float64, **SETTINGS, max_logprob_gap=100.0)
    run.trainer.update.packed = True  # not asked whether it is right
    packing.enable_packing(run.policy)
    packing.enable_packing(run.critic)
    run.trainer.train()
    assert gap_of(run, padded) > 1e-3


def test_the_start_finds_a_leak_and_pads(tmp_path, monkeypatch, caplog):
    leaking_attention(monkeypatch)
    with caplog.at_level(logging.WARNING):
        packed = walk(tmp_path / "asked", torch.float64, max_steps=2)
    assert "padded, not packed: Qwen2ForCausalLM gives other numbers" in caplog.text
    assert [line["packed"] for line in packed.metrics] == [0, 0]
    assert all(0 < line["padding_fraction"] < 1 for line in packed.metrics)


@pytest.mark.parametrize(
    ("config", "changes", "reason"),
    [
        (MistralConfig, {"sliding_window": 64, "head_dim": 32}, "MistralForCausalLM asks for attention within"),
        (
            Qwen2Config,
            {"num_hidden_layers": 2, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            "Qwen2ForCausalLM asks for attention within a window or chunks of 64 tokens",
        ),
    ],
    ids=["window everywhere", "window in some layers"],
)
def test_what_cannot_be_packed_is_padded_with_the_reason(tmp_path, caplog, config, changes, reason):
    model = saved(tmp_path, config, **changes)
    settings = {"model": model, "advantage": "group", "max_steps": 2}
    with caplog.at_level(logging.WARNING):
        asked = make_run(tmp_path / "asked", dtype=torch.float64, **settings)
        asked.trainer.train()
    assert f"sequences are padded, not packed: {reason}" in caplog.text
    assert [line["packed"] for line in asked.metrics] == [0, 0]
    padded = make_run(tmp_path / "padded", dtype=torch.float64, padding_free=False, **settings)
    padded.trainer.train()
    assert movement_gap(asked.start, asked.policy.state_dict(), padded.policy.state_dict()) <= 1e-12


def test_a_convolution_over_time_is_found(tmp_path, caplog):
    layers = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    run = make_run(tmp_path, model=saved(tmp_path, Lfm2Config, **layers), advantage="group")
    with caplog.at_level(logging.WARNING):
        run.trainer.update.choose_rows(run.policy, None, run.trainer.processing_class)
    assert "sequences are padded, not packed: Lfm2ForCausalLM gives other numbers for them" in caplog.text


def test_a_critic_that_cannot_be_packed_pads_all(tmp_path, caplog):
    """Its head may start at zero: then its values say nothing of what it reads."""
    run = make_run(tmp_path / "run", value_head_init="zeros")
    torch.nn.init.zeros_(run.critic.head.weight)
    original = run.critic.backbone.layers[0].forward

    def shifted(hidden, *args, **kwargs):
        before = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
        return original(hidden + 0.5 * before, *args, **kwargs)

    run.critic.backbone.layers[0].forward = shifted
    with caplog.at_level(logging.WARNING):
        run.trainer.update.choose_rows(run.policy, None, run.trainer.processing_class)
    assert "padded, not packed: ScalarHeadModel gives other numbers" in caplog.text
    assert run.trainer.update.packed is False


def test_the_choice_leaves_models_and_random_numbers_as_they_were(tmp_path):
    run = make_run(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run.policy.train()
    run.critic.eval()
    run.trainer.update.choose_rows(run.policy, None, run.trainer.processing_class)
    assert run.policy.training and not run.critic.training
    assert torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in (*run.policy.parameters(), *run.critic.parameters()))
    assert isinstance(run.critic, ScalarHeadModel)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({}, 1),
        ({"actor_steps": 2}, 1 + 2),
        ({"num_iterations": 2}, 1 + 2),
        ({"beta": 0.1}, 1 + 1),
        ({"vllm_importance_sampling_correction": True}, 1 + 1),
    ],
)
def test_old_logprobs_are_read_only_where_something_wants_them(tmp_path, settings, passes):
    run = make_run(tmp_path, max_steps=1, tokens_per_microbatch=100_000, **settings)
    update, models = run.trainer.update, []
    original = update.forward

    def counted(model, *args, **inputs):
        models.append(model)
        return original(model, *args, **inputs)

    update.choose_rows(run.policy, run.trainer.ref_model, run.trainer.processing_class)
    update.forward = counted
    run.trainer.train()
    assert sum(model is not run.trainer.ref_model for model in models) == passes


def test_a_dummy_row_weighs_nothing_and_counts_as_padding(tmp_path):
    run = make_run(tmp_path, dtype=torch.float64)
    update = run.trainer.update
    update.choose_rows(run.policy, None, run.trainer.processing_class)
    batch, targets = ragged(torch.float64)
    micro = update.micro_batch(batch, [])
    assert micro.packed and micro.rows == [] and micro.inputs["input_ids"].shape == (1, 8)
    weights = loss_weights(run.trainer.args, targets, Counts(1.0, 1.0, 1.0, 1.0))
    sums = update.policy_micro_batch(run.policy, batch, targets, micro, weights)
    assert float(sums.loss.detach()) == 0
    assert all(float(p.grad.abs().sum()) == 0 for p in run.policy.parameters())


def test_rows_with_pictures_are_padded_and_text_beside_them_packed(tmp_path):
    run = make_run(tmp_path, dtype=torch.float64, tokens_per_microbatch=24)
    update = run.trainer.update
    update.choose_rows(run.policy, None, run.trainer.processing_class)
    batch, _ = ragged(torch.float64)
    pictured = dataclasses.replace(batch, images=[{}, {"pixel_values": torch.ones(1, 2)}, {}, {}, {}, {}])
    made = [micro for micro, _ in update.micro_batches(pictured, range(6))]
    assert {tuple(micro.rows): micro.packed for micro in made if 1 in micro.rows} == {(1,): False}
    assert all(micro.packed for micro in made if 1 not in micro.rows)
    assert sorted(row for micro in made for row in micro.rows) == list(range(6))
    assert not update.micro_batch(pictured, []).packed, "a dummy takes no picture's place without the picture"
