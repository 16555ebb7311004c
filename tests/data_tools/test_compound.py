"""Blocks of problems in one prompt: every problem counts once, and stands once at every position."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from reasonrl.data_tools.compound import blocks, compound_rows, frame, mixed_rows
from reasonrl.errors import DataError


def table(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"p{number}", "problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(count)
    ]


@pytest.mark.parametrize(("count", "k"), [(30, 1), (30, 3), (30, 7), (198, 9), (5, 5), (500, 10)])
def test_each_problem_counts_once_and_stands_once_at_each_position(count: int, k: int) -> None:
    rows = compound_rows(table(count), k)
    assert len(rows) == k * -(-count // k) and len({row["id"] for row in rows}) == len(rows)
    places: Counter[tuple[str, int]] = Counter()
    for row in rows:
        items = json.loads(row["items"])
        assert len(items) == row["k"] == k and len({item["id"] for item in items}) == k
        assert json.loads(row["answer"]) == [item["answer"] for item in items]
        for position, item in enumerate(items):
            assert item["problem"] in row["problem"]
            places[item["id"], position] += item.get("scored", True)
    assert {key: times for key, times in places.items() if times != 1 and times != 0} == {}
    assert sum(places.values()) == count * k
    if k > 1:
        # A problem's company is its block, in every order.
        company: dict[str, set[str]] = {}
        for row in rows:
            company.setdefault(row["group"], set()).update(item["id"] for item in json.loads(row["items"]))
        assert all(len(members) == k for members in company.values())


def test_blocks_are_seeded_and_do_not_follow_the_file() -> None:
    assert blocks(30, 3, 1) == blocks(30, 3, 1) != blocks(30, 3, 2)
    assert [place for block in blocks(30, 3) for place, _ in block] != list(range(30))
    assert [place for ((place, _),) in blocks(4, 1)] == [0, 1, 2, 3]
    filled = blocks(8, 3)[-1]
    assert [counts for _, counts in filled] == [True, True, False]


def test_one_problem_without_the_frame_is_the_row_itself() -> None:
    rows = table(3)
    plain, framed = compound_rows(rows, 1), compound_rows(rows, 1, framed=True)
    assert [(row["id"], row["problem"]) for row in plain] == [(row["id"], row["problem"]) for row in rows]
    assert framed[0]["problem"].startswith("Here is one problem. Solve it.") and "1. \\boxed{…}" in framed[0]["problem"]


def test_the_frame_numbers_problems_and_answer_lines() -> None:
    text = frame(["first?", "second?"], "choice")
    assert "### Problem 1\nfirst?\n\n### Problem 2\nsecond?" in text
    assert text.endswith("1. \\boxed{…}\n2. \\boxed{…}") and "letter of the right option" in text


def test_training_rows_take_each_problem_once() -> None:
    rows = mixed_rows(table(50), [1, 2, 3], seed=3)
    names = [item["id"] for row in rows for item in json.loads(row["items"])]
    assert len(names) == len(set(names)) and len(names) > 47
    assert {row["k"] for row in rows} == {1, 2, 3}
    assert mixed_rows(table(50), [1, 2, 3], seed=3) == rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k = 0"),
        ({"k": 31}, "there are 30"),
        ({"k": 3, "rotations": 4}, "1 to k = 3"),
        ({"k": 3, "framed": False}, "need the frame"),
        ({"k": 3, "kind": "code"}, "kind 'code'"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compound_rows(table(30), **arguments)


def test_rows_without_answers_and_with_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="no 'answer'"):
        compound_rows([*table(2), {"id": "x", "problem": "?"}], 1)
    with pytest.raises(DataError, match="pictures"):
        compound_rows([{**row, "images": ["a.png"]} for row in table(2)], 2)
