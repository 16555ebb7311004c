"""Logged samples made by hand, for tests of training on them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import torch

from reasonrl.models import load_policy
from reasonrl.models.lora import add_lora
from reasonrl.trainers.bcpg import BCPGConfig, BCPGTrainer
from reasonrl.trainers.logged_rows import LoggedData, Reading, read_logged

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def _oracle() -> Any:
    path = Path(__file__).parents[1] / "oracles" / "bcpg.py"
    spec = importlib.util.spec_from_file_location("bcpg_oracle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = _oracle()


def sample_rows(tokenizer: Any, problems: int = 3, samples: int = 4, seed: int = 0, steps: int = 3) -> list[dict]:
    """Rows as rollout and annotation leave them: ragged texts of lines, wrong ones with labelled steps, one cut off."""
    draw = random.Random(seed)
    rows = []
    for problem in range(problems):
        prompt = tokenizer(f"{problem}+{problem}*3")["input_ids"]
        for index in range(samples):
            lines = [f"{draw.randrange(10 ** draw.randint(1, 4))}=é\n" for _ in range(draw.randint(1, steps))]
            text, spans = "".join(lines), []
            for line in lines:
                start = spans[-1][1] if spans else 0
                spans.append([start, start + len(line)])
            correct = index == 0 or (index > 1 and draw.random() < 0.5)
            cut = problem == 1 and index == 1
            ids = tokenizer(text)["input_ids"] + ([] if cut else [tokenizer.eos_token_id])
            rows.append(
                {
                    "id": f"p{problem}#{index}",
                    "problem_id": f"p{problem}",
                    "problem": f"{problem}",
                    "text": text,
                    "correct": correct,
                    "reward": float(correct),
                    "finish_reason": "length" if cut else "stop",
                    "length": len(ids),
                    "prompt_ids": prompt,
                    "completion_ids": ids,
                    "logprobs_sampled": [-draw.random() for _ in ids],
                    "steps": None if correct else spans,
                    "labels": None if correct else [draw.randint(0, 1) for _ in spans],
                }
            )
    return rows


def read(rows: list[dict], tokenizer: Any, method: str = "bcpg", **options: Any) -> LoggedData:
    """The rows, read."""
    placed = [(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    return read_logged(placed, tokenizer, method, Reading(**options))  # type: ignore[arg-type]


def make(
    folder: Path,
    data: LoggedData,
    dtype: Any = torch.float64,
    lora: Any = None,
    accelerator: Any = None,
    **settings: Any,
) -> tuple[BCPGTrainer, list[dict]]:
    """A trainer over a fresh tiny policy, and the lines that it writes."""
    model, tokenizer = load_policy(TINY, dtype=dtype)
    if lora is not None:
        model = add_lora(model, lora, seed=0)
    extra = {name: settings.pop(name) for name in ("output", "should_stop") if name in settings}
    base = {"samples_per_step": 5, "learning_rate": 3e-3, "num_train_epochs": 2.0, "max_grad_norm": 0.5, "tau": 0.05}
    base |= {"weight_decay": 0.1, "adam_beta2": 0.95, "logging_steps": 1, "lr_scheduler_type": "constant"}
    lines: list[dict] = []
    trainer = BCPGTrainer(
        model,
        tokenizer,
        BCPGConfig(**{**base, **settings}),
        data,
        reference=folder / "reference",
        on_metrics=lines.append,
        accelerator=accelerator,
        **extra,
    )
    return trainer, lines


def plain_run(data: LoggedData, trainer: BCPGTrainer) -> tuple[Any, list[dict]]:
    """The oracle's model and lines, in the trainer's order."""
    model, _ = load_policy(TINY, dtype=torch.float64)
    config = trainer.config
    samples = []
    for sample, advantage in zip(data.samples, data.advantages, strict=True):
        mined = [False] * len(sample.completion_ids) if sample.mined is None else sample.mined.tolist()
        samples.append(
            {
                "prompt": sample.prompt_ids.tolist(),
                "response": sample.completion_ids.tolist(),
                "advantage": advantage,
                "weights": [config.beta if one else 1.0 for one in mined],
                "wrong": sample.wrong,
            }
        )
    lines = oracle.train(
        model,
        samples,
        [trainer.order(step) for step in range(trainer.total)],
        rate=config.learning_rate,
        clip=config.max_grad_norm,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        schedule=lambda step: 1.0,
        tau=config.tau,
        method=config.method,
        quadratic=config.quadratic,
    )
    return model, lines
