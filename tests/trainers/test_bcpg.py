"""Training on logged samples against a loop of plain PyTorch; micro-batches, packing, resuming, LoRA."""

from __future__ import annotations

import pytest
import torch
from helpers import movement_gap
from logged_world import TINY, make, oracle, plain_run, read, sample_rows
from torch.utils._python_dispatch import TorchDispatchMode

from reasonrl.algorithms import bcpg as objective
from reasonrl.models import load_policy, load_tokenizer
from reasonrl.models.lora import Lora, whole_state
from reasonrl.trainers import bcpg as trainers_bcpg


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def start():
    return {name: tensor.clone() for name, tensor in load_policy(TINY, dtype=torch.float64)[0].state_dict().items()}


def apart(start, one, other) -> float:
    """How far two models are apart, relative to how far the second went."""
    return movement_gap(start, one.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens_per_microbatch": 60},
        {"tokens_per_microbatch": 100_000, "padding_free": False},
        {"tokens_per_microbatch": 90, "padding_free": False, "quadratic": "token"},
        {"method": "grpo_offline", "beta": -0.5, "learning_rate": 2e-2},
        {"method": "topr", "tau": 0.0, "beta": 1.0, "learning_rate": 2e-2},
        {"method": "w_reinforce", "tau": 0.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_training_is_the_plain_loop_however_it_is_split(tmp_path, tokenizer, start, settings) -> None:
    data = read(sample_rows(tokenizer), tokenizer, settings.get("method", "bcpg"))
    trainer, lines = make(tmp_path, data, **settings)
    assert trainer.total == 5  # 12 samples, twice, five at a time
    expected, wanted = plain_run(data, trainer)
    assert trainer.train() == 5
    assert trainer.passes.packed is settings.get("padding_free", True)
    assert [line["objective"] for line in lines] == pytest.approx([line["objective"] for line in wanted], rel=1e-9)
    assert [line["grad_norm"] for line in lines] == pytest.approx([line["norm"] for line in wanted], rel=1e-9)
    for line, plain in zip(lines, wanted, strict=True):
        for name, wrong in (("positive", False), ("negative", True)):
            assert line.get(f"rho_per_token/{name}") == pytest.approx(plain["drift"][wrong], rel=1e-6, abs=1e-9)
    assert apart(start, trainer.model, expected) < 1e-6
    if settings.get("method") in ("grpo_offline", "topr"):
        assert max(line["clip_fraction"] for line in lines) > 0, "the clip was never at work"


def test_a_planted_fault_is_seen(tmp_path, tokenizer, start, monkeypatch) -> None:
    """What the comparison is worth: a quadratic over micro-batches' own tokens, a length that is the prompt's too."""
    data = read(sample_rows(tokenizer), tokenizer)
    trainer, _ = make(tmp_path, data)
    expected, _ = plain_run(data, trainer)
    plain = objective.logged_loss

    def wrong(logprobs, ref, mask, advantages, weights, share, **options):
        return plain(logprobs, ref, mask, advantages, weights, share * (1 + 1e-4 * (advantages > 0)), **options)

    monkeypatch.setattr(trainers_bcpg, "logged_loss", wrong)
    trainer.train()
    assert apart(start, trainer.model, expected) > 1e-6


def test_beta_one_is_bcpg(tmp_path, tokenizer) -> None:
    """The first step's objective and gradient, with weights of 1, are those of thirty lines that know no weights."""
    rows = sample_rows(tokenizer)
    data = read(rows, tokenizer)
    trainer, lines = make(tmp_path, data, beta=1.0, samples_per_step=12, max_steps=2, max_grad_norm=0.0)
    model, _ = load_policy(TINY, dtype=torch.float64)
    groups = [
        [(row["prompt_ids"], row["completion_ids"], row["reward"]) for row in rows if row["problem_id"] == f"p{number}"]
        for number in range(3)
    ]
    with torch.no_grad():
        refs = [
            [sum(oracle.token_logprobs(model, {"prompt": p, "response": y})).item() for p, y, _ in group]
            for group in groups
        ]
    trainer.train()
    found = oracle.plain_bcpg(model, groups, refs, tau=0.05)
    found.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert lines[0]["objective"] == pytest.approx(found.item(), rel=1e-9)
    assert lines[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)
    assert lines[0]["penalty"] == pytest.approx(0, abs=1e-20)
    assert lines[1]["penalty"] > 0


def test_checkpoints_resume_exactly(tmp_path, tokenizer) -> None:
    data = read(sample_rows(tokenizer), tokenizer)
    whole, lines = make(tmp_path / "whole", data)
    whole.train()
    asked = iter([False, True, True, True])
    part = {"output": tmp_path / "checkpoints"}
    first, before = make(tmp_path / "part", data, should_stop=lambda: next(asked), **part)
    assert first.train() == 2
    second, after = make(tmp_path / "part", data, **part)
    assert second.train(tmp_path / "checkpoints" / "checkpoint-2") == 5
    for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)

    def timeless(written):
        return [{name: value for name, value in line.items() if name != "time/step"} for line in written]

    assert timeless(before + after) == timeless(lines)


def test_the_reference_is_read_once_and_from_the_start(tmp_path, tokenizer) -> None:
    data = read(sample_rows(tokenizer), tokenizer)
    trainer, _ = make(tmp_path, data)
    trainer.reference.parts.clear()
    again = trainers_bcpg.ReferenceLogprobs(
        tmp_path / "small", data.samples, {"model": "x"}, trainer.accelerator, file_tokens=40
    )
    assert len(again.parts) > 3
    trainer.reference = again
    assert trainer.make_reference() == len(again.parts)
    model, _ = load_policy(TINY, dtype=torch.float64)
    for place, sample in enumerate(data.samples):
        ids = {"prompt": sample.prompt_ids.tolist(), "response": sample.completion_ids.tolist()}
        wanted = [value.item() for value in oracle.token_logprobs(model, ids)]
        assert again[place].tolist() == pytest.approx(wanted, abs=1e-12)
    # A file that is gone is made again, the others are not touched.
    kept = (tmp_path / "small" / "00000.npy").stat().st_mtime_ns
    (tmp_path / "small" / "00002.npy").unlink()
    assert trainer.make_reference() == 1
    assert (tmp_path / "small" / "00000.npy").stat().st_mtime_ns == kept
    # Other samples: nothing of it can be used.
    fewer = trainers_bcpg.ReferenceLogprobs(
        tmp_path / "small", data.samples[1:], {"model": "x"}, trainer.accelerator, file_tokens=40
    )
    trainer.reference = fewer
    assert trainer.make_reference() == len(fewer.parts)


def test_lora_trains_the_adapter_alone(tmp_path, tokenizer) -> None:
    data = read(sample_rows(tokenizer), tokenizer)
    trainer, lines = make(
        tmp_path, data, dtype=torch.float32, lora=Lora(r=4), num_train_epochs=20.0, learning_rate=2e-2, tau=0.01
    )
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items() if "lora" not in name}
    trainer.train()
    assert lines[-1]["rho_per_token/positive"] > lines[-1]["rho_per_token/negative"] + 0.05
    for name, tensor in trainer.model.state_dict().items():
        if name in before:
            assert torch.equal(tensor, before[name]), name
    assert whole_state(trainer.model).keys() == load_policy(TINY)[0].state_dict().keys() - {"lm_head.weight"}  # tied


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.found = max(self.found, one.numel())
        return made


@pytest.mark.parametrize("plainly", [False, True])
def test_no_tensor_holds_a_vocabulary_for_every_token(tmp_path, tokenizer, monkeypatch, plainly) -> None:
    """Neither the reference's reading nor a step makes logits of a whole row; read plainly, both do."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from reasonrl.models import lm_head

    rows = sample_rows(tokenizer, problems=4, steps=24)
    data = read([{**row, "finish_reason": "stop"} for row in rows], tokenizer)
    vocabulary, tokens = 1 << 15, sum(len(sample.completion_ids) for sample in data.samples)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, num_key_value_heads=1, **sizes))
    assert tokens * vocabulary > 1.5 * lm_head.PLAIN_LOGITS
    if plainly:
        monkeypatch.setattr(lm_head, "PLAIN_LOGITS", 1 << 40)
    config = trainers_bcpg.BCPGConfig(samples_per_step=16, max_steps=1, tokens_per_microbatch=1 << 20, tau=0.1)
    trainer = trainers_bcpg.BCPGTrainer(model, tokenizer, config, data, reference=tmp_path)
    with _Largest() as reference:
        trainer.make_reference()
    trainer.engine.start(1)
    with _Largest() as step:
        trainer.one_step(range(len(data.samples)))
    for largest in (reference.found, step.found):
        if plainly:
            assert largest >= tokens * vocabulary
        else:
            assert largest <= 0.5 * tokens * vocabulary


def test_lines_tell_right_and_wrong_steps_apart(tmp_path, tokenizer) -> None:
    """beta = -1 with next to no constraint raises right steps of wrong answers and lowers their wrong ones."""
    data = read(sample_rows(tokenizer, problems=6), tokenizer)
    common = {
        "num_train_epochs": 30.0,
        "learning_rate": 1e-2,
        "tau": 1e-3,
        "max_grad_norm": 1.0,
        "dtype": torch.float32,
    }
    trainer, lines = make(tmp_path / "a", data, beta=-1.0, **common)
    trainer.train()
    assert lines[-1]["log_ratio/right_steps"] > 0.1 > -0.1 > lines[-1]["log_ratio/wrong_steps"]
    assert lines[-1]["log_ratio/lowest"] <= lines[-1]["log_ratio/wrong_steps"]
    tokens = {True: 0, False: 0}
    for row in trainer.order(trainer.total - 1):
        sample = data.samples[row]
        if sample.wrong:
            tokens[False] += len(sample.completion_ids)
            tokens[True] += 0 if sample.mined is None else int(sample.mined.sum())
    assert lines[-1]["reweighted"] == pytest.approx(tokens[True] / tokens[False])
    assert 0 < lines[-1]["entropy"] < 6


def test_uniform_weights_have_the_mean_of_the_others(tmp_path, tokenizer) -> None:
    data = read(sample_rows(tokenizer), tokenizer, mined="uniform")
    trainer, _ = make(tmp_path, data, beta=0.5, uniform=True)
    wrong = [sample for sample in data.samples if sample.wrong]
    tokens = sum(len(sample.completion_ids) for sample in wrong)
    mined = sum(int(sample.mined.sum()) for sample in wrong if sample.mined is not None)
    assert trainer.uniform_weight == pytest.approx((0.5 * mined + (tokens - mined)) / tokens)
    batch = trainer._batch(range(len(data.samples)))
    targets = trainers_bcpg._Targets.of(data.samples, batch.mask, 0.5, trainer.uniform_weight)
    for row, sample in enumerate(data.samples):
        assert set(targets.weights[row].tolist()) == {trainer.uniform_weight if sample.wrong else 1.0}
