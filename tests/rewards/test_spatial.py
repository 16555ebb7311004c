"""Boxes and points: reading, formulas by hand, matching against brute force, frames, invariances."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.errors import RewardError
from reasonrl.rewards import check_rows, get_reward
from reasonrl.rewards.spatial import best_total, iou, point_measure, step_gui_box
from reasonrl.rewards.spatial_read import read_gold, read_text


def score(name: str, text: Any, gold: Any, image_size: Any = None, **args: Any) -> float | None:
    columns = {"image_size": [image_size]} if image_size is not None else {}
    given_score: float | None = get_reward({"name": name, "args": args})(completions=[text], answer=[gold], **columns)[
        0
    ]
    return given_score


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[10, 20, 30, 40]", [(10, 20, 30, 40)]),
        (
            '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8.5]}]\n```',
            [(1, 2, 3, 4), (5, 6, 7, 8.5)],
        ),
        ('{"x1": 1, "y1": 2, "x2": 3, "y2": 4}', [(1, 2, 3, 4)]),
        ('{"x": 1, "y": 2, "width": 3, "height": 4}', [(1, 2, 4, 6)]),
        ("<box>(1,2),(3,4)</box> and <box>[[5, 6, 7, 8]]</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("<box>1 2 3 4</box>", [(1, 2, 3, 4)]),
        ("<|box_start|>(1, 2), (3, 4)<|box_end|>", [(1, 2, 3, 4)]),
        ("it is at [[1,2,3,4],[ .5, -6, 7., 8 ]]", [(1, 2, 3, 4), (0.5, -6, 7, 8)]),
        ("0.1, 0.2, 0.3, 0.4", [(0.1, 0.2, 0.3, 0.4)]),
        ("[]", []),
        ("there are 4 of them, 1 2 3", None),
        ("[1, 2, 3]", None),
        ("(1, 2)", None),
    ],
)
def test_boxes_in_a_text(text: str, boxes: Any) -> None:
    assert read_text(text, 4) == boxes


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("click(3, 4)", [(3, 4)]),
        ("[3, 4] then [5.5, 6]", [(3, 4), (5.5, 6)]),
        ('{"point_2d": [3, 4], "label": "x"}', [(3, 4)]),
        ('{"action": "click", "coordinate": [3, 4]}', [(3, 4)]),
        ('{"x": 3, "y": 4}', [(3, 4)]),
        ("<point>3 4</point>", [(3, 4)]),
        ('<point x="3" y="4">', [(3, 4)]),
        ('<points x1="3" y1="4" x2="5" y2="6">', [(3, 4), (5, 6)]),
        ("3, 4", [(3, 4)]),
        ("[1, 2, 3, 4]", None),
        ("three", None),
    ],
)
def test_points_in_a_text(text: str, points: Any) -> None:
    assert read_text(text, 2) == points


def test_golds_of_every_kind() -> None:
    for gold in (
        [1, 2, 3, 4],
        [[1, 2, 3, 4]],
        "[1, 2, 3, 4]",
        {"bbox": [1, 2, 3, 4]},
        "<box>(1,2),(3,4)</box>",
        [{"bbox_2d": [1, 2, 3, 4]}],
    ):
        assert read_gold(gold, 4) == [(1, 2, 3, 4)]
    assert read_gold([], 4) == [] and read_gold("[]", 2) == []
    for gold in (None, 5, [1, 2, 3], ["a"], {"k": 1}, "none", [[1, 2, 3, 4], []], [True, 2, 3, 4]):
        with pytest.raises(ValueError):
            read_gold(gold, 4)


def test_iou_and_step_gui_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0 and iou((0, 0, 4, 2), (0, 0, 4, 2)) == 1
    # centres 0.1 and 0.2 apart, sizes 0.1 and 0.0 apart, over tau 0.2: E = 0.5^4 + 1 + 0.5 (0.5^4)
    box, gold = (0.0, 0.0, 0.5, 0.4), (0.05, 0.2, 0.65, 0.6)
    energy = (0.1 / 0.2) ** 4 + (0.2 / 0.2) ** 4 + 0.5 * (0.1 / 0.2) ** 4
    shared = (0.45 * 0.2) / (0.5 * 0.4 + 0.6 * 0.4 - 0.45 * 0.2)
    assert step_gui_box(box, gold, 0.2) == pytest.approx(0.8 * math.exp(-energy) + 0.2 * shared)
    assert step_gui_box(gold, gold, 0.2) == pytest.approx(1.0)
    assert point_measure("step_gui", (0.1, 0.3), (0.2, 0.1), 0.2) == pytest.approx(math.exp(-(0.5**4 + 1)))
    assert point_measure("gaussian", (0.1, 0.3), (0.2, 0.1), 0.2) == pytest.approx(math.exp(-(0.25 + 1) / 2))
    assert point_measure("linear", (0.0, 0.0), (0.03, 0.04), 0.1) == pytest.approx(0.5)
    assert point_measure("step_gui", (0, 0), (1e9, 1e9), 0.1) == 0


def test_scores_by_hand() -> None:
    assert score("boxes", "[0, 0, 2, 2]", [1, 1, 3, 3]) == pytest.approx(1 / 7)
    # One of two gold boxes hit whole, one box too many: 2 * 1 / (2 + 2).
    assert score("boxes", "[0,0,2,2] [90,90,91,91]", [[0, 0, 2, 2], [50, 50, 60, 60]]) == pytest.approx(0.5)
    assert score("boxes", "[0,0,2,2] [0,0,2,2]", [0, 0, 2, 2]) == pytest.approx(2 / 3)
    assert score("boxes", "[2, 2, 0, 0]", [0, 0, 2, 2]) == 0 and score("boxes", "none", [0, 0, 2, 2]) == 0
    assert score("boxes", "[0, 0, 2, 2]", [2, 2, 0, 0]) is None and score("boxes", "x", "no box") is None
    assert score("boxes", "[]", []) == 1 and score("boxes", "[0,0,1,1]", []) == 0 and score("boxes", "eh", []) == 0
    assert score("boxes", "<think>[9,9,10,10]</think><answer>[0,0,2,2]</answer> [5,5,6,6]", [0, 0, 2, 2]) == 1
    assert score("points", "(15, 15)", [10, 10, 20, 20], measure="inside") == 1
    assert score("points", "(5, 15)", [10, 10, 20, 20], measure="inside") == 0
    assert score("boxes", "[0, 0, 2, 2]" * 300, [0, 0, 2, 2]) == 0


def test_pairs_that_are_too_far_apart_count_nothing() -> None:
    # Pairs of 1/3 and of 1: the first counts only where it may, and the matching is made of what counts.
    text, gold = "[0,0,2,2] [10,10,12,12]", [[1, 0, 3, 2], [10, 10, 12, 12]]
    assert score("boxes", text, gold) == pytest.approx(2 * (1 / 3 + 1) / 4)
    assert score("boxes", text, gold, least=0.5) == pytest.approx(2 * 1 / 4)
    assert score("points", "(0.03, 0.04)", [0, 0], frame="unit", measure="linear", least=0.5) == pytest.approx(0.5)
    assert score("points", "(0.03, 0.041)", [0, 0], frame="unit", measure="linear", least=0.5) == 0
    with pytest.raises(RewardError, match="least=2 -> 0 to 1"):
        score("boxes", text, gold, least=2)


def test_frames_and_layouts() -> None:
    gold = [0.1, 0.2, 0.3, 0.4]
    size = {"width": 200, "height": 100}
    for text, frame in (
        ("[0.1, 0.2, 0.3, 0.4]", "unit"),
        ("[100, 200, 300, 400]", "thousand"),
        ("[20, 20, 60, 40]", "pixels"),
    ):
        for measure in ("iou", "step_gui"):
            args = {"frame": frame, "gold_frame": "unit", "measure": measure}
            assert score("boxes", text, gold, size, **args) == pytest.approx(1.0), (text, measure)
    assert score("boxes", "[1, 2, 4, 6]", [1, 2, 3, 4], gold_layout="xywh") == 1
    assert score("boxes", "[1, 2, 3, 4]", [1, 2, 4, 6], layout="xywh", gold_layout="xyxy") == 1
    one = score("points", "(60, 50)", [50, 50], [100, 100], tau=0.1)
    assert one == pytest.approx(math.exp(-1)) == score("points", "(0.6, 0.5)", [0.5, 0.5], frame="unit", tau=0.1)
    with pytest.raises(RewardError, match="no column 'image_size'"):
        score("points", "(60, 50)", [50, 50])
    assert score("points", "(60, 50)", [50, 50], [0, 100]) is None


def test_matching_is_the_best_of_all() -> None:
    rng = random.Random(3)
    for _ in range(60):
        rows, columns = rng.randint(0, 5), rng.randint(1, 5)
        table = [[rng.random() for _ in range(columns)] for _ in range(rows)]
        size = min(rows, columns)
        best = max(
            (
                sum(table[row][column] for row, column in zip(chosen, places, strict=True))
                for chosen in itertools.combinations(range(rows), size)
                for places in itertools.permutations(range(columns), size)
            ),
            default=0.0,
        )
        assert best_total(table) == pytest.approx(best)


sides = st.integers(0, 40)
shapes = st.tuples(sides, sides, st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5), st.lists(shapes, min_size=1, max_size=5), st.randoms())
def test_order_does_not_matter_and_roles_may_change(boxes: list[Any], golds: list[Any], rng: random.Random) -> None:
    plain = score("boxes", str(boxes), golds)
    mixed, gold_mixed = list(boxes), list(golds)
    rng.shuffle(mixed)
    rng.shuffle(gold_mixed)
    assert plain is not None and 0 <= plain <= 1
    assert score("boxes", str(mixed), gold_mixed) == pytest.approx(plain)
    assert score("boxes", str(golds), boxes) == pytest.approx(plain)
    assert score("boxes", str(boxes), boxes) == pytest.approx(1)
    # A box in an empty place never helps.
    assert score("boxes", str([*boxes, [900, 900, 901, 901]]), golds) <= plain  # type: ignore[operator]


def test_verdicts_and_pickling() -> None:
    reward = pickle.loads(pickle.dumps(get_reward({"name": "boxes", "args": {"right_at": 0.7}})))
    extra: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    scores = reward(
        completions=["[0,0,10,10]", "[0,0,10,6]", "no", "[0,0,1,1]"],
        boxes=["[0,0,10,10]"] * 3 + ["?"],
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert scores == [1.0, pytest.approx(0.6), 0.0, None]
    assert extra["verdict"] == ["correct", "wrong", "no_answer", "bad_gold"] and sum(metrics.values()) == 1
    with pytest.raises(RewardError, match="no column 'boxes' or 'bbox'"):
        reward(completions=["x"], gold=["y"])
    with pytest.raises(RewardError, match="tau=0 must be above 0"):
        get_reward({"name": "points", "args": {"tau": 0}})


@pytest.mark.parametrize(
    "piece", ["1", "[", "[1,", "(1, 2), ", " ", "[[[", "{", '{"bbox_2d": ', "<box>1 ", "x=1 ", "1.", "-"]
)
@pytest.mark.parametrize("size", [2, 4])
def test_reading_takes_time_linear_in_the_text(piece: str, size: int) -> None:
    started = time.process_time()
    read_text(piece * (120_000 // len(piece)), size)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("name", ["boxes", "points"])
def test_rows_without_golds_are_refused_before_training(name: str) -> None:
    rows = [{"id": "a", "problem": "where?"}, {"id": "b", "problem": "there?"}]
    reward = get_reward([name, "stop"])
    with pytest.raises(
        RewardError, match=rf"no column '{name}' or .*columns: id, problem -> map one with data.columns"
    ):
        check_rows(reward, rows)
    with pytest.raises(RewardError, match="no column 'where'"):
        check_rows(get_reward({"name": name, "args": {"gold": "where"}}), [{**rows[0], "answer": "[1, 2]"}])
    check_rows(reward, [*rows, {"problem": "p", "answer": "[1, 2, 3, 4]"}])
    check_rows(reward, [])
