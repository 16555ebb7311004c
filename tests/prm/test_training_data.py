"""Label records as training data: the rules of labels, what is cut, what is set aside."""

from __future__ import annotations

import pytest

from reasonrl.errors import DataError
from reasonrl.models import load_tokenizer
from reasonrl.prm.training_data import prepare_solutions, targets_of

LABELS = [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", (1, 0, 0, 1, 1)),
        ("first_error", (1, 0, None, None, None)),
        ("first_error_zero", (1, 0, 0, 0, 0)),
        ("last_only", (None, None, None, None, 1)),
    ],
)
def test_rules(rule: str, expected: tuple[int | None, ...]) -> None:
    assert targets_of({"labels": LABELS}, "hard", rule) == expected


def test_soft_labels() -> None:
    record = {"soft": [0.5, None, 0.25]}
    assert targets_of(record, "soft") == (0.5, None, 0.25)
    assert targets_of(record, "soft", "last_only") == (None, None, 0.25)
    with pytest.raises(DataError, match="soft labels have no first error"):
        targets_of(record, "soft", "first_error")
    with pytest.raises(DataError, match="it has no labels"):
        targets_of(record)
    with pytest.raises(DataError, match="allowed are hard, soft; all, first_error"):
        targets_of(record, "soft", "first")


def record(number: int, **change: object) -> dict[str, object]:
    row = {"id": f"s{number}", "problem": "1 a+2", "solution": "a1+2=3\n#3", "steps": [[0, 7], [7, 9]]}
    return {**row, "labels": [1, 1], "correct": True, **change}


def test_what_cannot_be_used_is_set_aside_and_counted() -> None:
    tokenizer = load_tokenizer("tiny:qwen2")
    rows = [
        record(0),
        record(1, labels=[1]),
        record(2, labels=[1, 0]),  # against the verdict
        record(3, steps=None),
        record(4, labels=None),
        record(5, labels=[0, None], correct=None),
    ]
    found = prepare_solutions(rows, tokenizer)
    assert [len(one.ends) for one in found.encoded] == [2, 2]
    assert found.targets == [(1, 1), (0, None)]
    assert found.counts == {
        "solutions": 2,
        "labels": 3,
        "labels_right": 2,
        "solutions_cut": 0,
        "steps_cut": 0,
        "solutions_set_aside": 4,
    }
    assert "4 set aside, the first: solution s1: labels has 1 entries" in found.report
    with pytest.raises(DataError, match="no solution can be used; the first: solution s3: it has no steps"):
        prepare_solutions(rows[3:4], tokenizer)


def test_what_is_cut_is_counted() -> None:
    tokenizer = load_tokenizer("tiny:qwen2")
    whole = prepare_solutions([record(0)], tokenizer).encoded[0]
    found = prepare_solutions([record(0), record(1)], tokenizer, max_length=len(whole) - 1)
    assert (found.counts["solutions_cut"], found.counts["steps_cut"]) == (2, 2)
    assert found.encoded[0].ends[0] == whole.ends[0]
    assert found.encoded[0].ends[1] is None
    soft = prepare_solutions([record(0, soft=[0.5, 1.0], labels=None)], tokenizer, labels="soft")
    assert soft.targets == [(0.5, 1.0)]
