"""Figures of pooled entries: against plain loops and scipy's facts, under weights, in pairs; coverage of intervals."""

from __future__ import annotations

import random
from statistics import fmean

import numpy
import pytest

from reasonrl.errors import DataError, RunError
from reasonrl.eval.pooled import FIGURES, Pool, PooledFigure
from reasonrl.prm.step_metrics import always_right, auroc, step_metrics


def entries(units: int = 12, seed: int = 0, shift: float = 0.0) -> dict[str, dict[str, list]]:
    """Solutions of 1 to 6 steps; right ones score higher, some scores tie."""
    draw, found = random.Random(seed), {}
    for unit in range(units):
        labels = [int(draw.random() < 0.6) for _ in range(draw.randint(1, 6))]
        scores = [min(1.0, max(0.0, round(0.25 + 0.3 * y + shift + draw.uniform(-0.3, 0.3), 1))) for y in labels]
        found[f"u{unit}"] = {"scores": scores, "labels": labels, "strata": list(range(len(labels)))}
    return found


def flat(found: dict[str, dict[str, list]], times: dict[str, int] | None = None) -> tuple[list, list, list]:
    """Scores, labels and strata one after another, each unit as often as it is drawn."""
    scores, labels, strata = [], [], []
    for name, entry in found.items():
        for _ in range(1 if times is None else times[name]):
            scores += entry["scores"]
            labels += [bool(y) for y in entry["labels"]]
            strata += entry["strata"]
    return scores, labels, strata


def within(scores: list, labels: list, strata: list) -> float:
    won = pairs = 0.0
    for a, y, s in zip(scores, labels, strata, strict=True):
        for b, z, t in zip(scores, labels, strata, strict=True):
            if y and not z and s == t:
                pairs += 1
                won += 1.0 if a > b else 0.5 if a == b else 0.0
    return won / pairs


def by_hand(found: dict[str, dict[str, list]], times: dict[str, int] | None = None) -> dict[str, float]:
    """Every figure of the repeated entries, by other code."""
    scores, labels, strata = flat(found, times)
    one, rail = step_metrics(scores, labels), always_right(labels)
    names = ("f1", "f1_wrong", "macro_f1", "precision", "recall", "precision_wrong", "recall_wrong", "accuracy")
    hit = fmean(a for a, y in zip(scores, labels, strict=True) if y)
    missed = fmean(a for a, y in zip(scores, labels, strict=True) if not y)
    return {
        **{name: getattr(one, name) for name in (*names, "brier", "calibration_error")},
        "f1_always": rail.f1,
        "macro_f1_always": rail.macro_f1,
        "auroc": auroc(scores, labels),
        "auroc_within": within(scores, labels, strata),
        "harmonic": 2 * hit * missed / (hit + missed),
    }


def test_every_figure_is_that_of_the_entries_repeated_as_often_as_they_weigh() -> None:
    found = entries()
    pool = Pool.of(found)
    draw = numpy.random.default_rng(1)
    weights = numpy.stack([numpy.ones(12), *draw.multinomial(12, [1 / 12] * 12, size=20)])
    for number, row in enumerate(weights):
        expected = by_hand(found, {name: int(w) for name, w in zip(found, row, strict=True)})
        assert set(expected) == set(FIGURES)
        for name, value in expected.items():
            got = float(PooledFigure(pool, name)(weights)[number])
            assert got == pytest.approx(value, abs=1e-9), (name, number)


def test_a_class_that_is_not_there_has_no_figure() -> None:
    pool = Pool.of({"a": {"scores": [0.2, 0.9], "labels": [1, 1]}})
    assert PooledFigure(pool, "auroc").value is None
    assert PooledFigure(pool, "recall_wrong").value is None
    assert PooledFigure(pool, "recall").value == 0.5
    with pytest.raises(DataError, match="different lengths"):
        Pool.of({"a": {"scores": [0.2], "labels": [1, 1]}})


def test_intervals_draw_units_and_cover() -> None:
    """Steps of a solution go alike: of 200 samples of 60 solutions, the true accuracy lies in about 95 %."""
    inside = narrow = 0
    for seed in range(200):
        draw = random.Random(seed)
        found = {}
        for unit in range(60):
            skill = draw.choice([0.3, 0.9])
            labels = [1] * 8
            found[f"u{unit}"] = {"scores": [float(draw.random() < skill) for _ in labels], "labels": labels}
        interval = PooledFigure(Pool.of(found), "accuracy").estimate()
        inside += interval.low <= 0.6 <= interval.high
        # As if the 480 steps were independent.
        narrow += abs(interval.value - 0.6) <= 1.96 * (0.6 * 0.4 / 480) ** 0.5
    assert 180 <= inside <= 198
    assert narrow < 160, "resampling steps would have been right, too: nothing is shown"


def test_no_interval_is_zero_wide() -> None:
    found = {f"u{n}": {"scores": [0.9], "labels": [1]} for n in range(30)}
    interval = PooledFigure(Pool.of(found), "accuracy").estimate()
    assert (interval.value, interval.high, interval.n) == (1.0, 1.0, 30)
    assert 0.85 < interval.low < 0.95


def test_differences_are_of_the_shared_units_and_paired() -> None:
    ours, theirs = entries(40), entries(40, shift=-0.15)  # the same labels and noise, lower scores
    a, b = PooledFigure(Pool.of(ours), "macro_f1"), PooledFigure(Pool.of(theirs), "macro_f1")
    difference = a.difference(b, "here")
    assert difference.value == pytest.approx(by_hand(ours)["macro_f1"] - by_hand(theirs)["macro_f1"])
    unpaired = (a.estimate().se ** 2 + b.estimate().se ** 2) ** 0.5
    assert difference.se < unpaired
    some = dict(list(ours.items())[5:])
    fewer = PooledFigure(Pool.of(dict(reversed(some.items()))), "macro_f1").difference(b, "here")
    same = {name: theirs[name] for name in some}
    assert fewer.value == pytest.approx(by_hand(some)["macro_f1"] - by_hand(same)["macro_f1"])
    assert fewer.n == 35
    with pytest.raises(RunError, match=r"here: only 5 problems are on both sides"):
        PooledFigure(Pool.of(dict(list(ours.items())[:5])), "f1").difference(b, "here")


@pytest.mark.parametrize(("name", "times"), [("macro_f1", 60), ("auroc", 12)])
def test_p_values_are_small_where_there_is_a_difference_and_uniform_where_there_is_none(name, times) -> None:
    far = PooledFigure(Pool.of(entries(60)), name).p_value(PooledFigure(Pool.of(noise(60, 1)), name), "here")
    assert far < 0.01
    found = [
        PooledFigure(Pool.of(noise(30, seed)), name).p_value(PooledFigure(Pool.of(noise(30, seed + 500)), name), "x")
        for seed in range(times)
    ]
    assert 0.5 - 1.2 / times**0.5 < fmean(found) < 0.5 + 1.2 / times**0.5  # four standard errors
    assert sum(p < 0.1 for p in found) <= 0.1 * times + 4 * (0.09 * times) ** 0.5


def noise(units: int, seed: int) -> dict[str, dict[str, list]]:
    """The labels of `entries(units)`, with scores that know nothing."""
    draw = random.Random(seed)
    return {
        name: {**entry, "scores": [draw.random() for _ in entry["labels"]]} for name, entry in entries(units).items()
    }
