"""What keeping samples costs beside drawing them: `python benchmarks/rollout_record.py`.

An engine that draws nothing hands over long samples with token ids and log-probabilities; measured are CPU seconds a
million tokens (verified, recorded, and turned into rows) and how much the peak of resident memory grows. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasonrl.eval.recording import SampleOrder
from reasonrl.eval.rollouts import SAMPLES_FOLDER, collect
from reasonrl.rollout.engine import Request, Sample, SamplingParams


class Tokenizer:
    """One token a character; no chat template."""

    chat_template = None
    bos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


class Ready:
    """Hands over one sample again and again."""

    def __init__(self, tokens: int) -> None:
        draw = np.random.default_rng(0)
        self.ids = tuple(int(one) for one in draw.integers(0, 150_000, tokens))
        self.logprobs = tuple(-float(one) for one in draw.exponential(0.3, tokens))
        self.text = "We add the numbers and see. " * (tokens // 8) + "The answer is \\boxed{4}."

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        for request in requests:
            yield Sample(request, self.ids, self.text, self.logprobs, "stop", 0)

    def sync_weights(self, weights: Any, version: int) -> None:
        raise NotImplementedError("nothing is drawn here")

    def close(self) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=7_000, help="of a sample")
    parser.add_argument("--samples", type=int, default=720)
    arguments = parser.parse_args()
    rows = [{"id": f"p{k}", "problem": f"{k}?", "answer": "4" if k % 3 else "5"} for k in range(arguments.samples // 8)]
    engine = Ready(arguments.tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        params = SamplingParams(arguments.tokens)
        order = SampleOrder(8, params, folder, SAMPLES_FOLDER, seed=0, stage="rollout")
        collected = collect(engine, Tokenizer(), rows, order)
        seconds = time.process_time() - began
        record = (Path(folder) / "samples" / "samples.jsonl").stat().st_size
    tokens = collected.statistics["response_tokens"]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print("| samples | tokens | CPU s a million tokens | record, bytes a token | memory grown by |")
    print("|---:|---:|---:|---:|---:|")
    print(
        f"| {collected.statistics['samples']:,} | {tokens:,} | {1e6 * seconds / tokens:.2f} | {record / tokens:.1f}"
        f" | {grown:.0f} MiB |"
    )


if __name__ == "__main__":
    main()
