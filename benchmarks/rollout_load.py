"""The prompts that the benchmarks of vLLM draw from."""

from __future__ import annotations

import torch

from reasonrl.rollout import Request, sample_seed

# name -> (prompts, samples a prompt, tokens of a prompt, most response tokens)
CASES = {
    "64 prompts of 64 tokens, up to 128 drawn": (64, 1, 64, 128),
    "16 prompts of 256 tokens x 8, up to 48 drawn": (16, 8, 256, 48),
}
LENGTH = 512
"""Tokens of prompt and response together, at most."""


def requests_of(case: tuple[int, int, int, int], vocabulary: int, turn: int) -> list[Request]:
    """Random prompts that are new in every turn, each repeated for its samples."""
    count, samples, length, _ = case
    generator = torch.Generator().manual_seed(turn)
    prompts = torch.randint(3, vocabulary, (count, length), generator=generator).tolist()
    return [
        Request(str(place), tuple(prompts[place // samples]), sample_seed("benchmark", turn, place))
        for place in range(count * samples)
    ]
