"""The trainer of process reward models against a loop of plain PyTorch; micro-batches, packing, LoRA, resuming."""

from __future__ import annotations

import random

import pytest
import torch

from reasonrl.errors import DataError
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.models.lora import Lora
from reasonrl.prm.encoding import Encoded
from reasonrl.trainers.prm import Example, PRMConfig, PRMTrainer

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def examples(count=11, seed=0) -> list[Example]:
    """Ragged ones; steps that are unlabelled, cut off, softly labelled, and one solution without any label."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        length, prompt = draw.randint(8, 40), draw.randint(1, 5)
        places = sorted(draw.sample(range(prompt, length), draw.randint(1, 3)))
        ends: list[int | None] = [*places, None] if number % 4 == 3 else [*places]
        targets = [draw.choice([0, 1, 1, 0.25, None]) for _ in ends]
        if number == 4:
            targets = [None] * len(ends)
        ids = tuple(draw.randrange(3, 200) for _ in range(length))
        made.append(Example(Encoded(ids, prompt, tuple(ends)), tuple(targets)))
    return made


def fresh(dtype=torch.float64) -> ScalarHeadModel:
    return ScalarHeadModel.from_pretrained(TINY, seed=1, dtype=dtype)


def make(given, model=None, tokenizer=None, **settings):
    defaults = {"solutions_per_step": 4, "learning_rate": 1e-3, "num_train_epochs": 2.0, "max_grad_norm": 0.5}
    lines: list[dict[str, object]] = []
    extra = {name: settings.pop(name) for name in ("output", "should_stop", "evaluate") if name in settings}
    trainer = PRMTrainer(
        model or fresh(),
        tokenizer or load_tokenizer(TINY),
        PRMConfig(**{**defaults, "logging_steps": 1, "weight_decay": 0.1, "adam_beta2": 0.95, **settings}),
        given,
        on_metrics=lines.append,
        **extra,
    )
    return trainer, lines


def plain_loop(given, trainer) -> tuple[ScalarHeadModel, list[float], list[float]]:
    """Solution by solution and step by step, in the trainer's order; losses and gradient norms of every update."""
    model, used, config = fresh(), [e for e in given if any(y is not None for y in e.trained)], trainer.config
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2))
    losses, norms = [], []
    for step in range(trainer.total):
        terms = []
        for row in trainer.order(step):
            values = model(input_ids=torch.tensor([used[row].encoded.ids]))[0]
            for end, y in zip(used[row].encoded.ends, used[row].targets, strict=True):
                if end is not None and y is not None:
                    p = torch.sigmoid(values[end])
                    terms.append(-(y * torch.log(p) + (1 - y) * torch.log(1 - p)))
        loss = sum(terms) / len(terms)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses, norms


def gap(one, other) -> float:
    state = other.state_dict()
    return max(float((tensor - state[name]).abs().max()) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("rows", [{"tokens_per_microbatch": 100_000}, {"tokens_per_microbatch": 45}])
@pytest.mark.parametrize("packed", [True, False])
def test_training_is_the_plain_loop_however_it_is_split(rows, packed) -> None:
    given = examples()
    trainer, lines = make(given, padding_free=packed, **rows)
    assert trainer.packed is packed
    assert trainer.total == 5  # 9 solutions with a label, twice, four at a time; the last step has two
    assert [len(trainer.order(step)) for step in range(5)] == [4, 4, 4, 4, 2]
    assert sorted(trainer.order(0) + trainer.order(1) + trainer.order(2)[:1]) == list(range(9))
    expected, losses, norms = plain_loop(given, trainer)
    assert trainer.train() == 5
    assert [line["loss"] for line in lines] == pytest.approx(losses, abs=1e-6)  # summed up in float32
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-9)
    assert max(norms) > 0.5, "the clip was never at work"
    assert gap(expected, fresh()) > 1e-3
    assert gap(trainer.model, expected) < 1e-9


def test_checkpoints_resume_exactly(tmp_path) -> None:
    given, tokenizer = examples(), load_tokenizer(TINY)
    whole, lines = make(given, tokenizer=tokenizer)
    whole.train()
    asked = iter([False, True, True, True])
    first, before = make(given, tokenizer=tokenizer, output=tmp_path, should_stop=lambda: next(asked))
    assert first.train() == 2
    assert first.interrupted
    second, after = make(given, tokenizer=tokenizer, output=tmp_path)
    assert second.train(tmp_path / "checkpoint-2") == 5
    assert gap(second.model, whole.model) == 0
    for got, line in zip(before + after, lines, strict=True):
        assert {k: v for k, v in got.items() if k != "time/step"} == {k: v for k, v in line.items() if k != "time/step"}


def test_lora_trains_the_adapter_and_the_head_alone() -> None:
    given, model = examples(), fresh(torch.float32)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.add_lora(Lora(r=4), seed=0)
    trainer, lines = make(given, model=model, num_train_epochs=20.0, learning_rate=1e-2)
    trainer.train()
    assert lines[-1]["loss"] < lines[0]["loss"]
    frozen = [n for n, p in trainer.model.named_parameters() if not p.requires_grad]
    assert frozen
    for name in frozen:
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert torch.equal(dict(trainer.model.named_parameters())[name], start[plain]), name
    merged = trainer.model.whole_state()
    assert merged.keys() == start.keys()
    moved = {name for name in start if not torch.equal(merged[name], start[name])}
    assert "head.weight" in moved
    assert any("mlp" in name for name in moved)
    assert not any("norm" in name or "embed" in name for name in moved)


def test_it_learns_and_figures_stand_in_the_lines() -> None:
    """The right steps end with one token, the wrong ones with another."""
    draw = random.Random(5)
    given = []
    for _ in range(64):
        ids, ends, targets = [7], [], []
        for _ in range(4):
            right = draw.random() < 0.5
            ids += [draw.randrange(20, 200) for _ in range(3)] + [11 if right else 12]
            ends.append(len(ids) - 1)
            targets.append(int(right))
        given.append(Example(Encoded(tuple(ids), 1, tuple(ends)), tuple(targets)))
    trainer, lines = make(
        given,
        model=fresh(torch.float32),
        solutions_per_step=16,
        num_train_epochs=8.0,
        learning_rate=3e-3,
        eval_steps=10,
        evaluate=lambda model: {"parameters": sum(p.numel() for p in model.parameters())},
    )
    trainer.train()
    assert lines[0]["loss"] == pytest.approx(0.69, abs=0.1)
    assert lines[-1]["loss"] < 0.1
    assert lines[-1]["accuracy"] == 1.0
    assert [line["step"] for line in lines if "eval/parameters" in line] == [10, 20, 30, 32]


def test_what_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match="2 labels for 1 steps"):
        Example(Encoded((1, 2), 1, (1,)), (1, 0))
    with pytest.raises(DataError, match="none of 1 solutions has a labelled step"):
        make([Example(Encoded((1, 2), 1, (None,)), (1,))])
