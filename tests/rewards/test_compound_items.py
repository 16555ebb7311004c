"""What counts of the problems of a prompt, and where a problem's options are found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reasonrl.rewards import get_reward

ASKED = "Which is it?\n\n(A) 41\n(B) 42\n(C) 43"


def scored(args: dict[str, Any], said: list[str], **given: Any) -> tuple[list[Any], list[str], dict[str, float]]:
    """Scores, verdicts and metrics of the reward `compound`."""
    extra: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    scores = get_reward({"name": "compound", "args": {"workers": 0, **args}})(
        completions=said,
        log_extra=lambda name, values: extra.update({name: values}),
        log_metric=metrics.__setitem__,
        **given,
    )
    return scores, extra["verdict"], metrics


@pytest.mark.parametrize("score", ["mean", "all"])
def test_copies_that_fill_a_block_are_in_no_score_and_no_metric(score: str) -> None:
    block = [{"id": "a", "answer": "4"}, {"id": "b", "answer": "5"}, {"id": "c", "answer": "6", "scored": False}]
    said = [
        "1. \\boxed{4}\n2. \\boxed{5}",
        "1. \\boxed{9}\n3. \\boxed{6}",
        "1. \\boxed{4}\n2. \\boxed{9}\n3. \\boxed{6}",
    ]
    scores, verdicts, metrics = scored({"score": score}, said, items=[json.dumps(block)] * 3)
    assert scores == ([1.0, 0.0, 0.5] if score == "mean" else [1.0, 0.0, 0.0])
    assert verdicts == ["correct", "wrong", "wrong"]
    assert metrics == {
        "compound/acc_item": pytest.approx(3 / 6),
        "compound/answered": pytest.approx(5 / 6),
        "compound/acc_all": pytest.approx(1 / 3),
    }


def test_a_bad_gold_of_a_copy_changes_nothing() -> None:
    block = [{"id": "a", "answer": "4"}, {"id": "b", "answer": "", "scored": False}]
    scores, verdicts, metrics = scored({}, ["1. \\boxed{4}"], items=[block])
    assert (scores, verdicts, metrics["compound/acc_all"]) == ([1.0], ["correct"], 1.0)
    scores, _, metrics = scored(
        {}, ["2. \\boxed{4}"], items=[[{**block[0], "answer": ""}, {**block[1], "answer": "4"}]]
    )
    assert scores == [None] and metrics == {}


def test_options_are_read_from_the_problem_where_it_has_no_others() -> None:
    one = {"id": "a", "answer": "B", "problem": ASKED}
    other = {"id": "b", "answer": "B", "problem": ASKED, "options": {"A": "1", "B": "2"}}
    said = ["1. \\boxed{42}\n2. \\boxed{42}", "1. \\boxed{2}\n2. \\boxed{2}", "1. \\boxed{B}\n2. \\boxed{B}"]
    scores, _, _ = scored({"kind": "choice"}, said, items=[[one, other]] * 3)
    assert scores == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    "given",
    [
        {"problem": [ASKED]},
        {"prompts": [ASKED]},
        {"prompts": [[{"role": "user", "content": ASKED + "\n\nPut the letter in \\boxed{}."}]]},
        {"items": [[{"id": "a", "answer": "B"}]], "prompts": [ASKED]},
        {"items": [None], "prompts": [ASKED], "problem": [None]},
    ],
)
def test_one_problem_takes_its_options_from_its_row_or_its_prompt(given: dict[str, Any]) -> None:
    for said, score in (("\\boxed{42}", 1.0), ("\\boxed{43}", 0.0)):
        args = {"kind": "choice", "framed": False}
        assert scored(args, [f"It is {said}."], **{"answer": ["B"], **given})[0] == [score]
