"""Numbered answer lines and their verdicts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import check_rows, get_reward
from reasonrl.rewards.answer_lines import answers_of, find_answers


@pytest.mark.parametrize(
    ("text", "k", "found"),
    [
        ("<answer>\n1. \\boxed{4}\n2. \\boxed{7}\n</answer>", 2, ["4", "7"]),
        ("1) \\boxed{4}\n(2): \\boxed{7}", 2, ["4", "7"]),
        ("**Problem 1:** \\boxed{4}\n- 2: so \\boxed{5}, no: \\boxed{7}", 2, ["4", "7"]),  # the last of a line
        ("2. \\boxed{7}\n1. \\boxed{4}", 2, ["4", "7"]),  # by number, not by order
        ("1. we try \\boxed{9}\n\n1. \\boxed{4}\n2. \\boxed{7}", 2, ["4", "7"]),  # the last of a number
        ("so \\boxed{4}, and then \\boxed{7}", 2, ["4", "7"]),  # no number, as many boxes as problems
        ("so \\boxed{4}, \\boxed{5} and \\boxed{7}", 2, [None, None]),
        ("1. \\boxed{4}\nand \\boxed{7}", 2, ["4", None]),
        ("1. 4\n2. 7", 2, [None, None]),  # no box
        ("1. \\boxed{}\n2. \\boxed{7}", 2, [None, "7"]),
        ("1. \\boxed{\\frac{1}{2}}\n2. \\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", 2,
         ["\\frac{1}{2}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"]),
        ("<think>1. \\boxed{1}\n2. \\boxed{1}</think>\n1. \\boxed{4}\n2. \\boxed{7}", 2, ["4", "7"]),
        ("<answer>1. \\boxed{1}</answer> <answer>\n1. \\boxed{4}\n2. \\boxed{7}", 2, ["4", "7"]),  # the last, cut
        ("", 2, [None, None]),
        ("1. \\boxed{4} 2. \\boxed{7}", 2, ["7", None]),  # one line
        ("1.\n\\boxed{4}\n2. \\boxed{7}", 2, ["4", "7"]),  # a label alone on its line
        ("**Problem 1:**\n\nSo \\boxed{4}\n\n**Problem 2:**\n\\boxed{5}, no: \\boxed{7}", 2, ["4", "7"]),
        ("**Problem 1**\n\\boxed{4}\n**Problem 2**\n2.5 km gives \\boxed{7}", 2, ["4", "7"]),  # 2.5 is no label
        ("1. \\boxed{4}\n2. \\boxed{7}\n12 - 5 = \\boxed{9}", 2, ["4", "7"]),  # nor is 12 - 5
        ("**Answer 1:** \\boxed{4}\n**Final answer 2:** \\boxed{7}", 2, ["4", "7"]),
        ("Answer to problem 1: \\boxed{4}\nSolution of 2 = \\boxed{7}", 2, ["4", "7"]),
        ("1. 5 apples: \\boxed{4}\n2 = \\boxed{7}", 2, ["4", "7"]),
    ],
)  # fmt: skip
def test_the_answer_to_each_problem_is_found(text: str, k: int, found: list[str | None]) -> None:
    assert answers_of(text, k) == found


def test_lines_as_asked_for_are_read_as_all_others_are() -> None:
    usual = "1. \\boxed{4}\n2) \\boxed{ x = 7 }\n\n10.\\boxed{}  \n"
    other = find_answers(usual + "So it is.")  # text behind them takes the general way
    assert find_answers(usual) == other and [tuple(line) for line in other.lines] == [(1, "4"), (2, "x = 7"), (10, "")]


def test_time_grows_with_the_length_alone() -> None:
    def seconds(times: int) -> float:
        text = "1. \\boxed{4} and " * times + "\\boxed{" * times + "\n" * times
        start = time.perf_counter()
        answers_of(text, 3)
        return time.perf_counter() - start

    seconds(100)
    short, long = min(seconds(2_000) for _ in range(3)), min(seconds(20_000) for _ in range(3))
    assert long < 40 * short


HERE = {"name": "compound", "args": {"workers": 0}}


def items(*golds: str, **more: Any) -> str:
    return json.dumps([{"id": f"p{place}", "answer": gold, **more} for place, gold in enumerate(golds)])


def told(spec: Any, said: list[str], **columns: Any) -> tuple[list[float | None], dict[str, Any], dict[str, float]]:
    extra: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    scores = get_reward(spec)(
        completions=said,
        log_extra=lambda name, values: extra.update({name: values}),
        log_metric=metrics.__setitem__,
        **columns,
    )
    return scores, extra, metrics


def test_mean_and_all() -> None:
    said = ["1. \\boxed{4}\n2. \\boxed{0.5}\n3. \\boxed{9}", "1. \\boxed{4}\n2. \\boxed{1/2}\n3. \\boxed{8}", "none"]
    column = [items("4", "\\frac12", "8")] * 3
    scores, extra, metrics = told(HERE, said, items=column)
    assert scores == [pytest.approx(2 / 3), 1.0, 0.0]
    assert extra["verdict"] == ["wrong", "correct", "no_answer"]
    assert [one["verdict"] for one in json.loads(extra["item_verdicts"][0])] == ["correct", "correct", "wrong"]
    assert metrics == {
        "compound/acc_item": pytest.approx(5 / 9),
        "compound/answered": pytest.approx(6 / 9),
        "compound/acc_all": pytest.approx(1 / 3),
    }
    assert told({"name": "compound", "args": {"score": "all", "workers": 0}}, said, items=column)[0] == [0.0, 1.0, 0.0]


def test_a_gold_that_cannot_be_compared_is_left_out() -> None:
    scores, extra, _ = told(
        HERE, ["1. \\boxed{4}\n2. \\boxed{7}", "1. \\boxed{4}"], items=[items("4", ""), items("", "")]
    )
    assert scores == [1.0, None] and extra["verdict"] == ["bad_gold", "bad_gold"]


def test_options_and_lines_without_boxes() -> None:
    column = [items("B", "A", options={"A": "41", "B": "42"})]
    spec = {"name": "compound", "args": {"kind": "choice"}}
    assert told(spec, ["1. \\boxed{B}\n2. \\boxed{42}"], items=column)[0] == [0.5]
    spec = {"name": "compound", "args": {"kind": "exact", "line": r"^(?P<number>\d)=(?P<answer>\d)$"}}
    assert told(spec, ["3+4=7\n1=7\n2=3"], items=[items("7", "4")])[0] == [0.5]


def test_a_row_without_items_is_one_problem() -> None:
    assert told(HERE, ["<play>…</play><answer>\\boxed{7}</answer>"], answer=["7"])[0] == [1.0]
    plain = {"name": "compound", "args": {"framed": False, "workers": 0}}
    assert told(plain, ["so it is 7, the answer is 7."], answer=["7"])[0] == [1.0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"score": "mode"}, "score 'mode'"),
        ({"kind": "maths"}, "did you mean 'math'"),
        ({"line": "("}, "no regular expression"),
        ({"line": r"(?P<number>\d)"}, "no group 'answer'"),
        ({"workers": -1}, "workers"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        get_reward({"name": "compound", "args": args})


def test_rows_that_cannot_be_read_are_named() -> None:
    reward = get_reward("compound")
    check_rows(reward, [{"id": "a", "answer": "4"}, {"id": "b", "items": items("4")}])
    with pytest.raises(RewardError, match="no list of problems"):
        check_rows(reward, [{"id": "a", "items": "nonsense"}])
    with pytest.raises(RewardError, match=r"row 0.*'p0'.*None"):
        check_rows(reward, [{"id": "a", "items": [{"id": "p0", "answer": None}]}])
