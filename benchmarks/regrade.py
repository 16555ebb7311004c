"""Re-grading 10,000 stored samples against the bare verifier: `python benchmarks/regrade.py --data FOLDER`.

FOLDER holds files of pairs (`*.jsonl` with gold, pred), as for `verifier.py`; long responses come from
`qwen_math100_response`, short ones from `gsm8k_model_solutions`. Both read the same texts from disk into a pool of the
same size, in turns; the verifier's own side keeps nothing. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from reasonrl.eval.regrade import Grading, regrade_suite
from reasonrl.observe.records import encode_record
from reasonrl.rewards.pool import RewardPool

FILES = ("gsm8k_model_solutions", "qwen_math100_response")


def read_pairs(data: Path, count: int) -> list[tuple[str, str]]:
    """So many pairs; those of a later round end in more spaces, so that none is graded from a cache."""
    rows = [json.loads(line) for name in FILES for line in (data / f"{name}.jsonl").open(encoding="utf-8")]
    rounds = -(-count // len(rows))
    return [(str(row["gold"]), row["pred"] + " " * turn) for turn in range(rounds) for row in rows][:count]


def write_suite(folder: Path, pairs: list[tuple[str, str]]) -> None:
    """The pairs as a suite with one sample a problem."""
    folder.mkdir()
    (folder / "settings.json").write_text("{}")
    with (folder / "problems.jsonl").open("wb") as problems, (folder / "samples.jsonl").open("wb") as samples:
        for number, (gold, text) in enumerate(pairs):
            key = {"id": str(number)}
            problems.write(encode_record({**key, "prompt": "", "prompt_hash": "", "answer": gold, "images": 0}))
            stored = {"prompt_hash": "", "seed": "0", "text": text, "finish_reason": "stop", "length": 1}
            judged = {"extracted": None, "class": None, "verdict": "wrong", "reason": "", "right": False}
            rest = {"correct": False, "score": 0.0, "grader": 1}
            samples.write(encode_record({**key, "metric": "sample", "index": 0, **stored, **judged, **rest}))


def bare(folder: Path, pool: RewardPool) -> tuple[float, float]:
    """Seconds of the verifier alone, on the clock and of this process's CPU, on the same texts: read, submit, wait."""

    def texts() -> Iterator[tuple[str, str]]:
        with (folder / "problems.jsonl").open() as problems, (folder / "samples.jsonl").open() as samples:
            for problem, sample in zip(problems, samples, strict=True):
                yield json.loads(problem)["answer"], json.loads(sample)["text"]

    start, cpu = time.perf_counter(), time.process_time()
    pool.map(texts())
    return time.perf_counter() - start, time.process_time() - cpu


def again(folder: Path, pool: RewardPool, turn: int) -> tuple[float, float]:
    """The same of a re-grade."""
    start, cpu = time.perf_counter(), time.process_time()
    regrade_suite(folder, Grading(), f"turn{turn}", pool=pool)
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with files of pairs")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--workers", type=int, help="processes of the verifier (default: by the processors)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.data, arguments.samples)
    with tempfile.TemporaryDirectory() as name, RewardPool(arguments.workers, cache_size=0) as pool:
        folder = Path(name) / "suite"
        write_suite(folder, pairs)
        pool.map(pairs[:500])  # the workers are warm
        times = [(bare(folder, pool), again(folder, pool, turn)) for turn in range(arguments.rounds)]
        workers = pool.settings.workers
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    characters = sum(len(text) for _, text in pairs) / len(pairs)
    print(f"{len(pairs):,} samples of {characters:,.0f} characters, {workers} workers; load average {load}.\n")
    print("| | samples/s, median | range | CPU seconds outside the workers |\n|---|---|---|---|")
    for place, what in enumerate(("verifier alone", "re-grade")):
        rates = [len(pairs) / pair[place][0] for pair in times]
        cpu = statistics.median(pair[place][1] for pair in times)
        print(f"| {what} | {statistics.median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {cpu:.2f} |")
    ratios = [first[0] / second[0] for first, second in times]
    print(f"| re-grade to verifier | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | |")


if __name__ == "__main__":
    main()
