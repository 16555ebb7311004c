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


@pytest.mark.parametrize("make", [lambda rows: compound_rows(rows, 1), lambda rows: mixed_rows(rows, [1, 2])])
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "x", "problem": "?"}, "row 'x' has no 'answer'"),
        ({"id": "x", "problem": "?", "answer": float("nan")}, "row 'x' has no 'answer'"),
        (
            {"id": "x", "problem": "?", "answer": ["1", "2"]},
            r"row 'x': its answer is .*'1', '2'.*, a list; allowed: text",
        ),
        ({"id": "x", "problem": "?", "answer": {"a": 1}}, "a dict; allowed: text or a number"),
        ({"id": "x", "problem": "?", "answer": True}, "'True', a bool"),
        ({"id": "x", "problem": ["?"], "answer": "1"}, "its problem is .* a list; allowed: text ->"),
        ({"problem": "?", "answer": "1"}, r"row 2 \(from 0\) has no 'id'.*load_rows"),
    ],
)
def test_rows_that_make_no_prompt_are_refused(make: Any, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make([*table(2), row])


def test_numbers_are_answers() -> None:
    row = compound_rows([{"id": 7, "problem": "?", "answer": 0}, {"id": "y", "problem": "!", "answer": 0.5}], 2)[0]
    assert {item["id"]: item["answer"] for item in json.loads(row["items"])} == {"7": "0", "y": "0.5"}


MORE = {"solution": "because", "pass_rate": 0.25, "source": {"book": [3, 4]}, "level": 5, "group": "g", "k": 8}


def left_out(log: pytest.LogCaptureFixture) -> list[str]:
    """The columns that warnings name, a warning a text."""
    return [record.getMessage() for record in log.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("framed", [True, False])
def test_a_single_problem_keeps_the_columns_of_its_row(framed: bool, caplog: pytest.LogCaptureFixture) -> None:
    messages = [{"role": "user", "content": "Asked otherwise."}]
    rows = [{**row, **MORE, "pass_rate": place / 8, "prompt": messages} for place, row in enumerate(table(5))]
    for made in (compound_rows(rows, 1, framed=framed), mixed_rows(rows, [1], framed=framed)):
        by_id = {row["id"]: row for row in made}
        assert set(by_id) == {"p0", "p1", "p2", "p3", "p4"}
        for row in rows:
            found = by_id[row["id"]]
            kept = ("solution", "pass_rate", "source", "level", "group")
            assert [found[name] for name in kept] == [row[name] for name in kept]
            assert found["k"] == 1 and json.loads(found["answer"]) == [row["answer"]]
            assert found.get("prompt") == (None if framed else messages)  # it would be asked instead of the frame
    names = "k, prompt" if framed else "k"
    assert left_out(caplog) == [f"compound: 5 rows: columns left out: {names} (what is made stands in their place)"]


def test_what_several_problems_have_no_common_value_of_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    made = mixed_rows([{**row, **MORE, "options": ["1", "2"]} for row in table(40)], [1, 2, 3])
    assert {row["k"] for row in made} == {1, 2, 3}
    assert {tuple(row) for row in made if row["k"] == 1} == {("id", "problem", "answer", "items", "k", "rotation")}
    assert all(item["options"] == ["1", "2"] for row in made for item in json.loads(row["items"]))
    assert len(left_out(caplog)) == 1
    assert "40 rows: columns left out: solution, pass_rate, source, level, group, k (" in left_out(caplog)[0]
    caplog.clear()
    mixed_rows(table(40), [1, 2, 3])
    assert left_out(caplog) == []


def test_rows_with_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="pictures"):
        compound_rows([{**row, "images": ["a.png"]} for row in table(2)], 2)
