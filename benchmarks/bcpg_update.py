"""Cost of an update on logged samples over a bare packed forward and backward pass of the same tokens; prints JSON.

    python benchmarks/bcpg_update.py [--model tiny:qwen2] [--samples 96] [--tokens 8192]

The bare side reads the log-probabilities of the response's tokens from packed rows, takes their mean and goes back; the
update does what a step of training does, optimizer included. They take turns, and each side's best round counts: CPU
time where there is no accelerator, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from reasonrl.algorithms.batching import plan_packed_rows
from reasonrl.data_tools.loading import load_rows
from reasonrl.data_tools.prompts import as_messages, prompt_ids
from reasonrl.models import load_policy
from reasonrl.models.lm_head import LogprobReader
from reasonrl.models.packing import packed_inputs
from reasonrl.trainers.bcpg import BCPGConfig, BCPGTrainer
from reasonrl.trainers.logged_rows import LoggedData, Reading, read_logged


def logged(tokenizer: Any, count: int) -> LoggedData:
    """Written solutions of the world `reflective` as samples, four a problem by name, half of them wrong by name."""
    rows = []
    for number, row in enumerate(load_rows(world="reflective", n=count)):
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        sample = {
            "id": str(number),
            "problem_id": str(number // 4),
            "correct": number % 2 == 0,
            "finish_reason": "stop",
        }
        sample |= {"prompt_ids": prompt_ids(tokenizer, as_messages(row)), "completion_ids": ids}
        rows.append((f"row {number}", {**sample, "text": row["text"], "steps": row["steps"], "labels": row["labels"]}))
    return read_logged(rows, tokenizer, "bcpg", Reading(logprobs="optional"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny:qwen2")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model, tokenizer = load_policy(options.model)
    data = logged(tokenizer, options.samples)
    config = BCPGConfig(samples_per_step=options.samples, tokens_per_microbatch=options.tokens, max_steps=1000)
    with tempfile.TemporaryDirectory() as folder:
        trainer = BCPGTrainer(model, tokenizer, config, data, reference=Path(folder) / "reference")
        trainer.make_reference()
        device, reader = trainer.accelerator.device, LogprobReader(1.0)
        plan = plan_packed_rows(range(options.samples), trainer.lengths, options.tokens)

        def bare() -> None:
            for group in plan:
                samples = [data.samples[row] for row in group]
                sequences = [torch.tensor([*s.prompt_ids, *s.completion_ids], device=device) for s in samples]
                inputs = packed_inputs(sequences)
                labels = torch.cat(
                    [
                        torch.cat([torch.full((len(s.prompt_ids),), -100, device=device), ids[len(s.prompt_ids) :]])
                        for s, ids in zip(samples, sequences, strict=True)
                    ]
                )
                logprobs, _ = reader(trainer.model, labels.unsqueeze(0), inputs, entropy=False)
                (-logprobs.mean()).backward()
            trainer.model.zero_grad()

        clock = time.perf_counter if device.type == "cuda" else time.process_time
        best = {"bare": float("inf"), "update": float("inf")}
        trainer.engine.model.train()
        for _ in range(options.rounds):
            for name, work in (("bare", bare), ("update", lambda: trainer.one_step(range(options.samples)))):
                started = clock()
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best[name] = min(best[name], clock() - started)
    tokens = sum(trainer.lengths)
    print(
        json.dumps({"tokens": tokens, **best, "ratio": best["update"] / best["bare"], "packed": trainer.passes.packed})
    )


if __name__ == "__main__":
    main()
