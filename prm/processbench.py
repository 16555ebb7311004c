"""ProcessBench (Zheng et al. 2024, arXiv:2412.06559): find the earliest wrong step of a solution.

A row's label is the 0-based index of its earliest wrong step, -1 if all are right. Per subset, F1 is the harmonic mean
of two accuracies: exact matches among the rows with an error, and among those without; it is no F1 of precision and
recall.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from reasonrl.errors import DataError
from reasonrl.prm.steps import spans_of, steps_from_pieces

SEPARATOR = "\n\n"
"""Put between the steps of a row to make its text; it belongs to the step before."""


@dataclass(frozen=True)
class FirstErrorScore:
    """How well earliest errors were found.

    Attributes:
        erroneous, correct: rows with and without a wrong step.
        accuracy_erroneous, accuracy_correct: share of exact predictions among each; 0 where there are no such rows.
    """

    erroneous: int
    correct: int
    accuracy_erroneous: float
    accuracy_correct: float

    @property
    def f1(self) -> float:
        """Harmonic mean of the two accuracies, 0 where both are."""
        total = self.accuracy_erroneous + self.accuracy_correct
        return 2 * self.accuracy_erroneous * self.accuracy_correct / total if total else 0.0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "f1": self.f1,
            "accuracy_erroneous": self.accuracy_erroneous,
            "accuracy_correct": self.accuracy_correct,
            "erroneous": self.erroneous,
            "correct": self.correct,
        }


def score_first_errors(predictions: Sequence[int | None], labels: Sequence[int]) -> FirstErrorScore:
    """One subset's figures.

    Args:
        predictions: index of the earliest wrong step, -1 for none; None (a critic's reply that could not be read, a
            solution that was cut before its end) is wrong whatever the label.
        labels: the rows' labels.

    Raises:
        DataError: the lists differ in length or are empty.
    """
    if len(predictions) != len(labels) or not labels:
        raise DataError(f"processbench: {len(predictions)} predictions for {len(labels)} labels -> one for each row")
    hits = {True: [0, 0], False: [0, 0]}
    for predicted, label in zip(predictions, labels, strict=True):
        found = hits[label != -1]
        found[0] += predicted is not None and predicted == label
        found[1] += 1
    shares = {kind: right / total if total else 0.0 for kind, (right, total) in hits.items()}
    return FirstErrorScore(hits[True][1], hits[False][1], shares[True], shares[False])


def first_below(scores: Sequence[float | None], threshold: float = 0.5) -> int | None:
    """Index of the first step whose score lies below the threshold, -1 if none does.

    None where a step without a score comes before it.
    """
    for index, score in enumerate(scores):
        if score is None:
            return None
        if score < threshold:
            return index
    return -1


def best_threshold(scores: Sequence[Sequence[float | None]], labels: Sequence[int]) -> float:
    """The threshold with the highest F1 on one subset (GSM8K, by custom), to be kept for the others.

    Between two scores that stand next to each other every threshold is as good: the middle is taken. Of equally good
    ones, the one nearest to 0.5.

    Raises:
        DataError: no row has scores.
    """
    low: list[float] = []
    high: list[float] = []
    clean: list[float] = []
    every: set[float] = set()
    for row, label in zip(scores, labels, strict=True):
        known = [score for score in row if score is not None]
        every.update(known)
        if label == -1 and known and len(known) == len(row):
            clean.append(min(known))
        elif 0 <= label < len(row) and None not in row[: label + 1]:
            # Found by every threshold above the wrong step's score and up to the lowest one before it.
            before = min((float(score) for score in row[:label] if score is not None), default=numpy.inf)
            if before > known[label]:
                low.append(known[label])
                high.append(before)
    if not every:
        raise DataError("processbench: there are no scores to choose a threshold by")
    edges = numpy.array(sorted(every))
    candidates = numpy.concatenate([[edges[0]], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1e-6]])
    bad, good = sum(label != -1 for label in labels), sum(label == -1 for label in labels)
    found = numpy.searchsorted(numpy.sort(low), candidates, side="left")
    found = found - numpy.searchsorted(numpy.sort(high), candidates, side="left")
    kept = len(clean) - numpy.searchsorted(numpy.sort(clean), candidates, side="left")
    a, b = found / max(1, bad), kept / max(1, good)
    f1 = numpy.divide(2 * a * b, a + b, out=numpy.zeros(len(candidates)), where=(a + b) > 0)
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[numpy.abs(best - 0.5).argmin()])


def solution_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ProcessBench as a solution record, its steps put together with blank lines.

    The row's label is `first_error`, and `correct` its `final_answer_correct`.

    Raises:
        DataError: the row lacks a problem, steps or a label that is one of them.
    """
    steps, label = row.get("steps"), row.get("label")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise DataError(f"processbench: row {row.get('id')!r} has steps = {steps!r}, expected a list of texts")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise DataError(f"processbench: row {row.get('id')!r} has label = {label!r}, not in -1 to {len(steps) - 1}")
    if not isinstance(row.get("problem"), str):
        raise DataError(f"processbench: row {row.get('id')!r} has no problem")
    pieces = [step + SEPARATOR for step in steps[:-1]] + [steps[-1]]
    return {
        "id": row.get("id"),
        "problem": row["problem"],
        "text": "".join(pieces),
        "steps": spans_of(steps_from_pieces(pieces)),
        "correct": row.get("final_answer_correct"),
        "first_error": label,
    }


def read_processbench(path: str | Path) -> list[dict[str, Any]]:
    """The solution records of a subset's file, JSON lines or one JSON list.

    Raises:
        DataError: the file cannot be read, or a row is none of ProcessBench's.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.split("\n") if x]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return [solution_of(row) for row in rows]
