"""Metrics of one step as sums and counts: added up over micro-batches and ranks, divided once."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from reasonrl.observe.phases import phase


class Meter:
    """Collects weighted sums and wall times of one step."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)
        self.times: dict[str, float] = defaultdict(float)

    def clear(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._counts.clear()
        self.times.clear()

    def add(self, name: str, total: torch.Tensor | float, count: float) -> None:
        """Add a sum and how much it counts; every rank must add the same names."""
        self._sums[name] = self._sums[name] + (total.detach().double() if isinstance(total, torch.Tensor) else total)
        self._counts[name] += count

    def forget(self, name: str) -> None:
        """Start a sum anew: of what is asked for is then the last part of the step."""
        self._sums.pop(name, None)
        self._counts.pop(name, None)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall time of a block, in seconds."""
        started = time.perf_counter()
        try:
            with phase(name.rpartition("/")[2]):
                yield
        finally:
            self.times[name] += time.perf_counter() - started

    def means(self) -> dict[str, float]:
        """sum / count of every name over all ranks; names that count nothing are left out. A collective call."""
        names = sorted(self._sums)
        if not names:
            return {}
        device = self._accelerator.device
        pairs = torch.tensor(
            [[float(self._sums[n]), self._counts[n]] for n in names], dtype=torch.float64, device=device
        )
        pairs = self._accelerator.reduce(pairs, reduction="sum")
        return {name: total / count for name, (total, count) in zip(names, pairs.tolist(), strict=True) if count > 0}
