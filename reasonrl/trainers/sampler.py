"""The order of prompts: one seeded stream for the whole run, so that stopping, resuming and extending never change
what comes next.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Sampler

from reasonrl.errors import ModelError


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


class MixedStream(PromptStream):
    """Batches with prompts of several kinds in shares that may change with the step.

    Each kind is gone through in its own order; the counts of a step are those that bring what was drawn so far nearest
    to what the shares ask for, so that small shares are met over several steps.

    Args:
        labels: the kind of every row.
        weights: kind -> weight, a mapping a phase; kinds without one are not drawn.
        at: steps made after which each phase but the first holds.
        settings: as of `PromptStream`.
    """

    def __init__(
        self, labels: Sequence[str], weights: Sequence[Mapping[str, float]], at: Sequence[int], **settings: Any
    ) -> None:
        super().__init__(len(labels), **settings)
        places: dict[str, list[int]] = {}
        for place, label in enumerate(labels):
            places.setdefault(label, []).append(place)
        named = sorted({label for phase in weights for label, weight in phase.items() if weight > 0})
        missing = [label for label in named if label not in places]
        if missing:
            raise ModelError(
                f"ppo: schedules.data: no row is of the kind {missing[0]!r} -> kinds: {', '.join(sorted(places))}"
            )
        self.places_of = {label: places[label] for label in named}
        self.shares_of = [[phase.get(label, 0.0) / sum(phase.values()) for label in named] for phase in weights]
        self.at = list(at)
        self._streams = {
            label: PromptStream(len(rows), **{**settings, "num_generations": 1})
            for label, rows in self.places_of.items()
        }
        #: Prompts of each kind in the steps before each step, as far as they were asked for; and what was due.
        self._given = [[0] * len(named)]
        self._due = [0.0] * len(named)

    def shares(self, step: int) -> dict[str, float]:
        """Each kind's share of the prompts of a step."""
        before, after = self._counts(step), self._counts(step + 1)
        return {label: (after[place] - before[place]) / self.prompts for place, label in enumerate(self.places_of)}

    def batch(self, step: int) -> list[int]:
        """As of `PromptStream`; kinds are mixed within the batch."""
        before, after = self._counts(step), self._counts(step + 1)
        chosen: list[int] = []
        for number, (label, rows) in enumerate(self.places_of.items()):
            count = after[number] - before[number]
            if count:
                chosen += [rows[place] for place in self._streams[label].places(before[number], count)]
        random.Random(f"mix/{self.seed}/{step}").shuffle(chosen)
        return [index for index in chosen for _ in range(self.samples)]

    def _counts(self, step: int) -> list[int]:
        while len(self._given) <= step:
            shares = self.shares_of[bisect.bisect_right(self.at, len(self._given) - 1)]
            self._due = [due + self.prompts * share for due, share in zip(self._due, shares, strict=True)]
            given = list(self._given[-1])
            for _ in range(self.prompts):
                # Only kinds of this phase: what an earlier one was owed is not made up for.
                able = [place for place, share in enumerate(shares) if share > 0]
                given[max(able, key=lambda place: (self._due[place] - given[place], -place))] += 1
            self._given.append(given)
            if len(self._given) - 1 in self.at:
                self._due = [float(count) for count in given]
        return self._given[step]

    def places(self, first: int, count: int) -> list[int]:
        """Not possible: which prompt comes next hangs on the step."""
        raise NotImplementedError("a mix by steps has no endless order of prompts")

    def __iter__(self) -> Iterator[int]:
        for step in range(self.steps):
            yield from self.batch(step)
