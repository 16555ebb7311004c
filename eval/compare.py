"""Rows of evaluations side by side: each figure with its interval and its paired difference to the baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.metrics import Interval, paired_difference, proportion_interval
from reasonrl.eval.results import metric_values, read_results
from reasonrl.eval.samples import CURRENT, PROBLEMS, SAMPLES, read_samples, verdicts_path

_CONTEXT = (
    "mean_length",
    "truncated_fraction",
    "no_answer_fraction",
    "unscored",
    "n_problems",
    "n_samples",
    "decoding",
)


@dataclass(frozen=True)
class Cell:
    """One figure: a suite's metric of one row.

    Attributes:
        estimate: the figure with its interval over problems.
        difference: row minus baseline over the same problems; None for the baseline itself.
    """

    suite: str
    metric: str
    label: str
    estimate: Interval
    difference: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        difference = None if self.difference is None else self.difference.as_dict()
        return {
            "suite": self.suite,
            "metric": self.metric,
            "label": self.label,
            "estimate": self.estimate.as_dict(),
            "difference": difference,
        }


@dataclass(frozen=True)
class Comparison:
    """A table of evaluations.

    Attributes:
        baseline: label of the row that the others are compared with.
        labels: rows in order.
        confidence: of every interval.
        cells: in the order suite, metric, row.
        context: by suite and label: lengths, truncation, counts and decoding settings.
        notes: what a reader must know before believing a difference (settings that differ, rows that lack a suite).
    """

    baseline: str
    labels: tuple[str, ...]
    confidence: float
    cells: tuple[Cell, ...]
    context: Mapping[str, Mapping[str, Mapping[str, Any]]]
    notes: tuple[str, ...]

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites in order."""
        return tuple(dict.fromkeys(cell.suite for cell in self.cells))

    def metrics(self, suite: str) -> tuple[str, ...]:
        """Metrics of one suite in order."""
        return tuple(dict.fromkeys(cell.metric for cell in self.cells if cell.suite == suite))

    def cell(self, suite: str, metric: str, label: str) -> Cell | None:
        """The figure at this place; None where the row has none."""
        wanted = (suite, metric, label)
        return next((cell for cell in self.cells if (cell.suite, cell.metric, cell.label) == wanted), None)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `table.json`."""
        return {
            "format": 1,
            "baseline": self.baseline,
            "labels": list(self.labels),
            "confidence": self.confidence,
            "cells": [cell.as_dict() for cell in self.cells],
            "context": {
                suite: {label: dict(found) for label, found in rows.items()} for suite, rows in self.context.items()
            },
            "notes": list(self.notes),
        }

    def metrics_flat(self) -> dict[str, float]:
        """Flat figures for `done.json`: `<suite>/<label>/accuracy`, `..._difference`, each with `_low` and `_high`."""
        flat: dict[str, float] = {}
        for cell in self.cells:
            name = f"{cell.suite}/{cell.label}/{cell.metric}"
            for suffix, interval in (("", cell.estimate), ("_difference", cell.difference)):
                if interval is not None:
                    ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
                    flat |= {f"{name}{suffix}{end}": value for end, value in ends.items() if value is not None}
        return flat


@lru_cache(maxsize=64)
def _samples(folder: Path, n: int | None, *stamps: int) -> list[dict[str, Any]]:
    # Only what the figures need is kept; `stamps` are the files' times, so that a file that grew is read again.
    names = ("id", "metric", "index", "correct")
    rows = [{name: row[name] for name in names} for row in read_samples(folder)]
    return [row for row in rows if n is None or row["metric"] != "sample" or row["index"] < n]


def suite_values(directory: Path, suite: str, metric: str) -> dict[str, float]:
    """Per-problem values of `accuracy`, `greedy` or `pass@<k>` of a finished suite.

    Raises:
        RunError: the suite's samples are not there.
    """
    folder = directory / suite
    files = [folder / PROBLEMS, folder / SAMPLES, verdicts_path(folder, CURRENT)]
    if not files[1].exists():
        raise RunError(f"{files[1]} does not exist: suite {suite!r} was not finished -> run the evaluation again")
    # The record may hold more samples than the results were made of: an evaluation with a smaller n came after.
    n = read_results(directory)["suites"].get(suite, {}).get("decoding", {}).get("n")
    stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in files]
    return metric_values(_samples(folder, n, *stamps), metric)


def _metric_names(entry: Mapping[str, Any]) -> list[str]:
    """The compared metrics of one suite's results; pass@1 is the accuracy and stays out."""
    names = ["accuracy"] if entry["accuracy"] is not None else []
    names += ["greedy"] if entry["greedy"] is not None else []
    return names + [f"pass@{k}" for k in entry["pass@k"] if k != "1"]


def compare_evaluations(
    rows: Mapping[str, str | Path], baseline: str, *, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compares finished evaluations on the suites they share with the baseline.

    Args:
        rows: directory of an evaluation (with `results.json` and the suites' folders) by row label, in the
            table's order.
        baseline: the label of the row to compare with.
        confidence: of every interval.
        seed: of the bootstrap.

    Raises:
        RunError: the baseline is no row, an evaluation has no results, or two rows answered different problems.
    """
    if baseline not in rows:
        raise RunError(f"the baseline {baseline!r} is no row; rows: {', '.join(rows)} -> name one of them")
    paths = {label: Path(path) for label, path in rows.items()}
    results = {label: read_results(path)["suites"] for label, path in paths.items()}
    for label, found in results.items():
        if not found:
            raise RunError(f"row {label!r}: {paths[label]} holds no results.json with a finished suite -> run it first")
    cells: list[Cell] = []
    context: dict[str, dict[str, dict[str, Any]]] = {}
    notes: list[str] = []
    for suite, base in results[baseline].items():
        labels = [label for label in rows if suite in results[label]]
        notes += [f"{suite}: row {label!r} has no such suite" for label in rows if label not in labels]
        notes += _setting_notes(suite, baseline, base, {label: results[label][suite] for label in labels})
        context[suite] = {label: {name: results[label][suite][name] for name in _CONTEXT} for label in labels}
        for metric in _metric_names(base):
            with_metric = [label for label in labels if metric in _metric_names(results[label][suite])]
            values = {label: suite_values(paths[label], suite, metric) for label in with_metric}
            cells += _cells(suite, metric, values, baseline, confidence, seed)
    return Comparison(baseline, tuple(rows), confidence, tuple(cells), context, tuple(notes))


def _cells(
    suite: str, metric: str, values: Mapping[str, Mapping[str, float]], baseline: str, confidence: float, seed: int
) -> list[Cell]:
    cells = []
    for label, found in values.items():
        difference = None
        if label != baseline:
            difference = difference_of(
                found, values[baseline], f"{suite}, {metric}, rows {label!r} and {baseline!r}", confidence, seed
            )
        cells.append(Cell(suite, metric, label, proportion_interval(list(found.values()), confidence), difference))
    return cells


def difference_of(
    values: Mapping[str, float], baseline: Mapping[str, float], place: str, confidence: float, seed: int = 0
) -> Interval:
    """`paired_difference` over problems scored on both sides.

    A problem that one side could not score is left out on both; entirely different problem sets are refused.

    Raises:
        RunError: less than half of the problems are on both sides: these are not the same problems.
    """
    shared = [key for key in values if key in baseline]
    if 2 * len(shared) < max(len(values), len(baseline)):
        raise RunError(
            f"{place}: only {len(shared)} problems are on both sides (of {len(values)} and {len(baseline)})"
            " -> compare evaluations of the same data"
        )
    return paired_difference(
        {key: values[key] for key in shared}, {key: baseline[key] for key in shared}, confidence, seed=seed
    )


def _setting_notes(
    suite: str, baseline: str, base: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What differs between rows besides the model: decoding, prompts, samples that could not be scored."""
    notes = []
    for label, entry in entries.items():
        for name, value in base["decoding"].items():
            if entry["decoding"][name] != value:
                notes.append(f"{suite}: {name} is {entry['decoding'][name]} in {label!r} and {value} in {baseline!r}")
        if entry["prompt_hash"] != base["prompt_hash"]:
            notes.append(
                f"{suite}: the prompts of {label!r} and {baseline!r} differ (other problems, template or tokenizer)"
            )
        if entry["unscored"]:
            notes.append(f"{suite}: {entry['unscored']} samples of {label!r} could not be scored and are left out")
    return notes


def write_comparison(comparison: Comparison, directory: str | Path) -> list[Path]:
    """Writes `table.md`, `table.csv`, `table.json` and `table.png` and returns their paths."""
    from reasonrl.eval.tables import comparison_csv, comparison_markdown, plot_comparison
    from reasonrl.observe import write_atomically

    folder = Path(directory)
    texts = {
        "table.md": comparison_markdown(comparison),
        "table.csv": comparison_csv(comparison),
        "table.json": json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts] + [plot_comparison(comparison, folder / "table.png")]


def read_comparison(path: str | Path) -> Comparison:
    """The comparison stored in a `table.json`."""
    record = json.loads(Path(path).read_text(encoding="utf-8"))

    def cell(found: Mapping[str, Any]) -> Cell:
        difference = None if found["difference"] is None else Interval(**found["difference"])
        return Cell(found["suite"], found["metric"], found["label"], Interval(**found["estimate"]), difference)

    labels: Sequence[str] = record["labels"]
    return Comparison(
        record["baseline"],
        tuple(labels),
        record["confidence"],
        tuple(cell(found) for found in record["cells"]),
        record["context"],
        tuple(record["notes"]),
    )
