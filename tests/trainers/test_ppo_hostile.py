"""PPO goes on when one completion in fifty tries to hang or break the verifier, and pays all others the same."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import make_run

from reasonrl.rewards.functions import MathReward
from reasonrl.rewards.pool import RewardPool, close_shared_pools

sys.path.insert(0, str(Path(__file__).parents[1] / "rewards"))  # the pool's test graders

EVERY = 50
MATHEMATICAL = [
    r"\boxed{9^{9^{9^{9^{9}}}}}",
    r"\boxed{" + "1" + " 1" * 30_000 + "}",
    "1" + " 1" * 30_000,
    r"\boxed{" * 5_000 + "1" + "}" * 5_000,
    r"\boxed{((20!)!)!}",
    r"\boxed{\binom{10^9}{5\cdot 10^8}}",
]
FOR_THE_TEST_GRADER = [r"HANG \boxed{1}", r"BREAK \boxed{1}"]
HARMLESS = r"so it is \boxed{-7}"  # wrong, as a hostile text is, so that both runs learn the same


class Planted:
    """A reward on texts made from the drawn tokens, every fiftieth of them replaced."""

    __name__ = "planted"
    token_level = False

    def __init__(self, scores: Callable[..., list[Any]], hostile: list[str]) -> None:
        self.scores, self.hostile = scores, hostile
        self.seen = self.planted = 0
        self.statuses: list[str] = []

    def __call__(self, completions: Any, completion_ids: Any, **columns: Any) -> list[Any]:
        texts = []
        for ids in completion_ids:
            texts.append(rf"I think \boxed{{{sum(ids) % 3}}}")
            if self.seen % EVERY == 17:
                texts[-1] = self.hostile[self.planted % len(self.hostile)]
                self.planted += 1
            self.seen += 1
        return self.scores(completions=texts, answer=[str(i % 3) for i in range(len(texts))])


def train(tmp_path: Path, reward: Planted) -> tuple[list[float], list[dict[str, Any]]]:
    run = make_run(tmp_path, rewards=[reward], prompts_per_step=8, num_generations=13, max_steps=3)
    run.trainer.train()
    assert reward.seen == 3 * 104 and reward.planted == 6
    return [sample["reward"] for step in (1, 2, 3) for sample in run.samples[step]], run.metrics


def machine_apart(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name.split("/")[0] not in ("time", "rate", "memory")}
        for line in metrics
    ]


def test_the_math_reward(tmp_path: Path) -> None:
    try:
        plain, plain_metrics = train(tmp_path / "a", Planted(MathReward(workers=2), [HARMLESS]))
        started = time.monotonic()
        rewards, metrics = train(tmp_path / "b", Planted(MathReward(workers=2), MATHEMATICAL))
    finally:
        close_shared_pools()
    assert rewards == plain and 60 < sum(rewards) < 160
    assert time.monotonic() - started < 6 * 2.5 + 30
    assert [line["reward"] for line in metrics] == [line["reward"] for line in plain_metrics]
    assert [line["policy_loss"] for line in metrics] == [line["policy_loss"] for line in plain_metrics]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_grader_that_hangs_and_breaks(tmp_path: Path, workers: int) -> None:
    with RewardPool(workers, time_limit=0.5, grader="pool_graders:math_or_worse", cache_size=0) as pool:

        def scores(completions: list[str], answer: list[str]) -> list[Any]:
            verdicts = pool.map(list(zip(answer, completions, strict=True)))
            statuses.extend(verdict.status for verdict in verdicts)
            return [verdict.score for verdict in verdicts]

        statuses: list[str] = []
        plain, plain_metrics = train(tmp_path / "a", Planted(scores, [HARMLESS]))
        assert pool.counters().kills == 0 and set(statuses) == {"correct", "wrong"}
        rewards, metrics = train(tmp_path / "b", Planted(scores, FOR_THE_TEST_GRADER))
        counters = pool.counters()
    assert rewards == plain and 60 < sum(rewards) < 160
    assert machine_apart(metrics) == machine_apart(plain_metrics)
    assert (statuses.count("timeout"), statuses.count("crash")) == (3, 3)
    assert (counters.kills, counters.crashes) == (3, 6)
