"""Figures of step scores against loops over all pairs and the paper's own arithmetic; aggregation by hand."""

from __future__ import annotations

import random

import pytest

from reasonrl.errors import DataError
from reasonrl.prm.aggregation import aggregate
from reasonrl.prm.step_metrics import always_right, auroc, flat_pairs, metrics_table, step_metrics


def test_against_plain_loops() -> None:
    draw = random.Random(1)
    for _ in range(30):
        n = draw.randint(2, 40)
        scores = [draw.randrange(11) / 10 for _ in range(n)]
        labels = [draw.random() < 0.6 for _ in range(n)]
        found = step_metrics(scores, labels, threshold=0.4)
        tp = sum(s >= 0.4 and y for s, y in zip(scores, labels, strict=True))
        fp = sum(s >= 0.4 and not y for s, y in zip(scores, labels, strict=True))
        fn = sum(s < 0.4 and y for s, y in zip(scores, labels, strict=True))
        tn = n - tp - fp - fn
        assert found.accuracy == pytest.approx((tp + tn) / n)
        assert found.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
        assert found.f1_wrong == pytest.approx(2 * tn / (2 * tn + fp + fn) if tn + fp + fn else 0)
        assert found.macro_f1 == pytest.approx((found.f1 + found.f1_wrong) / 2)
        assert found.recall_wrong == pytest.approx(tn / (tn + fp) if tn + fp else 0)
        pairs = [
            (a > b) + 0.5 * (a == b)
            for a, y in zip(scores, labels, strict=True)
            if y
            for b, z in zip(scores, labels, strict=True)
            if not z
        ]
        assert found.auroc == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
        groups: dict[int, list[tuple[float, bool]]] = {}
        for score, label in zip(scores, labels, strict=True):
            groups.setdefault(min(9, int(score * 10)), []).append((score, label))
        gap = sum(abs(sum(s for s, _ in group) - sum(y for _, y in group)) for group in groups.values()) / n
        assert found.calibration_error == pytest.approx(gap)
        assert found.brier == pytest.approx(sum((s - y) ** 2 for s, y in zip(scores, labels, strict=True)) / n)


def test_who_calls_every_step_right_is_no_judge() -> None:
    """At 60 % right steps its F1 is 0.75 (arXiv:2505.14391's over-accepting baselines), its macro-F1 0.375."""
    labels = [True] * 6 + [False] * 4
    row = always_right(labels)
    assert (row.precision, row.recall, row.f1_wrong) == (0.6, 1.0, 0.0)
    assert row.f1 == pytest.approx(0.75)
    assert row.macro_f1 == pytest.approx(0.375)
    assert row.auroc == 0.5
    assert auroc([0.5, 0.7], [True, True]) is None
    header, body = metrics_table({"always right": row})
    assert len(header) == len(body[0])
    assert body[0][:5] == ["always right", "10", "60.0", "100.0", "75.0"]


def test_steps_without_label_or_score_are_left_out() -> None:
    assert flat_pairs([[0.1, None, 0.3], [0.4]], [[0, 1, None], [1]]) == ([0.1, 0.4], [False, True])
    with pytest.raises(DataError, match="solution 0 has 1 scores and 2 labels"):
        flat_pairs([[0.1]], [[1, 0]])
    with pytest.raises(DataError, match="0 scores for 0 labels"):
        step_metrics([], [])


def test_aggregation() -> None:
    scores = [0.9, 0.2, 0.5]
    assert aggregate(scores) == aggregate(scores, "last") == 0.5
    assert aggregate(scores, "min") == 0.2
    assert aggregate(scores, "product") == pytest.approx(0.09)
    assert aggregate(scores, "mean") == pytest.approx(1.6 / 3)
    assert aggregate([0.9, None]) is None
    assert aggregate([], "min") is None
    with pytest.raises(DataError, match="'max' is no rule, allowed are last, min, product, mean"):
        aggregate(scores, "max")
