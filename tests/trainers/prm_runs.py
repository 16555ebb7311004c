"""Process reward models on pictures and text, in process, for tests."""

from __future__ import annotations

import copy
from typing import Any

import torch
from vision_runs import PICTURES, load, rows

from reasonrl.models import ScalarHeadModel
from reasonrl.prm.segment import lines
from reasonrl.prm.steps import spans_of
from reasonrl.prm.training_data import prepare_solutions
from reasonrl.trainers.prm import Example, PRMConfig, PRMTrainer

SETTINGS = {
    "solutions_per_step": 4,
    "learning_rate": 1e-3,
    "num_train_epochs": 2.0,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "logging_steps": 1,
    "tokens_per_microbatch": 160,
}


def records(pictures: Any = PICTURES) -> list[dict[str, Any]]:
    """Solutions of one to four steps to questions with pictures and without."""
    made = []
    for number, row in enumerate(rows(pictures)):
        text = "".join(f"{place} and {number * 3} are {place + number}\n" for place in range(1 + number % 4))
        steps = spans_of(lines(text))
        labels = [(number + place) % 2 for place in range(len(steps))]
        if number == 3:
            labels[0] = None
        made.append({**row, "text": text, "steps": steps, "labels": labels})
    return made


def scorer_of(kind: str, dtype: torch.dtype) -> tuple[ScalarHeadModel, Any]:
    """A fresh scalar-head model on the tiny vision-language model's backbone, and the processor."""
    policy, processor = load(kind, dtype)
    torch.manual_seed(1)
    model = ScalarHeadModel(copy.deepcopy(policy.model), seed=3).to(dtype)
    with torch.no_grad():
        model.head.weight *= 3
    return model, processor


def examples_of(processor: Any, given: list[dict[str, Any]]) -> list[Example]:
    prepared = prepare_solutions(given, processor)
    assert not prepared.set_aside, prepared.first_fault
    return [Example(one, targets) for one, targets in zip(prepared.encoded, prepared.targets, strict=True)]


def make(kind: str, dtype: torch.dtype, given: list[dict[str, Any]] | None = None, **settings: Any) -> PRMTrainer:
    """A training that is ready to run; `settings` are PRMConfig's, and the trainer's own."""
    names = ("accelerator", "output", "on_metrics")
    own = {name: settings.pop(name) for name in names if name in settings}
    lora = settings.pop("lora", None)
    model, processor = scorer_of(kind, dtype)
    if lora is not None:
        model.add_lora(lora, seed=3, autocast=False)
    examples = examples_of(processor, records() if given is None else given)
    return PRMTrainer(model, processor, PRMConfig(**{**SETTINGS, **settings}), examples, **own)
