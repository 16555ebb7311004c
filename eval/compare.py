"""Rows of evaluations side by side: each figure with its interval and its paired difference to the baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.compared import Compared, figure_of, of_own_problems
from reasonrl.eval.compound import coverage_notes
from reasonrl.eval.exams.record import is_exam, is_exam_entry, unit_values
from reasonrl.eval.metrics import Interval
from reasonrl.eval.named_metrics import groups_of, metric_values
from reasonrl.eval.paired import holm
from reasonrl.eval.results import of_first, read_results
from reasonrl.eval.samples import CURRENT, PROBLEMS, SAMPLES, read_problems, read_samples, verdicts_path

_CONTEXT = (
    "mean_length",
    "truncated_fraction",
    "no_answer_fraction",
    "unscored",
    "n_problems",
    "n_samples",
    "decoding",
)
_LATER = ("counts", "tokens_per_answer", "tokens_per_correct", "accuracy_within", "kind", "unit", "headline")
"""Context that results of an earlier release lack."""


@dataclass(frozen=True)
class Cell:
    """One figure: a suite's metric of one row.

    Attributes:
        estimate: the figure with its interval over problems.
        difference: row minus baseline over the same problems; None for the baseline itself.
        p_value: of the difference, by the paired sign-flip test; None likewise.
        p_corrected: the same after Holm's correction for all suites and rows of this metric.
    """

    suite: str
    metric: str
    label: str
    estimate: Interval
    difference: Interval | None
    p_value: float | None = None
    p_corrected: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        difference = None if self.difference is None else self.difference.as_dict()
        return {
            "suite": self.suite,
            "metric": self.metric,
            "label": self.label,
            "estimate": self.estimate.as_dict(),
            "difference": difference,
            "p_value": self.p_value,
            "p_corrected": self.p_corrected,
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

    def headline(self, suite: str) -> tuple[str, ...]:
        """The figures of an examination that a terminal and a picture have room for; empty for other suites."""
        found = self.context[suite][self.baseline].get("headline") or ()
        return tuple(name for name in found if name in self.metrics(suite))

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
            if cell.p_corrected is not None:
                flat[f"{name}_p_corrected"] = cell.p_corrected
        return flat


@lru_cache(maxsize=64)
def _samples(folder: Path, n: int | None, *stamps: int) -> list[dict[str, Any]]:
    # Long fields are left out; `stamps` are the files' times, so that a file that grew is read again.
    rows = of_first(read_samples(folder), n)
    return [{name: value for name, value in row.items() if name not in _LONG} for row in rows]


@lru_cache(maxsize=64)
def _problems(folder: Path, stamp: int) -> dict[str, dict[str, Any]]:
    return {
        key: {name: problem.get(name) for name in ("group", "columns")}
        for key, problem in read_problems(folder).items()
    }


_LONG = ("text", "reason", "prompt_hash", "seed")


def suite_values(directory: Path, suite: str, metric: str) -> dict[str, float]:
    """Values of a named figure (`accuracy`, `greedy`, `pass@4`, `maj@8`, ...) of a finished suite, by problem; those of
    `worst_case` and its like by group.

    Raises:
        RunError: the suite's samples are not there.
    """
    if is_exam(directory, suite):
        return unit_values(directory, suite, metric)
    path = directory / suite / PROBLEMS
    rows = _rows_of(directory, suite)
    return metric_values(rows, metric, _problems(path.parent, path.stat().st_mtime_ns))


def _rows_of(directory: Path, suite: str) -> list[dict[str, Any]]:
    folder = directory / suite
    files = [folder / PROBLEMS, folder / SAMPLES, verdicts_path(folder, CURRENT)]
    if not files[1].exists():
        raise RunError(f"{files[1]} does not exist: suite {suite!r} was not finished -> run the evaluation again")
    # The record may hold more samples than the results were made of: an evaluation with a smaller n came after.
    entry = read_results(directory)["suites"].get(suite, {})
    stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in files]
    rows = _samples(folder, entry.get("decoding", {}).get("n"), *stamps)
    there, told = sum(row["metric"] == "sample" for row in rows), entry.get("n_samples")
    if told not in (None, there):
        raise RunError(
            f"{folder}: the record holds {there:,} samples where results.json tells of {told:,}: another evaluation of"
            f" {suite!r} was begun there and has not ended -> let it end, with the same command"
        )
    return rows


def suite_groups(directory: Path, suite: str) -> dict[str, str]:
    """Group by problem id, where a suite's problems are variants of questions; else empty."""
    path = directory / suite / PROBLEMS
    return groups_of(_problems(path.parent, path.stat().st_mtime_ns)) if path.exists() else {}


def suite_counts(directory: Path, suite: str) -> dict[str, tuple[int, int]]:
    """(right, scored) samples by problem, or by group where problems are variants of questions."""
    from reasonrl.eval.named_metrics import by_problem

    problems = by_problem(_rows_of(directory, suite), "sample")
    groups, counts = suite_groups(directory, suite), dict[str, tuple[int, int]]()
    for key, samples in problems.items():
        name = groups.get(key, key)
        right, scored = counts.get(name, (0, 0))
        counts[name] = (right + sum(bool(row["correct"]) for row in samples), scored + len(samples))
    return counts


def _metric_names(entry: Mapping[str, Any]) -> list[str]:
    """The compared metrics of one suite's results; pass@1 is the accuracy and stays out."""
    names = ["accuracy"] if entry["accuracy"] is not None else []
    names += ["greedy"] if entry["greedy"] is not None else []
    names += [f"pass@{k}" for k in entry["pass@k"] if k != "1"]
    return names + [name for name in entry.get("metrics", {}) if name not in names]


def compare_evaluations(
    rows: Mapping[str, str | Path],
    baseline: str,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    suites: Sequence[str] | None = None,
) -> Comparison:
    """Compares finished evaluations on the suites they share with the baseline.

    Args:
        rows: directory of an evaluation (with `results.json` and the suites' folders) by row label, in the
            table's order.
        baseline: the label of the row to compare with.
        confidence: of every interval.
        seed: of the bootstrap and of sign patterns that are drawn.
        suites: only these; all of the baseline's if None.

    Raises:
        RunError: the baseline is no row or lacks a named suite, an evaluation has no results, or two rows answered
            different problems.
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
    absent = [suite for suite in suites or () if suite not in results[baseline]]
    if absent:
        there = ", ".join(results[baseline])
        raise RunError(f"row {baseline!r} has no suite {absent[0]!r}; it has {there} -> name one of them")
    for suite, base in results[baseline].items():
        if suites is not None and suite not in suites:
            continue
        labels = [label for label in rows if suite in results[label]]
        notes += [f"{suite}: row {label!r} has no such suite" for label in rows if label not in labels]
        notes += _setting_notes(suite, baseline, base, {label: results[label][suite] for label in labels})
        context[suite] = {
            label: {name: results[label][suite][name] for name in _CONTEXT}
            | {name: results[label][suite].get(name) for name in _LATER}
            for label in labels
        }
        for metric in _metric_names(base):
            with_metric = [label for label in labels if metric in _metric_names(results[label][suite])]
            figures = {label: figure_of(paths[label], suite, metric) for label in with_metric}
            cells += _cells(suite, metric, figures, baseline, confidence, seed)
    return Comparison(baseline, tuple(rows), confidence, tuple(_corrected(cells)), context, tuple(notes))


def _corrected(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with p-values corrected for the suites and rows that each metric is compared on."""
    found = list(cells)
    for metric in dict.fromkeys(cell.metric for cell in cells):
        places = [place for place, cell in enumerate(cells) if cell.metric == metric and cell.p_value is not None]
        for place, corrected in zip(places, holm([cells[place].p_value or 0.0 for place in places]), strict=True):
            found[place] = replace(found[place], p_corrected=corrected)
    return found


def _cells(
    suite: str, metric: str, figures: Mapping[str, Compared], baseline: str, confidence: float, seed: int
) -> list[Cell]:
    cells = []
    for label, found in figures.items():
        difference, chance = None, None
        if label != baseline and not of_own_problems(metric):
            place = f"{suite}, {metric}, rows {label!r} and {baseline!r}"
            difference = found.difference(figures[baseline], place, confidence, seed)
            chance = found.p_value(figures[baseline], place, seed)
        cells.append(Cell(suite, metric, label, found.estimate(confidence, seed), difference, chance))
    return cells


def _setting_notes(
    suite: str, baseline: str, base: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What differs between rows besides the model: decoding, prompts, samples that could not be scored."""
    notes = []
    for label, entry in entries.items():
        if is_exam_entry(entry) != is_exam_entry(base):
            raise RunError(f"{suite} is an examination in one of {label!r} and {baseline!r} and none in the other")
        if is_exam_entry(entry):
            notes += [f"{suite}: {label!r}: {warning}" for warning in entry["warnings"]]
            continue
        for name, value in base["decoding"].items():
            if entry["decoding"][name] != value:
                notes.append(f"{suite}: {name} is {entry['decoding'][name]} in {label!r} and {value} in {baseline!r}")
        if entry["prompt_hash"] != base["prompt_hash"]:
            notes.append(
                f"{suite}: the prompts of {label!r} and {baseline!r} differ (other problems, template or tokenizer)"
            )
        if entry.get("limited"):
            limited = entry["limited"]
            notes.append(
                f"{suite}: {label!r} is limited to the first {limited['problems']} of {limited['of']} problems"
            )
        notes += [f"{suite}: {label!r}: {line}" for line in coverage_notes(entry.get("compound") or {})]
        if entry["unscored"]:
            notes.append(f"{suite}: {entry['unscored']} samples of {label!r} could not be scored and are left out")
    return notes


def write_comparison(comparison: Comparison, directory: str | Path) -> list[Path]:
    """Writes `table.md`, `table.csv`, `table.json`, `table.png` and, of examinations over numbers of candidates,
    `<suite>.png`; returns their paths.
    """
    from reasonrl.eval.exams.curves import plot_rows
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
    pictures = [plot_comparison(comparison, folder / "table.png")]
    for suite in comparison.suites:
        rows = {label: _figures_of(comparison, suite, label) for label in comparison.labels}
        pictures += plot_rows(rows, f"{suite}, {100 * comparison.confidence:g} % intervals", folder / f"{suite}.png")
    return [folder / name for name in texts] + pictures


def _figures_of(comparison: Comparison, suite: str, label: str) -> dict[str, Interval]:
    return {cell.metric: cell.estimate for cell in comparison.cells if (cell.suite, cell.label) == (suite, label)}


def read_comparison(path: str | Path) -> Comparison:
    """The comparison stored in a `table.json`."""
    record = json.loads(Path(path).read_text(encoding="utf-8"))

    def cell(found: Mapping[str, Any]) -> Cell:
        difference = None if found["difference"] is None else Interval(**found["difference"])
        estimate, chances = Interval(**found["estimate"]), (found.get("p_value"), found.get("p_corrected"))
        return Cell(found["suite"], found["metric"], found["label"], estimate, difference, *chances)

    labels: Sequence[str] = record["labels"]
    return Comparison(
        record["baseline"],
        tuple(labels),
        record["confidence"],
        tuple(cell(found) for found in record["cells"]),
        record["context"],
        tuple(record["notes"]),
    )
