"""ProcessBench and PRMBench: written-out cases, plain loops, and the real files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from reasonrl.errors import DataError
from reasonrl.prm.prmbench import Judged, category_of, prm_score
from reasonrl.prm.processbench import (
    best_threshold,
    first_below,
    read_processbench,
    score_first_errors,
    solution_of,
)
from reasonrl.prm.steps import steps_from_spans, steps_text

# Rows with and without an error, from the dataset's card.
ROWS = {"gsm8k": (207, 193), "math": (594, 406)}


def test_a_written_out_case() -> None:
    # Errors at 2, 0, 1, 3: two found exactly. Three rows without error: one is called wrong.
    labels = [2, 0, 1, 3, -1, -1, -1]
    found = score_first_errors([2, 1, 1, None, -1, 0, -1], labels)
    assert (found.erroneous, found.correct) == (4, 3)
    assert found.accuracy_erroneous == pytest.approx(2 / 4)
    assert found.accuracy_correct == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))  # 4/7
    assert found.f1 == pytest.approx(4 / 7)
    assert score_first_errors([None], [-1]).f1 == 0.0
    with pytest.raises(DataError, match="2 predictions for 1 labels"):
        score_first_errors([1, 2], [0])


@pytest.mark.parametrize("name", ROWS)
def test_the_real_files(name: str) -> None:
    folder = os.environ.get("REASONRL_DATA")
    path = Path(folder or ".") / "processbench" / f"{name}.jsonl"
    if folder is None or not path.exists():
        pytest.skip(f"no real data: {path} is not there (REASONRL_DATA)")
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    solutions = read_processbench(path)
    labels = [solution["first_error"] for solution in solutions]
    assert (sum(label != -1 for label in labels), labels.count(-1)) == ROWS[name]
    assert score_first_errors([-1] * len(labels), labels).f1 == 0.0
    assert score_first_errors(labels, labels).f1 == 1.0
    for row, solution in zip(raw, solutions, strict=True):
        pieces = steps_text(solution["text"], steps_from_spans(solution["steps"]))
        assert [piece.removesuffix("\n\n") for piece in pieces[:-1]] == row["steps"][:-1]
        assert pieces[-1] == row["steps"][-1]


def test_first_below_and_steps_without_a_score() -> None:
    assert first_below([0.9, 0.5, 0.49, 0.1]) == 2
    assert first_below([0.9, 0.5]) == -1
    assert first_below([0.9, None, 0.1]) is None
    assert first_below([0.2, None], 0.3) == 0


def test_best_threshold_equals_trying_all_of_them() -> None:
    draw = random.Random(3)
    for _ in range(60):
        scores = [[draw.randrange(8) / 8 for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(2, 12))]
        labels = [draw.randint(-1, len(row) - 1) for row in scores]
        best = max(score_first_errors([first_below(row, t / 32) for row in scores], labels).f1 for t in range(-1, 40))
        chosen = best_threshold(scores, labels)
        assert score_first_errors([first_below(row, chosen) for row in scores], labels).f1 == pytest.approx(best)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": 2}, "label = 2"), ({"steps": "a"}, "list of texts"), ({"problem": None}, "no problem")],
)
def test_rows_that_are_none(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        solution_of({"id": "x", "problem": "p", "steps": ["a", "b"], "label": -1, **change})


def test_prm_score_by_hand() -> None:
    rows = [
        # hits: right 2 of said 3 and true 3; wrong 1 of said 2 and true 2.
        Judged("counterfactual", [2, 5], [True, False, False, True, True]),
        Judged("multi_solutions", [], [True, True, False]),
        # judged by redundancy apart: all right there
        Judged("redundancy", [1], [True, True], not_redundant=[False, True]),
        Judged("correct", [], [False, False]),
    ]
    found = prm_score(rows)
    assert found["kinds"]["counterfactual"] == pytest.approx(0.5 * (4 / 6) + 0.5 * (2 / 4))
    assert found["kinds"]["multi_solutions"] == pytest.approx(4 / 5)  # F1 of right steps alone
    assert found["kinds"]["redundancy"] == 1.0
    assert found["groups"] == pytest.approx({"simplicity": 1.0, "soundness": 7 / 12, "sensitivity": 4 / 5})
    # All steps of the three: right: hits 5, said 6, true 7; wrong: hits 2, said 4, true 3.
    assert found["overall"] == pytest.approx(0.5 * 10 / 13 + 0.5 * 4 / 7)
    assert category_of({"classification": "redundency"}) == "redundancy"
    with pytest.raises(DataError, match="of kind 'new'"):
        category_of({"classification": "new"})
    with pytest.raises(DataError, match="step 3 wrong"):
        prm_score([Judged("deception", [3], [True, True])])
