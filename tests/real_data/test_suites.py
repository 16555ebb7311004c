"""The suites whose real files are at hand: expected rows, golds that score as answers, shuffled golds that do not."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonrl.data_tools.pictures import open_picture
from reasonrl.eval.scoring import Answer, Judgement, build_scorer
from reasonrl.eval.suites import Suite, resolve
from reasonrl.rewards.choice import verify_choice
from reasonrl.rewards.math import verify
from reasonrl.rewards.pool import close_shared_pools

COUNTS = {
    "math500": 500,
    "gsm8k": 1319,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "hmmt_feb_2025": 30,
    "mathvision_testmini": 304,
    "mathvision_testmini_200": 200,
}
NAMES = [*COUNTS, pytest.param("mathvision", marks=pytest.mark.slow)]
# Prose that holds other numbers, letters of options and an earlier guess.
LONG = "Let x = 3, so that the sum is 12; option B looks wrong, and maybe the answer is 7.\n" * 60


@pytest.fixture(scope="module", autouse=True)
def pools() -> Iterator[None]:
    yield
    close_shared_pools()


def suite_of(name: str) -> Suite:
    root = os.environ.get("REASONRL_DATA")
    suite = resolve(name, data_root=root)[name] if root else None
    if suite is None or suite.data.path is None or not Path(suite.data.path).is_file():
        pytest.skip(f"REASONRL_DATA names no folder with the file of {name}")
    return suite


def judge(suite: Suite, rows: list[dict[str, Any]], texts: list[str]) -> list[Judgement]:
    return build_scorer(suite.reward, None, rows)(
        [
            Answer(row, [{"role": "user", "content": row["problem"]}], text, ())
            for row, text in zip(rows, texts, strict=True)
        ]
    )


def of_the_same_value(suite: Suite, row: dict[str, Any], other: str) -> bool:
    """Whether the policy takes one gold for the other, asked without a reward."""
    if row.get("answer_kind") == "choice":
        return verify_choice(row["answer"], rf"\boxed{{{other}}}", row["options"]).correct
    return verify(row["answer"], rf"\boxed{{{other}}}").correct


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_known_ones_and_golds_score(name: str) -> None:
    suite = suite_of(name)
    rows, check = suite.load()
    assert len(rows) == COUNTS.get(name, 3040) and check is not None and check.state == "verified"
    assert len({row["id"] for row in rows}) == len(rows) and rows.report.n_dropped == 0
    golds = [row["answer"] for row in rows]
    for texts in (golds, [rf"{LONG}Therefore the answer is \boxed{{{gold}}}." for gold in golds]):
        wrong = [
            (row["id"], gold, verdict)
            for row, gold, verdict in zip(rows, golds, judge(suite, rows, texts), strict=True)
            if not verdict.right
        ]
        assert not wrong, wrong[:5]
    order = list(range(len(rows)))
    random.Random(7).shuffle(order)
    shuffled = [golds[place] for place in order]
    judged = [verdict.right for verdict in judge(suite, rows, [rf"{LONG}\boxed{{{gold}}}" for gold in shuffled])]
    expected = [of_the_same_value(suite, row, gold) for row, gold in zip(rows, shuffled, strict=True)]
    assert judged == expected
    # The policy joins few golds of different texts: nearly all that are right are the same text.
    same = sum(gold == other for gold, other in zip(golds, shuffled, strict=True))
    assert same <= sum(expected) <= same + max(1, len(rows) // 100)


def test_the_pictures_of_the_200_open_and_others_are_named() -> None:
    rows, _ = suite_of("mathvision_testmini_200").load()
    assert all(len(row["images"]) == 1 and min(open_picture(row["images"][0], row["id"]).size) > 10 for row in rows)
    choices = [row for row in rows if row["answer_kind"] == "choice"]
    assert choices and all(row["answer"] in row["options"] for row in choices)
    assert all("(A)" in row["problem"] and "letter" in row["instruction"] for row in choices)
