"""What an evaluation costs beyond bare generation: the same requests through the same engine, with and without keeping,
judging and recording.

    OMP_NUM_THREADS=1 python benchmarks/eval_overhead.py [--engine vllm] [--problems 64] [--n 4] [--max-tokens 256]

Rounds alternate, so that what else the machine does falls on both; the ratio of medians is printed, of wall and of CPU
seconds (this process and the graders'). Last the same samples are evaluated without being drawn: what is left is the
work that stands in the engine's way, which a busy machine does not hide (the graders have processes of their own).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "tiny:qwen2:hidden_size=512,num_hidden_layers=6,num_attention_heads=8,num_key_value_heads=4"


def cpu_seconds() -> float:
    """Of this process and of all its descendants, living ones too."""
    import psutil

    process = psutil.Process()
    found = [process, *process.children(recursive=True)]
    times = os.times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in found[1:]:
        try:
            spent += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return spent


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from reasonrl.data_tools.loading import load_rows
    from reasonrl.eval.questions import prepare
    from reasonrl.eval.recording import SampleOrder
    from reasonrl.eval.run import run_suite
    from reasonrl.pipeline.stages.common import evaluation_engine
    from reasonrl.recipe import RolloutConfig
    from reasonrl.rollout import Request, SamplingParams, sample_seed

    rollout = RolloutConfig(engine=options.engine, batch_size=options.batch_size)
    folder = Path(tempfile.mkdtemp(prefix="reasonrl-overhead-"))
    engine, tokenizer = evaluation_engine(rollout, options.model, options.max_tokens, folder)
    rows = load_rows(world="arithmetic", n=options.problems, seed=0, split="test")
    params = SamplingParams(options.max_tokens)
    questions = prepare(tokenizer, rows)
    keys = [(key, "sample", index) for key in questions for index in range(options.n)]

    drawn: list[Any] = []

    def bare() -> None:
        requests = [
            Request(json.dumps(key), questions[key[0]].ids, sample_seed(0, "eval", "s", key[0], key[2])) for key in keys
        ]
        drawn[:] = engine.stream(requests, params)
        assert len(drawn) == len(keys)

    class Replay:
        """Hands over the samples that there are."""

        def stream(self, requests: Any, params: Any) -> Any:
            return iter(drawn)

    def whole(turn: int, engine: Any = engine) -> None:
        target = folder / str(turn)
        run_suite(engine, tokenizer, rows, SampleOrder(options.n, params, target, "s", seed=0))
        shutil.rmtree(target)

    bare()  # compiles, fills caches
    whole(-1)  # starts the graders, which later suites of an evaluation find there
    spent: dict[str, list[tuple[float, float]]] = {"bare": [], "eval": []}
    for turn in range(options.rounds):
        for name, work in (("bare", bare), ("eval", lambda turn=turn: whole(turn))):
            start: Any = (time.perf_counter(), cpu_seconds())
            work()
            spent[name].append((time.perf_counter() - start[0], cpu_seconds() - start[1]))
    medians = {}
    for place, unit in enumerate(("wall", "CPU")):
        seconds = {name: statistics.median(found[place] for found in rounds) for name, rounds in spent.items()}
        ratio = seconds["eval"] / seconds["bare"] - 1
        medians[unit] = seconds["bare"]
        both = f"bare {seconds['bare']:.2f} s, eval {seconds['eval']:.2f} s"
        print(f"{options.engine}, {len(keys)} samples, {unit}: {both}, overhead {100 * ratio:+.1f} %")
    own = []
    for turn in range(5):
        begun = time.process_time()
        whole(turn, Replay())
        own.append(time.process_time() - begun)
    cost = statistics.median(own)
    share = 100 * cost / medians["CPU"]
    print(f"without drawing, CPU of this process: {1000 * cost / len(keys):.2f} ms a sample, {share:.1f} % of bare")
    engine.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
