"""What the reward pool refuses before anything is graded: no pairs, unknown policies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards.pool import RewardPool


@pytest.fixture(scope="module")
def pool() -> Iterator[RewardPool]:
    with RewardPool(workers=1) as one:
        yield one


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("1",), r"pair 1: \('1',\) is a tuple where \(gold, response\) was expected"),
        (None, "pair 1: None is a NoneType"),
        ("ab", "pair 1: 'ab' is a str"),
        (("1", None), "pair 1: response is None, a NoneType, where text was expected"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_place(pool: RewardPool, pair: Any, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        pool.map([("1", "1"), pair])

    async def streamed() -> None:
        async for _ in pool.astream([("1", "1"), pair]):
            pass

    with pytest.raises(RewardError, match=said):
        asyncio.run(streamed())
    assert pool.map([["1", "1"]])[0].correct  # type: ignore[list-item]


def test_an_unknown_policy_of_the_math_verifier_is_refused(pool: RewardPool) -> None:
    for ask in (lambda: pool.submit("1", "1", "strikt"), lambda: pool.map([("1", "1")], "strikt")):
        with pytest.raises(RewardError, match=r"policy 'strikt' is unknown.*'strict'"):
            ask()
