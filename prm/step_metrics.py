"""How good step scores are: F1 of both classes, AUROC, calibration; beside them always who calls every step right.

An F1 of the right class alone says little: where 60 % of the steps are right, calling all of them right has 0.75.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from reasonrl.errors import DataError

BINS = 10


@dataclass(frozen=True)
class StepMetrics:
    """Figures of one set of step scores; None where they do not exist (a class without steps).

    Attributes:
        steps, right_steps: labelled steps with a score, and those of them that are right.
        precision, recall, f1: of the class of right steps.
        precision_wrong, recall_wrong, f1_wrong: of wrong ones; `recall_wrong` is the specificity.
        macro_f1: mean of both F1.
        auroc: chance that a right step scores above a wrong one, ties counted half.
        brier: mean squared distance of score and label.
        calibration_error: mean distance of score and share of right steps over 10 equally wide bins, weighted by their
            steps (ECE; Guo et al. 2017).
    """

    steps: int
    right_steps: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    precision_wrong: float
    recall_wrong: float
    f1_wrong: float
    macro_f1: float
    auroc: float | None
    brier: float
    calibration_error: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def class_f1(said: Sequence[bool], true: Sequence[bool], positive: bool) -> float:
    """F1 of one class: 2 hits / (said + true); 0 where the class is neither said nor true."""
    hits = sum(a == b == positive for a, b in zip(said, true, strict=True))
    total = sum(a == positive for a in said) + sum(b == positive for b in true)
    return 2 * hits / total if total else 0.0


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; None where one class is empty."""
    values, right = numpy.asarray(scores, dtype=float), numpy.asarray(labels, dtype=bool)
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ranks = (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * negative))


def calibration_bins(scores: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> list[dict[str, float]]:
    """The reliability curve: per bin that holds steps, their `count`, mean `score` and share that is `right`."""
    values, right = numpy.asarray(scores, dtype=float), numpy.asarray(labels, dtype=float)
    place = numpy.minimum((values * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            found.append(
                {
                    "count": int(inside.sum()),
                    "score": float(values[inside].mean()),
                    "right": float(right[inside].mean()),
                }
            )
    return found


def flat_pairs(
    scores: Sequence[Sequence[float | None]], labels: Sequence[Sequence[int | None]]
) -> tuple[list[float], list[bool]]:
    """Scores and labels of the steps that have both, over all solutions.

    Raises:
        DataError: a solution has another number of scores than labels.
    """
    values: list[float] = []
    right: list[bool] = []
    for number, (row, truth) in enumerate(zip(scores, labels, strict=True)):
        if len(row) != len(truth):
            raise DataError(f"step metrics: solution {number} has {len(row)} scores and {len(truth)} labels")
        for score, label in zip(row, truth, strict=True):
            if score is not None and label is not None:
                values.append(float(score))
                right.append(bool(label))
    return values, right


def step_metrics(scores: Sequence[float], labels: Sequence[bool], threshold: float = 0.5) -> StepMetrics:
    """The figures of step scores; a step is called right from `threshold` on.

    Raises:
        DataError: there are no steps, or the lists differ in length.
    """
    if len(scores) != len(labels) or not len(scores):
        raise DataError(f"step metrics: {len(scores)} scores for {len(labels)} labels -> one for each")
    values = numpy.asarray(scores, dtype=float)
    right = numpy.asarray(labels, dtype=bool)
    said = values >= threshold
    hits, misses = int((said & right).sum()), int((~said & ~right).sum())
    f1 = _ratio(2 * hits, int(said.sum()) + int(right.sum()))
    f1_wrong = _ratio(2 * misses, int((~said).sum()) + int((~right).sum()))
    bins = calibration_bins(scores, labels)
    return StepMetrics(
        steps=len(values),
        right_steps=int(right.sum()),
        accuracy=(hits + misses) / len(values),
        precision=_ratio(hits, int(said.sum())),
        recall=_ratio(hits, int(right.sum())),
        f1=f1,
        precision_wrong=_ratio(misses, int((~said).sum())),
        recall_wrong=_ratio(misses, int((~right).sum())),
        f1_wrong=f1_wrong,
        macro_f1=(f1 + f1_wrong) / 2,
        auroc=auroc(scores, labels),
        brier=float(((values - right) ** 2).mean()),
        calibration_error=sum(one["count"] * abs(one["score"] - one["right"]) for one in bins) / len(values),
    )


def always_right(labels: Sequence[bool]) -> StepMetrics:
    """The row that stands in every table: every step called right, with score 1."""
    return step_metrics([1.0] * len(labels), labels)


def metrics_table(rows: dict[str, StepMetrics]) -> tuple[list[str], list[list[str]]]:
    """Header and body of the table of figures by name, in percent but for the AUROC and the calibration error."""
    header = ["scores", "steps", "P right", "R right", "F1 right", "P wrong", "R wrong", "F1 wrong", "macro-F1"]
    body = []
    for name, one in rows.items():
        shares = (one.precision, one.recall, one.f1, one.precision_wrong, one.recall_wrong, one.f1_wrong, one.macro_f1)
        area = "-" if one.auroc is None else f"{one.auroc:.3f}"
        body.append([name, str(one.steps), *(f"{100 * x:.1f}" for x in shares), area, f"{one.calibration_error:.3f}"])
    return [*header, "AUROC", "calib. error"], body


def _ratio(count: int, total: int) -> float:
    return count / total if total else 0.0
