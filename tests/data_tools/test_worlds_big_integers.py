"""The big-integer world: ranges, kinds and answers."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from reasonrl.data_tools.worlds import get_world
from reasonrl.data_tools.worlds.big_integers import KINDS
from reasonrl.errors import DataError

WORLD = get_world("big_integers")


def test_answers_ranges_and_kinds():
    rows = WORLD.rows(2000)
    counts = Counter(row["kind"] for row in rows)
    assert set(counts) == set(KINDS) and min(counts.values()) > 420  # of 500, 4 standard deviations
    middle = []
    for row in rows:
        numbers = [int(word) for word in re.findall(r"\d+", row["problem"])]
        a, b, answer = numbers[0], numbers[1], int(row["answer"])
        if row["problem"].startswith(("Add", "Subtract")):
            a, b = b, a
        assert min(a, b) >= 10**11 and max(a, b) <= 10**13
        middle += [a, b]
        if row["kind"] == "power":
            left, square = numbers[2], 1
            for bit in bin(b)[2:]:  # square and multiply, from the top
                square = square * square * (a if bit == "1" else 1) % left
            assert answer == square and 10**3 <= left <= 10**6
        else:
            assert answer == {"add": b.__add__, "subtract": (-b).__add__, "multiply": b.__mul__}[row["kind"]](a)
    assert sum(middle) / len(middle) == pytest.approx((10**11 + 10**13) / 2, rel=0.02)
    assert WORLD.rows(5, seed=1) == WORLD.rows(5, seed=1) != WORLD.rows(5, seed=2)
    assert not {row["problem"] for row in rows} & {row["problem"] for row in WORLD.rows(300, split="test")}


@pytest.mark.parametrize("args", [{"kinds": ["divide"]}, {"low": 5, "high": 4}, {"modulus": [1, 2]}, {"split": "x"}])
def test_what_cannot_be_is_refused(args):
    with pytest.raises(DataError, match="big_integers: "):
        WORLD.rows(3, **args)
