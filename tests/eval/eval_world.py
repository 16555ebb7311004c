"""A rollout engine and tokenizer without a network: what a sample says depends on its request's seed alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas

from reasonrl.eval.samples import read_problems, read_samples
from reasonrl.rollout.engine import Request, Sample, SamplingParams


class CharacterTokenizer:
    """One token a character; no chat template."""

    chat_template = None
    bos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


class SeededEngine:
    """Answers `a + b = ?`: rightly with a chance given by the seed, sometimes with no answer, sometimes cut off.

    Args:
        skill: chance of a right answer at temperature 1, of 1000.
        pause: seconds a sample.
    """

    def __init__(self, skill: int = 500, pause: float = 0.0) -> None:
        self.skill, self.pause = skill, pause
        self.served: list[str] = []

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        # Out of order, as real engines finish.
        for request in sorted(requests, key=lambda request: request.seed):
            time.sleep(self.pause)
            self.served.append(request.id)
            yield self._sample(request, params)

    def _sample(self, request: Request, params: SamplingParams) -> Sample:
        text = "".join(map(chr, request.prompt_ids))
        first, second = (int(word) for word in text.replace("?", "").replace("=", "").split("+"))
        draw = request.seed % 1000 if params.temperature > 0 else (first * 37 + second * 11) % 1000
        cut = request.seed % 17 == 0 and params.temperature > 0
        answer = f"it is \\boxed{{{first + second + (0 if draw < self.skill else 1)}}}"
        if draw >= 950:
            answer = "I tried for a while.\n\nThen the sum was too hard for me and I stopped."
        ids = tuple(map(ord, answer))[: params.max_tokens]
        return Sample(request, ids, answer, (0.0,) * len(ids), "length" if cut else "stop", 0)

    def close(self) -> None:
        return None


def problems(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"p{index}", "problem": f"{index} + {3 * index} = ?", "answer": str(4 * index)} for index in range(count)
    ]


def table(directory: Path, suite: str = "sums") -> pandas.DataFrame:
    """The samples of a suite in order, each with its problem's prompt and answer."""
    problems = read_problems(directory / suite)
    rows = [
        row | {name: problems[row["id"]][name] for name in ("prompt", "answer")}
        for row in read_samples(directory / suite)
    ]
    return pandas.DataFrame(rows)


def content(directory: Path, *suites: str) -> dict[str, str | bytes]:
    """What two equal evaluations share: all files, with the samples in order."""
    found: dict[str, str | bytes] = {"results.json": (directory / "results.json").read_bytes()}
    for suite in suites or ("sums",):
        found |= {name: (directory / suite / name).read_bytes() for name in ("settings.json", "problems.jsonl")}
        found[suite] = json.dumps(read_samples(directory / suite))
    return found


def evaluate(
    directory: Path,
    *,
    n: int = 4,
    pause: float = 0.0,
    count: int = 40,
    engine: SeededEngine | None = None,
    **options: Any,
) -> Any:
    from reasonrl.eval.recording import SampleOrder
    from reasonrl.eval.run import run_suite

    asked: dict[str, Any] = {"seed": 3, "stage": "evaluate", "greedy": True, "name": options.pop("suite_name", "sums")}
    asked["params"] = SamplingParams(max_tokens=50, temperature=1.0)
    for name in [field.name for field in fields(SampleOrder) if field.name in options]:
        asked[name] = options.pop(name)
    return run_suite(
        engine if engine is not None else SeededEngine(pause=pause),
        CharacterTokenizer(),
        options.pop("rows", None) or problems(count),
        SampleOrder(n=n, directory=directory, **asked),
        **{"k": (1, 2), **options},
    )


if __name__ == "__main__":
    import reasonrl.eval.drawing

    reasonrl.eval.drawing.JUDGE_SAMPLES = 10
    evaluate(Path(sys.argv[1]), pause=0.01, on_progress=lambda done, total, right: print(done, total, flush=True))
