"""A run directory as the pipeline leaves it, with figures from formulas, for the tests of report and listing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from reasonrl.observe import CompletionsWriter, MetricsWriter

CONFIG: dict[str, Any] = {
    "recipe": "demo",
    "seed": 3,
    "model": "tiny:qwen2",
    "stages": {
        "start": {"kind": "sft", "max_steps": 30, "learning_rate": 1e-3},
        "rl": {"kind": "ppo", "max_steps": 60, "learning_rate": 1e-4},
        "evaluate": {"kind": "eval", "model": "${stage:rl}"},
        "compare": {"kind": "compare", "baseline": "before"},
    },
}


def finish(directory: Path, metrics: dict[str, Any], cpu: float = 40.0) -> None:
    result = {"model": "model", "critic": None, "data": None, "metrics": metrics, "checkpoints": {}}
    result |= {"cpu_seconds": cpu, "wall_seconds": cpu / 2}
    record = {"name": directory.name, "finished": "2026-01-01T00:00:00+00:00", "shared_from": None, "result": result}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "done.json").write_text(json.dumps(record))


def write_sft(directory: Path, steps: int = 30) -> None:
    with MetricsWriter(directory / "metrics.jsonl") as writer:
        for step in range(1, steps + 1):
            loss = 0.4 + 2 * math.exp(-step / 8)
            line = {"step": step, "loss": loss, "learning_rate": 1e-3 * (1 - step / 40), "grad_norm": 3 / step}
            writer.write(line | {"epoch": step / 30, "mean_token_accuracy": 1 - loss / 3, "time/step": 0.3})
    finish(directory, {"loss": 0.45}, cpu=15.0)


def ppo_line(step: int) -> dict[str, Any]:
    noise = random.Random(step)
    reward = 0.5 + 0.3 * (1 - math.exp(-step / 25)) + noise.gauss(0, 0.02)
    line = {
        "step": step,
        "reward": reward,
        "reward_std": 0.4,
        "accuracy": reward,
        "completions/mean_length": 40 + 0.2 * step + noise.gauss(0, 1),
        "completions/min_length": 12,
        "completions/max_length": 64,
        "completions/truncated_fraction": max(0.0, 0.08 - 0.001 * step),
        "entropy": 0.6 * math.exp(-step / 60),
        "clip_fraction": 0.02 + noise.random() * 0.01,
        "value_clip_fraction": 0.1 / step,
        "kl": 0.0005 * step,
        "approx_kl": 0.002 + noise.random() * 0.001,
        "policy_loss": -0.01 + noise.gauss(0, 0.003),
        "value_loss": 0.1 / math.sqrt(step),
        "explained_variance": 0.7 - 4 / step,
        "learning_rate": 1e-4,
        "critic_learning_rate": 5e-4,
        "grad_norm": 0.3 + noise.random() * 0.2,
        "critic_grad_norm": 2 / step,
        "unscored": 0,
        "samples": 256,
        "tokens": 9000,
        "time/step": 3.0 + noise.random(),
        "time/generate": 1.4,
        "time/reward": 0.1,
        "time/values": 0.2,
        "time/critic": 0.4,
        "time/actor": 0.6,
        "rate/tokens_per_second": 3000.0,
        "memory/rss_mb": 900.0,
    }
    if step % 10 == 0:
        line |= {"eval/accuracy": reward, "eval/accuracy_low": reward - 0.05, "eval/accuracy_high": reward + 0.05}
    return line


def write_ppo(directory: Path, steps: int = 60) -> None:
    completions = CompletionsWriter(directory / "completions")
    with MetricsWriter(directory / "metrics.jsonl") as writer:
        for step in range(1, steps + 1):
            writer.write(ppo_line(step))
            if step in (1, steps // 2, steps):
                completions.write(step, [completion(step, index) for index in range(8)])
    finish(directory, {"reward": 0.8}, cpu=190.0)


def completion(step: int, index: int) -> dict[str, Any]:
    right = index % 2 == 0
    text = f"a 7+5=2\nb 2*3=6\nso it is \\boxed{{{6 if right else 7}}} <script>alert({step})</script>"
    row = {
        "id": f"p{index}",
        "prompt": [{"role": "user", "content": "Start at 7, add 5, times 3; last digit & <end>?"}],
    }
    row |= {"text": text, "verdict": "correct" if right else "wrong", "reward": float(right), "length": len(text)}
    return row | {"advantage": 0.7 if right else -0.7, "finish_reason": "stop"}


def interval(value: float, half: float = 0.03, n: int = 1024) -> dict[str, Any]:
    ends = {"value": value, "low": value - half, "high": value + half}
    return ends | {"se": half / 2, "confidence": 0.95, "method": "wilson by problem", "n": n}


def write_eval(directory: Path, lift: float = 0.0) -> None:
    passes = {str(k): interval(min(0.95, 0.5 + lift + 0.1 * math.log2(k))) for k in (1, 2, 4, 8, 16)}
    entry = {"accuracy": interval(0.5 + lift), "pass@k": passes, "maj@n": None, "greedy": interval(0.55 + lift)}
    entry |= {"mean_score": None, "mean_length": 41.5, "truncated_fraction": 0.02, "truncated_right_fraction": 0.0}
    entry |= {"no_answer_fraction": 0.01, "unscored": 0, "n_problems": 1024, "n_samples": 16384, "verdicts": {}}
    entry |= {"decoding": {"n": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 64}, "prompt_hash": "x", "seed": 3}
    rows = [completion(0, index) | {"metric": "sample", "index": index, "extracted": "6"} for index in range(6)]
    (directory / "unseen").mkdir(parents=True, exist_ok=True)
    problems = [{"id": row["id"], "prompt": row.pop("prompt")[0]["content"], "answer": "6"} for row in rows]
    for name, lines in (("samples", rows), ("problems", problems)):
        (directory / "unseen" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "results.json").write_text(json.dumps({"format": 1, "suites": {"unseen": entry}}))
    finish(directory, {"unseen/accuracy": 0.5 + lift})


def write_compare(directory: Path) -> None:
    values = {"before": (0.5, None), "after": (0.72, 0.22), "more cold start": (0.54, 0.04)}
    cells = [
        {
            "suite": "unseen",
            "metric": "accuracy",
            "label": label,
            "estimate": interval(value),
            "difference": None if difference is None else interval(difference, 0.02),
        }
        for label, (value, difference) in values.items()
    ]
    context = {"mean_length": 40.0, "truncated_fraction": 0.01, "no_answer_fraction": 0.0, "unscored": 0}
    context |= {"n_problems": 1024, "n_samples": 16384}
    context |= {"decoding": {"n": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 64}}
    table = {"format": 1, "baseline": "before", "labels": list(values), "confidence": 0.95, "cells": cells}
    table |= {"context": {"unseen": dict.fromkeys(values, context)}, "notes": ["unseen: a <b>note</b>"]}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "table.json").write_text(json.dumps(table))
    finish(directory, {})


def write_run(directory: Path, config: dict[str, Any] | None = None, lift: float = 0.22) -> Path:
    """A finished run of four stages under `directory`."""
    stages = directory / "stages"
    write_sft(stages / "start")
    write_ppo(stages / "rl")
    write_eval(stages / "evaluate", lift)
    write_compare(stages / "compare")
    (directory / "config.yaml").write_text(yaml.safe_dump(config or CONFIG, sort_keys=False))
    environment = {"versions": {"python": "3.11.2", "torch": "2.13.0"}, "seed": 3, "command": "reasonrl train <demo>"}
    (directory / "environment.json").write_text(json.dumps(environment))
    return directory
