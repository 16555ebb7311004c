"""Episodes of synthesis: a problem with a fresh draw of its pool's messages at every visit, and what comes of them.

An episode is one synthesis call (arXiv 2601.05593, section 2.2): |M| ~ U{low, …, high} messages of the pool without
replacement, in a fresh order. All samples of an instance share one draw.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.pools import PoolProblem
from reasonrl.pacore.synthesis import SynthesisPrompt, with_messages
from reasonrl.rollout.seeds import sample_seed


@dataclass(frozen=True)
class Law:
    """How many messages an episode has: uniform on low, …, high; equal numbers fix it. The paper's is (16, 24)."""

    low: int = 16
    high: int = 24

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise PacoreError(f"messages {self.low}..{self.high} -> two numbers, the first at least 0 and no larger")

    @classmethod
    def read(cls, text: str) -> Law:
        """The law that `16..24` or `8` says.

        Raises:
            PacoreError: it says none.
        """
        low, dots, high = text.partition("..")
        if not low.strip().isdecimal() or not (high.strip().isdecimal() or not dots):
            raise PacoreError(f"messages {text!r} -> such as 16..24, or 8")
        return cls(int(low), int(high) if dots else int(low))


@dataclass(frozen=True)
class Episode:
    """One draw.

    Attributes:
        problem: of the pool.
        visit: how often the problem has been visited before.
        chosen: places in the pool, in the order in which the messages are shown.
    """

    problem: PoolProblem
    visit: int
    chosen: tuple[int, ...]

    def conversation(self, prompt: SynthesisPrompt) -> list[dict[str, Any]]:
        """What the policy is asked."""
        messages = [self.problem.messages[place] for place in self.chosen]
        return with_messages(self.problem.conversation, messages, prompt)

    def right(self) -> int | None:
        """How many of the messages are right; None where one has no score."""
        if self.problem.scores is None:
            return None
        scores = [self.problem.scores[place] for place in self.chosen]
        return None if None in scores else sum(score == 1 for score in scores)


def draw(problem: PoolProblem, visit: int, law: Law, seed: int = 0) -> Episode:
    """The draw of a visit: a function of seed, problem and visit alone.

    Raises:
        PacoreError: the pool is smaller than the law's largest draw.
    """
    if len(problem.messages) < law.high:
        raise PacoreError(
            f"problem {problem.id!r} has {len(problem.messages)} messages, fewer than {law.high} -> filter by least, or"
            " lower the law"
        )
    drawn = random.Random(sample_seed("pacore episode", seed, problem.id, visit))
    size = drawn.randint(law.low, law.high)
    return Episode(problem, visit, tuple(drawn.sample(range(len(problem.messages)), size)))


def schedule(
    problems: Sequence[PoolProblem], steps: int, instances: int, law: Law, seed: int = 0
) -> Iterator[tuple[int, Episode]]:
    """(step, episode) of a whole training: every pass visits each problem once, in a fresh order.

    Because draws depend on names and numbers alone, this is a data set as good as drawing while training, and a resumed
    run meets the same.

    Args:
        problems: of the filtered pool.
        steps: iterations.
        instances: of a step.
        law: of the number of messages.
        seed: of orders and draws.

    Raises:
        PacoreError: no problem, or as `draw`.
    """
    if not problems:
        raise PacoreError("the pool has no problem left -> loosen its filter")
    turn = 0
    for step in range(steps):
        for _ in range(instances):
            visit, place = divmod(turn, len(problems))
            if place == 0:
                order = list(range(len(problems)))
                random.Random(sample_seed("pacore pass", seed, visit)).shuffle(order)
            yield step, draw(problems[order[place]], visit, law, seed)
            turn += 1


def episode_row(step: int, episode: Episode, prompt: SynthesisPrompt) -> dict[str, Any]:
    """A row of training data: `prompt`, `answer`, and what the metrics need."""
    name = f"{episode.problem.id}@{episode.visit}"
    return {
        **episode.problem.columns,
        "id": name,
        "pool_id": episode.problem.id,
        "visit": episode.visit,
        "prompt": episode.conversation(prompt),
        "answer": episode.problem.gold,
        "step": step,
        "shown": len(episode.chosen),
        "messages_right": episode.right(),
        "chosen": list(episode.chosen),
    }


@dataclass(frozen=True)
class Rate:
    """A share with its count and interval (Wilson, 95 %); NaN of nothing."""

    value: float
    count: int
    low: float
    high: float


def emergent_correctness(rows: Iterable[Mapping[str, Any]]) -> Rate:
    """P(right | every input message wrong) of rows with `messages_right`, `shown` and `correct` (arXiv 2601.05593,
    figure 5). Rows without a message, with unscored ones or without a verdict do not count.

    The interval takes rows as independent; samples of one instance are not, so it is too narrow for them.
    """
    right = [
        bool(row["correct"])
        for row in rows
        if row["shown"] and row["messages_right"] == 0 and row["correct"] is not None
    ]
    return _rate(sum(right), len(right))


_CROSS = re.compile(
    r"\b(?:references?|(?:the|these|those|all|other|given|previous)\s+(?:responses?|answers?|solutions?))\b"
    r"|参考|其他(?:回答|答案|解答)|各个?(?:回答|答案)",
    re.IGNORECASE,
)


def cross_checks(text: str) -> int:
    """How often a response speaks of the references or of other answers."""
    return len(_CROSS.findall(text))


def cross_check_rate(texts: Iterable[str]) -> Rate:
    """The share of responses that speak of the references at least once."""
    found = [cross_checks(text) > 0 for text in texts]
    return _rate(sum(found), len(found))


def _rate(hits: int, count: int) -> Rate:
    if not count:
        return Rate(float("nan"), 0, float("nan"), float("nan"))
    z = 1.959963984540054
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return Rate(share, count, max(middle - half, 0.0), min(middle + half, 1.0))
