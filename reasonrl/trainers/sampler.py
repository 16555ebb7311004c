"""The order of prompts: one seeded stream for the whole run, so that stopping, resuming and extending never change
what comes next.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler


class PromptStream(Sampler[int]):
    """Indices of rows for `steps` rollout batches, each prompt repeated `num_generations` times in a row.

    Pass e over the data is a permutation seeded by (seed, e), or, unshuffled, the rows' own order; batches run across
    the ends of passes, so no row is left out and no batch is short. A longer stream starts with the shorter one.
    """

    def __init__(
        self, rows: int, *, prompts_per_step: int, num_generations: int, steps: int, seed: int, shuffle: bool = True
    ) -> None:
        if rows < 1:
            raise ValueError("PromptStream: there is no row to draw from")
        self.rows, self.prompts, self.samples, self.steps, self.seed = (
            rows,
            prompts_per_step,
            num_generations,
            steps,
            seed,
        )
        self.shuffle = shuffle

    def __len__(self) -> int:
        return self.steps * self.prompts * self.samples

    def batch(self, step: int) -> list[int]:
        """Indices of the rollout batch of this step, counted from 0, also beyond the end of the stream."""
        return [index for index in self.places(step * self.prompts, self.prompts) for _ in range(self.samples)]

    def places(self, first: int, count: int) -> list[int]:
        """Indices of `count` prompts of the endless stream, from its `first` one on, each once."""
        last = first + count
        indices: list[int] = []
        for epoch in range(first // self.rows, (last - 1) // self.rows + 1):
            start = epoch * self.rows
            indices += self._order(epoch)[max(first - start, 0) : last - start]
        return indices

    def _order(self, epoch: int) -> list[int]:
        order = list(range(self.rows))
        if self.shuffle:
            random.Random(f"prompts/{self.seed}/{epoch}").shuffle(order)
        return order

    def __iter__(self) -> Iterator[int]:
        left = self.steps * self.prompts
        epoch = 0
        while left > 0:
            order = self._order(epoch)
            for index in order[:left]:
                for _ in range(self.samples):
                    yield index
            left -= len(order)
            epoch += 1
