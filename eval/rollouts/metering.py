"""How fast samples came and what they cost, over all tries of a stage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.observe import write_atomically
from reasonrl.observe.records import encode_record, iter_records

if TYPE_CHECKING:
    import torch

    from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams

_SAVE_SECONDS = 5.0


class Metered:
    """A rollout engine with a clock: samples, tokens and seconds of this try, beside those of the tries before.

    The seconds are those between the first request and the last sample, verification in between included; a kill loses
    the last few of them.

    Args:
        engine: draws.
        path: one line a try.
    """

    def __init__(self, engine: RolloutEngine, path: Path) -> None:
        self.engine, self.path = engine, path
        self._before = list(iter_records(path))
        self._started = time.time()
        self._seconds = 0.0
        self._samples = self._response_tokens = self._prompt_tokens = 0

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """As the engine's."""
        latest = saved = time.monotonic()
        for sample in self.engine.stream(requests, params):
            now = time.monotonic()
            self._seconds, latest = self._seconds + now - latest, now
            self._samples += 1
            self._response_tokens += sample.length
            self._prompt_tokens += len(sample.request.prompt_ids)
            if now - saved > _SAVE_SECONDS:
                self.save()
                saved = now
            yield sample

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """As the engine's."""
        self.engine.sync_weights(weights, version)

    def close(self) -> None:
        """As the engine's."""
        self.engine.close()

    def save(self) -> None:
        """Write this try's line anew, if it drew anything."""
        if self._samples:
            write_atomically(self.path, b"".join(map(encode_record, [*self._before, self._attempt()])))

    def summary(self) -> dict[str, Any]:
        """Sums over all tries, and rates of those that drew."""
        attempts = [*self._before, *([self._attempt()] if self._samples else [])]
        total = {
            name: sum(attempt.get(name) or 0 for attempt in attempts)
            for name in ("seconds", "samples", "response_tokens", "prompt_tokens", "requests", "cost")
        }
        seconds = total["seconds"]
        return {
            "attempts": len(attempts),
            **total,
            "samples_per_second": total["samples"] / seconds if seconds else None,
            "tokens_per_second": total["response_tokens"] / seconds if seconds else None,
        }

    def _attempt(self) -> dict[str, Any]:
        return {
            "started": self._started,
            "process": os.getpid(),
            "seconds": self._seconds,
            "samples": self._samples,
            "response_tokens": self._response_tokens,
            **self._used(),
        }

    def _used(self) -> Mapping[str, Any]:
        """What an endpoint's own meter says; the prompts' tokens as they were sent for other engines."""
        client = getattr(self.engine, "client", None)
        if client is None:
            return {"prompt_tokens": self._prompt_tokens, "requests": 0, "cost": 0.0}
        counters = client.counters()
        return {"prompt_tokens": counters.prompt_tokens, "requests": counters.requests, "cost": counters.cost}
