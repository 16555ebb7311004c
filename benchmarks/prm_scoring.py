"""Cost of step scores over a bare packed forward pass of the same tokens; prints JSON.

    python benchmarks/prm_scoring.py [--model tiny:qwen2] [--solutions 2000] [--file gsm8k.jsonl]

Both sides read the same rows; the scorer also renders prompts, tokenises, finds step ends and turns numbers into lists.
They take turns, and each side's best round counts: CPU time where there is no accelerator, which other work on the
machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from reasonrl.algorithms.batching import plan_packed_rows
from reasonrl.data_tools.loading import load_rows
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.models.packing import packed_inputs
from reasonrl.prm.processbench import read_processbench
from reasonrl.prm.scoring import StepScorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny:qwen2")
    parser.add_argument("--solutions", type=int, default=2000)
    parser.add_argument("--file", help="a subset of ProcessBench instead of the world `reflective`")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ScalarHeadModel.from_pretrained(options.model).to(device).eval()
    tokenizer = load_tokenizer(options.model)
    if options.file:
        solutions = read_processbench(options.file)[: options.solutions]
    else:
        solutions = list(load_rows(world="reflective", n=options.solutions))
    scorer = StepScorer(model, tokenizer, tokens_per_microbatch=options.tokens)
    assert scorer.packed, scorer.obstacle
    sequences = [torch.tensor(scorer.encoder(one).ids, device=device) for one in solutions]
    lengths = [len(sequence) for sequence in sequences]
    plan = plan_packed_rows(range(len(sequences)), lengths, options.tokens)

    def bare() -> None:
        with torch.no_grad():
            for group in plan:
                model(**packed_inputs([sequences[index] for index in group])).sum().item()

    def scored() -> None:
        scorer.encoder._prompts.clear()
        scorer(solutions)

    clock = time.perf_counter if device == "cuda" else time.process_time
    best = {"bare": float("inf"), "scored": float("inf")}
    for _ in range(options.rounds):
        for name, work in (("bare", bare), ("scored", scored)):
            began = clock()
            work()
            best[name] = min(best[name], clock() - began)
    print(
        json.dumps(
            {
                "model": options.model,
                "solutions": len(solutions),
                "tokens": sum(lengths),
                "bare_tokens_per_second": round(sum(lengths) / best["bare"]),
                "scored_tokens_per_second": round(sum(lengths) / best["scored"]),
                "ratio": round(best["scored"] / best["bare"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
