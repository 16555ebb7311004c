"""The transformers engine against `model.generate` on the same prompts: `python benchmarks/rollout.py`.

The two take turns (A B A B …) in one process, and what counts is response tokens a CPU second, so that a busy machine
disturbs the ratio little; on one thread, because idle threads that spin would be counted. The two draw different
responses, so tokens are counted, not samples.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from reasonrl.models import load_policy
from reasonrl.rollout import Request, SamplingParams, build_engine, sample_seed

MODEL = "tiny:qwen2:hidden_size=256,intermediate_size=1024,num_hidden_layers=4,num_attention_heads=4"
ROUNDS = 3
BATCH = 64
# name -> (prompts, samples a prompt, shortest and longest prompt in tokens, most response tokens)
CASES = {
    "64 prompts of 64 tokens, up to 64 drawn": (64, 1, (64, 64), 64),
    "64 prompts of 16 to 256 tokens, up to 64 drawn": (64, 1, (16, 256), 64),
    "4 prompts of 512 tokens x 16, up to 32 drawn": (4, 16, (512, 512), 32),
    "64 prompts of 64 tokens, up to 256 drawn": (64, 1, (64, 64), 256),
}


def prompts_of(case: tuple[int, int, tuple[int, int], int], vocabulary: int) -> list[tuple[int, ...]]:
    """Random prompts, each repeated for its samples."""
    count, samples, (shortest, longest), _ = case
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for place in range(count):
        length = shortest + (longest - shortest) * place // max(1, count - 1)
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        prompts += [tuple(ids)] * samples
    return prompts


def with_engine(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], most: int, turn: int) -> int:
    """Response tokens drawn by our engine."""
    engine = build_engine("transformers", model, tokenizer, batch_size=BATCH)
    requests = [Request(str(place), ids, sample_seed("benchmark", turn, place)) for place, ids in enumerate(prompts)]
    return sum(len(sample.token_ids) for sample in engine.stream(requests, SamplingParams(most)))


def with_generate(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], most: int, turn: int) -> int:
    """Response tokens drawn by `generate`, in batches of the same size; what follows the end token does not count."""
    torch.manual_seed(turn)
    drawn = 0
    for start in range(0, len(prompts), BATCH):
        batch = [{"input_ids": list(ids)} for ids in prompts[start : start + BATCH]]
        inputs = tokenizer.pad(batch, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=most)
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            drawn += row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
    return drawn


def rate(draw: Callable[..., int], *arguments: Any) -> float:
    """Response tokens a CPU second of one call."""
    start = time.process_time()
    return draw(*arguments) / (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    model, tokenizer = load_policy(MODEL)
    model.eval()
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{MODEL}, {size:.1f} M parameters, 1 thread, {ROUNDS} rounds; response tokens a CPU second")
    for name, case in CASES.items():
        prompts = prompts_of(case, len(tokenizer))
        for draw in (with_engine, with_generate):
            draw(model, tokenizer, prompts[:4], 4, -1)  # the first call compiles and caches
        pairs = [
            tuple(rate(draw, model, tokenizer, prompts, case[3], turn) for draw in (with_engine, with_generate))
            for turn in range(ROUNDS)
        ]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(one / other for one, other in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(
            f"{name:<48} engine {ours:7.0f}  generate {theirs:7.0f}  ratio {statistics.median(ratios):.2f} ({spread})"
        )


if __name__ == "__main__":
    main()
