"""Collections of samples by an engine that needs no model; run as a program, one that can be killed."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import CharacterTokenizer, SeededEngine, problems

from reasonrl.eval.recording import SampleOrder
from reasonrl.eval.rollouts import SAMPLES_FOLDER, Collected, collect
from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.rollout.engine import Request, Sample, SamplingParams


class LoggedEngine(SeededEngine):
    """`SeededEngine` with a log-probability a token that is told from seed and place."""

    def _sample(self, request: Request, params: SamplingParams) -> Sample:
        sample = super()._sample(request, params)
        logprobs = tuple(logprob(request.seed, place) for place in range(len(sample.token_ids)))
        return Sample(sample.request, sample.token_ids, sample.text, logprobs, sample.finish_reason, 0)


def logprob(seed: int, place: int) -> float:
    return -math.log1p((seed % 1009 + 13 * place) % 7)


def gather(directory: Path, *, n: int = 4, count: int = 30, pause: float = 0.0, **options: Any) -> Collected:
    asked: dict[str, Any] = {"seed": 3, "stage": "sample", "params": SamplingParams(max_tokens=60)}
    for name in [field.name for field in fields(SampleOrder) if field.name in options]:
        asked[name] = options.pop(name)
    return collect(
        options.pop("engine", None) or LoggedEngine(pause=pause),
        CharacterTokenizer(),
        options.pop("rows", None) or problems(count),
        SampleOrder(n=n, directory=directory, name=SAMPLES_FOLDER, **asked),
        **options,
    )


def rows_of(collected: Collected) -> list[dict[str, Any]]:
    return list(read_rollouts(collected.path))


def content(directory: Path) -> dict[str, Any]:
    """What two equal collections share: the rows byte by byte, and the figures without the clock."""
    statistics = json.loads((directory / "statistics.json").read_text())
    statistics.pop("speed")
    return {"rows": (directory / "rollouts.parquet").read_bytes(), "statistics": statistics}


if __name__ == "__main__":
    import reasonrl.eval.drawing

    reasonrl.eval.drawing.JUDGE_SAMPLES = 7
    gather(Path(sys.argv[1]), pause=0.01, on_progress=lambda done, total, right: print(done, total, flush=True))
