"""What an examination leaves: `values.jsonl`, a line a unit (a solution, a problem), and an entry of `results.json`.

A line is `{"id", "values": {figure: number}, "pools": {pool: {"scores", "labels", "strata"}}}`. A figure is the mean of
`values` over the units that have it, or one of `reasonrl.eval.pooled.FIGURES` of a pool; the entry's `figures` says
which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.compared import ByProblem
from reasonrl.eval.metrics import Interval
from reasonrl.eval.pooled import Pool, PooledFigure
from reasonrl.eval.results import read_results
from reasonrl.eval.samples import encode_object
from reasonrl.observe import write_atomically
from reasonrl.observe.records import encode_record, iter_records

VALUES = "values.jsonl"
KIND = "values"
"""The `kind` of such an entry of `results.json`."""

Entries = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Unit:
    """What is drawn with replacement in a bootstrap: a solution, or a problem with its samples.

    Attributes:
        id: the same in every examination of the same data.
        values: shares in [0, 1] by figure.
        pools: entries by pool.
    """

    id: str
    values: Mapping[str, float] = field(default_factory=dict)
    pools: Mapping[str, Entries] = field(default_factory=dict)


@dataclass(frozen=True)
class Pooled:
    """A figure of a pool, in words."""

    figure: str
    pool: str
    threshold: float = 0.5

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `results.json`."""
        return {"figure": self.figure, "pool": self.pool, "threshold": self.threshold}


@dataclass(frozen=True)
class Examined:
    """The outcome of one examination.

    Attributes:
        units: at least one.
        unit: what a unit is, in the plural.
        figures: figures of pools by name; the means of `values` come after them, in the order of the units' values.
        headline: the figures that pictures show.
        about: anything else that a reader should know, for the entry.
        warnings: sentences for the reader.
    """

    units: Sequence[Unit]
    unit: str
    figures: Mapping[str, Pooled] = field(default_factory=dict)
    headline: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def write_examined(
    directory: str | Path, suite: str, examined: Examined, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Writes the units' values, and the suite's entry into `results.json` beside those of other suites.

    Returns:
        The entry.

    Raises:
        RunError: there are no units.
    """
    if not examined.units:
        raise RunError(f"{suite}: there is nothing to examine -> look at why rows were set aside")
    folder = Path(directory) / suite
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"id": one.id, "values": dict(one.values), "pools": dict(one.pools)} for one in examined.units]
    write_atomically(folder / VALUES, b"".join(map(encode_record, lines)))
    metrics: dict[str, Interval] = {}
    pools = {
        name: Pool.of({one.id: one.pools[name] for one in examined.units if name in one.pools})
        for name in dict.fromkeys(figure.pool for figure in examined.figures.values())
    }
    for name, figure in examined.figures.items():
        found = PooledFigure(pools[figure.pool], figure.figure, figure.threshold)
        if len(found.pool.unit) and found.value is not None:
            metrics[name] = found.estimate(confidence, seed)
    for name in dict.fromkeys(name for one in examined.units for name in one.values):
        values = {one.id: one.values[name] for one in examined.units if name in one.values}
        metrics[name] = ByProblem(values).estimate(confidence)
    entry = {**_empty(len(examined.units)), "unit": examined.unit, "headline": list(examined.headline)}
    entry["metrics"] = {name: interval.as_dict() for name, interval in metrics.items()}
    entry["figures"] = {name: figure.as_dict() for name, figure in examined.figures.items() if name in metrics}
    entry |= {"seed": seed, "warnings": list(examined.warnings), **examined.about}
    results = read_results(directory)
    results["suites"][suite] = entry
    write_atomically(Path(directory) / "results.json", encode_object(results))
    return entry


def _empty(units: int) -> dict[str, Any]:
    """The fields that every entry of `results.json` has."""
    return {
        "kind": KIND,
        "accuracy": None,
        "accuracy_within": None,
        "pass@k": {},
        "maj@n": None,
        "greedy": None,
        "mean_score": None,
        "mean_length": None,
        "tokens_per_answer": None,
        "tokens_per_correct": None,
        "counts": {},
        "truncated_fraction": 0.0,
        "truncated_right_fraction": 0.0,
        "no_answer_fraction": 0.0,
        "unscored": 0,
        "n_problems": units,
        "n_samples": units,
        "verdicts": {},
        "decoding": {},
        "prompt_hash": "",
    }


def flat_metrics(suite: str, entry: Mapping[str, Any]) -> dict[str, float]:
    """For `done.json`: `<suite>/<figure>`, with `_low` and `_high`."""
    flat: dict[str, float] = {}
    for name, found in entry["metrics"].items():
        ends = {"": found["value"], "_low": found["low"], "_high": found["high"]}
        flat |= {f"{suite}/{name}{end}": value for end, value in ends.items() if value is not None}
    return flat


def is_exam(directory: str | Path, suite: str) -> bool:
    """Whether a suite of an evaluation folder is an examination."""
    return is_exam_entry(read_results(directory)["suites"].get(suite, {}))


def is_exam_entry(entry: Mapping[str, Any]) -> bool:
    """The same of its entry."""
    return entry.get("kind") == KIND


def read_units(directory: str | Path, suite: str) -> Iterator[Unit]:
    """The units of a finished examination.

    Raises:
        RunError: its values are not there.
    """
    path = Path(directory) / suite / VALUES
    if not path.exists():
        raise RunError(f"{path} does not exist: {suite!r} was not finished -> run the stage again")
    for line in iter_records(path):
        yield Unit(line["id"], line["values"], line["pools"])


def unit_values(directory: str | Path, suite: str, metric: str) -> dict[str, float]:
    """A mean figure's values by unit."""
    return {one.id: one.values[metric] for one in _units(directory, suite) if metric in one.values}


def pooled_figure(directory: str | Path, suite: str, metric: str) -> PooledFigure | None:
    """A pooled figure; None for one that is a mean of values."""
    entry = read_results(directory)["suites"].get(suite, {})
    asked = entry.get("figures", {}).get(metric)
    if asked is None:
        return None
    entries = {one.id: one.pools[asked["pool"]] for one in _units(directory, suite) if asked["pool"] in one.pools}
    return PooledFigure(Pool.of(entries), asked["figure"], asked["threshold"], Interval(**entry["metrics"][metric]))


def _units(directory: str | Path, suite: str) -> tuple[Unit, ...]:
    path = Path(directory) / suite / VALUES
    return _cached(Path(directory), suite, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=32)
def _cached(directory: Path, suite: str, stamp: int) -> tuple[Unit, ...]:
    return tuple(read_units(directory, suite))
