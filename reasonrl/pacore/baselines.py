"""What plain sampling makes of the same tokens: majority vote, best-of-N, and the chance that any sample is right."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from reasonrl.pacore.errors import PacoreError
from reasonrl.rollout.seeds import sample_seed


@dataclass(frozen=True)
class Solo:
    """One judged answer to the bare problem.

    Attributes:
        answer: equal for answers that say the same; None where there is no answer, which does not vote.
        right: the verdict.
        tokens: generated for it.
        score: of a reward model, for best-of-N.
    """

    answer: str | None
    right: bool
    tokens: int
    score: float | None = None


Pick: TypeAlias = Callable[[Sequence[Solo]], float]
"""The chance that what is made of some samples is right."""


def majority(samples: Sequence[Solo]) -> float:
    """Of the most frequent answer; ties are averaged, and no answer at all is wrong."""
    votes: dict[str, int] = {}
    right: dict[str, bool] = {}
    for one in samples:
        if one.answer is not None:
            votes[one.answer] = votes.get(one.answer, 0) + 1
            right[one.answer] = one.right
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return sum(right[answer] for answer in tied) / len(tied)


def best(samples: Sequence[Solo]) -> float:
    """Of the sample with the highest score; ties are averaged.

    Raises:
        PacoreError: a sample has no score.
    """
    scores = [one.score for one in samples if one.score is not None]
    if len(scores) < len(samples):
        raise PacoreError("best-of-N needs a score of every sample -> score them first")
    tied = [one for one in samples if one.score == max(scores)]
    return sum(one.right for one in tied) / len(tied)


def any_right(samples: Sequence[Solo]) -> float:
    """Whether one of them is right: what no choice among them can beat."""
    return float(any(one.right for one in samples))


@dataclass(frozen=True)
class Baseline:
    """One way of spending tokens, averaged over draws from each problem's pool.

    Attributes:
        values: chance of being right by problem.
        tokens: generated, by problem.
        samples: taken, by problem.
        exhausted: problems whose pool was too small to spend the budget in every draw.
    """

    values: Mapping[str, float]
    tokens: Mapping[str, float]
    samples: Mapping[str, float]
    exhausted: int = 0


def at_count(
    pools: Mapping[str, Sequence[Solo]], count: int, pick: Pick, *, draws: int = 64, seed: int = 0
) -> Baseline:
    """So many samples of each problem, without replacement: self-consistency as in arXiv 2601.05593, section 3.2, is
    `majority` with 64 draws from a pool of 512.

    Raises:
        PacoreError: a pool is smaller.
    """
    for name, pool in pools.items():
        if len(pool) < count:
            raise PacoreError(f"problem {name!r} has {len(pool)} samples, fewer than {count} -> draw more of them")
    return _averaged(pools, lambda pool, name: pool[:count], pick, draws, seed)


def at_tokens(
    pools: Mapping[str, Sequence[Solo]],
    budgets: Mapping[str, float],
    pick: Pick,
    *,
    draws: int = 64,
    seed: int = 0,
) -> Baseline:
    """As many samples as a budget of generated tokens allows, problem by problem: never more than it, but at least one.

    Args:
        pools: samples by problem.
        budgets: tokens by problem, such as what the rounds have generated for it.
        pick: what is made of the samples.
        draws: orders of the pool that are averaged.
        seed: of these orders.
    """
    short: set[str] = set()

    def within(pool: list[Solo], name: str) -> list[Solo]:
        spent = 0
        for place, one in enumerate(pool):
            spent += one.tokens
            if spent > budgets[name]:
                return pool[: max(place, 1)]
        short.add(name)
        return pool

    return Baseline(**{**vars(_averaged(pools, within, pick, draws, seed)), "exhausted": len(short)})


def _averaged(
    pools: Mapping[str, Sequence[Solo]],
    chosen: Callable[[list[Solo], str], list[Solo]],
    pick: Pick,
    draws: int,
    seed: int,
) -> Baseline:
    values, tokens, samples = {}, {}, {}
    for name, pool in pools.items():
        if not pool:
            raise PacoreError(f"problem {name!r} has no sample")
        drawn = random.Random(sample_seed("pacore baseline", seed, name))
        taken = [chosen(drawn.sample(list(pool), len(pool)), name) for _ in range(draws)]
        values[name] = sum(map(pick, taken)) / draws
        tokens[name] = sum(one.tokens for some in taken for one in some) / draws
        samples[name] = sum(map(len, taken)) / draws
    return Baseline(values, tokens, samples)
