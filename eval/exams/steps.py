"""Step scores against labels: both classes, in every zone of a solution, and what they say of whole solutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.errors import DataError
from reasonrl.eval.exams.record import Examined, Pooled, Unit
from reasonrl.eval.exams.scores import Scored
from reasonrl.prm.aggregation import DEFAULT_AGGREGATION, aggregate

ZONES = ("before_error", "first_error", "unrepaired", "repaired")
"""Before the first wrong step; that step; wrong steps after it; right steps after it, that is after a repair."""

SOLUTIONS = ("error_free", "reflective_right", "wrong")
"""All steps right; a right answer after wrong steps; a wrong answer."""


def zones_of(labels: Sequence[int | None]) -> list[str | None]:
    """The zone of every step; None for one without a label."""
    first = next((place for place, label in enumerate(labels) if label == 0), None)
    found: list[str | None] = []
    for place, label in enumerate(labels):
        if label is None:
            found.append(None)
        elif first is None or place < first:
            found.append("before_error")
        elif place == first:
            found.append("first_error")
        else:
            found.append("repaired" if label else "unrepaired")
    return found


def solution_kind(labels: Sequence[int | None], correct: bool | None) -> str | None:
    """One of `SOLUTIONS`; None where the answer or a label is unknown. Without `correct` the last label stands in."""
    if not labels or None in labels:
        return None
    right = bool(labels[-1]) if correct is None else correct
    if not right:
        return "wrong"
    return "error_free" if all(labels) else "reflective_right"


def examine_steps(
    rows: Sequence[Mapping[str, Any]],
    scored: Scored,
    *,
    threshold: float = 0.5,
    aggregation: str = DEFAULT_AGGREGATION,
) -> Examined:
    """Figures over all labelled steps, by zone, and of whole solutions.

    Args:
        rows: label rows.
        scored: their step scores; solutions that could not be read are left out and counted.
        threshold: from which score on a step, or a solution, is called right.
        aggregation: what makes one score of a solution's steps.

    Raises:
        DataError: no row has labels, or a row has another number of labels than scores.
    """
    units, kinds, unlabelled = [], Counter[str](), 0
    for row in rows:
        labels, scores = row.get("labels"), scored.scores.get(row["id"])
        if labels is None or all(label is None for label in labels):
            unlabelled += 1
            continue
        if scores is None:
            continue
        if len(labels) != len(scores):
            raise DataError(
                f"solution {row['id']!r} has {len(labels)} labels and {len(scores)} scores -> labels and scores belong"
                " to the same steps"
            )
        whole = solution_kind(labels, row.get("correct"))
        kinds[whole or "unknown"] += 1
        units.append(_unit(row["id"], labels, scores, whole, aggregate(scores, aggregation), threshold))
    if not units:
        why = next(iter(scored.faults.values()), "none has labels")
        raise DataError(f"steps: no solution can be examined: {why} -> annotate the rows")
    about = {
        **scored.about(),
        "unlabelled": unlabelled,
        "threshold": threshold,
        "aggregation": aggregation,
        "solutions": dict(kinds),
        "zones": _zone_counts(units),
    }
    headline = ["macro_f1", "auroc", *(f"accuracy[{zone}]" for zone in ("unrepaired", "repaired"))]
    return Examined(units, "solutions", _figures(threshold), headline, about, _warnings(about))


def _unit(
    name: str,
    labels: Sequence[int | None],
    scores: Sequence[float | None],
    whole: str | None,
    score: float | None,
    threshold: float,
) -> Unit:
    pools: dict[str, dict[str, list[Any]]] = {}

    def put(pool: str, value: float, label: int, place: int) -> None:
        entry = pools.setdefault(pool, {"scores": [], "labels": [], "strata": []})
        entry["scores"].append(value)
        entry["labels"].append(int(label))
        entry["strata"].append(place)

    for place, (label, value, zone) in enumerate(zip(labels, scores, zones_of(labels), strict=True)):
        if label is None or value is None or zone is None:
            continue
        put("steps", value, label, place)
        put(zone, value, label, place)
        if zone in ("unrepaired", "repaired"):
            put("after_error", value, label, place)
    values: dict[str, float] = {}
    if whole is not None and score is not None:
        right = whole != "wrong"
        put("solutions", score, int(right), 0)
        values = {"solution_accuracy": float((score >= threshold) == right)}
        values[f"solution_accuracy[{whole}]"] = values["solution_accuracy"]
    return Unit(name, values, pools)


def _figures(threshold: float) -> dict[str, Pooled]:
    names = ("macro_f1", "f1", "f1_wrong", "precision", "recall", "precision_wrong", "recall_wrong")
    figures = {name: Pooled(name, "steps", threshold) for name in names}
    figures |= {f"{name}[always right]": Pooled(f"{name}_always", "steps", threshold) for name in ("f1", "macro_f1")}
    figures |= {
        "auroc": Pooled("auroc", "steps"),
        "auroc[within position]": Pooled("auroc_within", "steps"),
        "brier": Pooled("brier", "steps"),
        "calibration_error": Pooled("calibration_error", "steps"),
    }
    figures |= {f"accuracy[{zone}]": Pooled("accuracy", zone, threshold) for zone in ZONES}
    figures |= {
        "macro_f1[after error]": Pooled("macro_f1", "after_error", threshold),
        "auroc[after error]": Pooled("auroc", "after_error"),
        "auroc[solutions]": Pooled("auroc", "solutions"),
    }
    return figures


def _zone_counts(units: Sequence[Unit]) -> dict[str, int]:
    return {zone: sum(len(one.pools[zone]["labels"]) for one in units if zone in one.pools) for zone in ZONES}


def _warnings(about: Mapping[str, Any]) -> list[str]:
    warnings = []
    if about["unread"]:
        warnings.append(f"{about['unread']} solutions could not be read, the first: {about['first_fault']}")
    if about["unlabelled"]:
        warnings.append(f"{about['unlabelled']} solutions have no labels and are left out")
    if about["cut"]:
        warnings.append(f"{about['cut']} solutions are longer than max_length; their steps beyond have no score")
    return warnings
