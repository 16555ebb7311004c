"""Samples scored as they end, against all of them after the last: `python benchmarks/rollout_streaming.py`.

Generation (this process) is held to one core, the verifier's workers to another. The reward asks the verifier several
times about each sample, with answers that computer algebra works on, so that verifying takes about as long as
generating; how often is found beforehand, or given (`--questions`). Four things take turns, round after round: generate
alone, verify alone, batch then score (A), streaming (B). The aim is B at most 1.08 x max(generate alone, verify alone).

What counts is wall time, so the machine must be otherwise idle; `--engine vllm` wants `.venv-vllm`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import torch

from reasonrl.models import load_policy
from reasonrl.rewards import get_reward
from reasonrl.rewards.pool import shared_pool
from reasonrl.rollout import Request, RolloutEngine, Sample, SamplingParams, build_engine, sample_seed
from reasonrl.trainers.streaming import EarlyRewards

MODEL = "tiny:qwen2:hidden_size=256,intermediate_size=1024,num_hidden_layers=4,num_attention_heads=4"
SAMPLES, MOST_TOKENS, BATCH = 384, 96, 32
STOP_EVERY = 40
"""One token in so many ends a sample: a random model would stop nowhere, and all of a batch would end together."""
AIM = 1.08
Row = dict[str, Any]


def question(turn: int, sample: int, number: int) -> tuple[str, str]:
    """A gold and a response that is right in another form; every response is another text, so no cache answers."""
    n = 2 + number % 7
    gold, answer = (
        (rf"\int_0^1 x^{n} dx", rf"\frac{{1}}{{{n + 1}}}"),
        (rf"\sin(2x)+{n}", rf"2\sin(x)\cos(x)+{n}"),
        (rf"e^{{2\ln(x+{n})}}", rf"x^2+{2 * n}x+{n * n}"),
    )[number % 3]
    return gold, rf"In turn {turn}, sample {sample}, answer {number} is \boxed{{{answer}}}"


class Repeated:
    """The reward `math` on several questions a sample; its score is their sum."""

    token_level = False

    def __init__(self, times: int) -> None:
        self.__name__ = "repeated"
        self.times, self.turn = times, 0
        self.math: Any = get_reward({"name": "math", "args": {"workers": 1}})

    def _asked(self, row_id: str) -> list[tuple[str, str]]:
        return [question(self.turn, int(row_id), number) for number in range(self.times)]

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin all questions about one sample."""
        for gold, said in self._asked(row["id"]):
            self.math.begin(prompt, said, {"answer": gold})

    def __call__(self, ids: Sequence[str]) -> list[float]:
        """The sums, in the order of the samples."""
        golds, said = zip(*(pair for one in ids for pair in self._asked(one)), strict=True)
        scores = self.math(completions=said, answer=golds)
        return [sum(scores[start : start + self.times]) for start in range(0, len(scores), self.times)]


class Arms:
    """What is timed; each call draws and grades anew."""

    def __init__(self, engine: RolloutEngine, prompts: list[tuple[int, ...]], reward: Repeated) -> None:
        self.engine, self.prompts, self.reward = engine, prompts, reward
        self.rows: list[Row] = [{"id": str(place), "prompt": "p"} for place in range(len(prompts))]
        self.early = EarlyRewards([reward])
        self.ids = [row["id"] for row in self.rows]

    def _draw(self, arrived: Callable[[Row, Sample], None] | None = None) -> None:
        seeds = [sample_seed("streaming", place) for place in range(len(self.prompts))]  # the same tokens every time
        requests = [Request(str(place), ids, seeds[place]) for place, ids in enumerate(self.prompts)]
        for sample in self.engine.stream(requests, SamplingParams(MOST_TOKENS)):
            if arrived is not None:
                arrived(self.rows[int(sample.request.id)], sample)

    def generate(self) -> None:
        """Draw all samples."""
        self._draw()

    def verify(self) -> None:
        """Score all samples, which are there."""
        self.reward.turn += 1
        assert set(self.reward(self.ids)) == {float(self.reward.times)}, "every answer is right"

    def batch_then_score(self) -> None:
        """Arm A."""
        self._draw()
        self.verify()

    def streaming(self) -> None:
        """Arm B."""
        self.reward.turn += 1
        self._draw(self.early.begin)
        assert set(self.reward(self.ids)) == {float(self.reward.times)}


def timed(arm: Callable[[], None]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    arm()
    return time.perf_counter() - start


def hold_to_cores() -> tuple[int, int]:
    """This process (all its threads) to one core, the pool's processes to another."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one generates, one verifies")
    shared_pool(1).map([("1", r"\boxed{1}")])  # the workers are there
    for child in psutil.Process().children(recursive=True):
        child.cpu_affinity([cores[1]])  # what the template forks later inherits it
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, {cores[0]})
    return cores[0], cores[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, help="verdicts a sample; found if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_policy(MODEL)
    model.eval()
    engine = build_engine(options.engine, model, tokenizer, batch_size=BATCH)
    engine.stop_ids = frozenset(range(0, len(tokenizer), STOP_EVERY)) | engine.stop_ids  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(3, len(tokenizer), (32,), generator=generator).tolist()) for _ in range(SAMPLES)]
    reward = Repeated(options.questions or 6)
    arms = Arms(engine, prompts, reward)
    cores = hold_to_cores()
    arms.streaming()  # warm: both sides have done everything once
    if options.questions is None:
        reward.times = max(1, round(reward.times * timed(arms.generate) / timed(arms.verify)))
    print(
        f"{options.engine} engine, {MODEL}, {SAMPLES} samples of up to {MOST_TOKENS} tokens, {reward.times} verdicts"
        f" each; generation on core {cores[0]}, 1 worker on core {cores[1]}; seconds"
    )
    seconds: dict[str, list[float]] = {"generate": [], "verify": [], "A batch then score": [], "B streaming": []}
    for _ in range(options.rounds):
        turns = (arms.generate, arms.verify, arms.batch_then_score, arms.streaming)
        for name, arm in zip(seconds, turns, strict=True):
            seconds[name].append(timed(arm))
    for name, values in seconds.items():
        print(f"{name:20} {statistics.median(values):7.2f} ({min(values):.2f} to {max(values):.2f})")
    for name in ("A batch then score", "B streaming"):
        longest = [max(pair) for pair in zip(seconds["generate"], seconds["verify"], strict=True)]
        ratios = [value / bound for value, bound in zip(seconds[name], longest, strict=True)]
        print(
            f"{name} / max(generate, verify): {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    bound = max(min(seconds["generate"]), min(seconds["verify"]))
    print(
        f"B / bound, the shortest of all rounds each: {min(seconds['B streaming']) / bound:.2f}; the aim: at most {AIM}"
    )
    engine.close()


if __name__ == "__main__":
    main()
