"""One flat JSON line per step: written so that a kill at any byte loses at most the line being written.

Numbers that JSON cannot hold are written as the strings "nan", "inf" and "-inf" and read back as floats, so that a run
that diverged says so and every JSON reader can still read its file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.errors import DataError

Value: TypeAlias = float | int | bool | str | None

TIME_PREFIXES: tuple[str, ...] = ("time/", "memory/", "rate/", "servers/")
"""A metric under one of these prefixes depends on the machine, not on the run's arithmetic."""

TIME_FIELDS: frozenset[str] = frozenset(
    {
        "timestamp",
        "elapsed_seconds",
        "cpu_seconds",
        "wall_seconds",
        "step_time",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    }
)
"""Metrics without such a prefix that depend on the machine all the same (most are the Hugging Face trainer's names)."""

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def is_time_field(name: str) -> bool:
    """Whether a metric measures time, speed, memory or servers' health: what may differ between a resumed and an
    unbroken run.
    """
    return name.startswith(TIME_PREFIXES) or name in TIME_FIELDS


def _plain(name: str, value: Any) -> Value:
    """A JSON-able scalar; numpy and torch scalars are unwrapped by their own `.item()`."""
    if hasattr(value, "item") and callable(value.item):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"metric {name!r} is a {type(value).__name__}; a metrics line holds numbers, strings, booleans or None"
        " -> flatten it first"
    )


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """The record in one line, or None when the line is torn."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(record, dict):
        return None
    return {name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in record.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes() if path.exists() else b""
    lines = raw.split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse_line(line)
        if record is None:
            # Only the last line can be torn by a kill: a later good line means that something else wrote here.
            if any(later.strip() for later in lines[number:]):
                raise DataError(
                    f"{path}:{number} is not a JSON object although lines follow it: the file was edited or mixed"
                    " -> repair or remove it"
                )
            break
        records.append(record)
    return records


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All records of a metrics file in the order written.

    A torn last line (the process was killed while writing it) is left out; an absent file reads as no records.

    Raises:
        DataError: a line before the last is not a JSON object.
    """
    return _read(Path(path))


def fsync_directory(directory: Path) -> None:
    """Makes a rename or a new file in `directory` survive a power cut; nothing on systems that cannot open folders."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a whole file so that a reader sees either the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def _encode(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


class MetricsWriter:
    """Appends one flat JSON line a step to `path` and flushes it to disk before returning.

    Opening an existing file cuts off a torn last line and goes on after it; `truncate_after` takes it back to
    a checkpoint. One process writes (rank 0); readers may read at any time.

    Raises:
        DataError: the existing file is damaged before its last line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        records = _read(self.path)
        self._last_step: int | None = records[-1]["step"] if records else None
        intact = b"".join(_encode({name: _plain(name, value) for name, value in record.items()}) for record in records)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size:
            write_atomically(self.path, intact)
        self._file = self.path.open("ab")

    @property
    def last_step(self) -> int | None:
        """The step of the last line, or None in an empty file."""
        return self._last_step

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Appends one record.

        Args:
            metrics: flat mapping with an integer `step` larger than the last one's; values are scalars (numpy's and
                torch's too).

        Raises:
            ValueError: `step` is missing, no integer, or not larger than the last step written.
            TypeError: a value is not a scalar.
        """
        record = {name: _plain(name, value) for name, value in metrics.items()}
        step = record.get("step")
        if isinstance(step, bool) or not isinstance(step, int):
            raise ValueError(f"a metrics line needs an integer 'step', got {step!r}")
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"step {step} does not follow step {self._last_step}, the last in {self.path}"
                f" -> call truncate_after({step - 1}) when resuming"
            )
        self._file.write(_encode(record))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_step = step

    def truncate_after(self, step: int) -> int:
        """Drops every line of a later step (what a resumed run will do again). Returns how many were dropped."""
        records = _read(self.path)
        kept = [record for record in records if record["step"] <= step]
        if len(kept) < len(records):
            self._file.close()
            write_atomically(
                self.path,
                b"".join(_encode({name: _plain(name, value) for name, value in record.items()}) for record in kept),
            )
            self._file = self.path.open("ab")
        self._last_step = kept[-1]["step"] if kept else None
        return len(records) - len(kept)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def format_number(value: float) -> str:
    """A number in at most about seven characters: 0.431, 84.2, 12,345, 1.0e-06."""
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if float(value).is_integer() and size < 1e9:
        return f"{int(value):,}"
    if size < 1e-3 or size >= 1e9:
        return f"{value:.1e}"
    if size < 1:
        return f"{value:.3f}"
    return f"{value:.2f}" if size < 10 else (f"{value:.1f}" if size < 1000 else f"{value:,.0f}")


def format_seconds(seconds: float) -> str:
    """A duration for people: 3.4 s, 2 min 05 s, 1 h 07 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_LINE_ITEMS: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward", "number"),
    ("loss", "loss", "number"),
    ("accuracy", "acc", "percent"),
    ("mean_token_accuracy", "token acc", "percent"),
    ("eval/accuracy", "eval", "percent"),
    ("completions/mean_length", "len", "number"),
    ("completions/truncated_fraction", "cut", "percent"),
    ("entropy", "entropy", "number"),
    ("clip_fraction", "clip", "percent"),
    ("approx_kl", "kl", "number"),
    ("explained_variance", "ev", "number"),
    ("learning_rate", "lr", "number"),
    ("unscored", "unscored", "count"),
)


LINE_WIDTH = 100
_EXPENDABLE = ("split", "learning_rate", "rate", "explained_variance", "clip_fraction", "approx_kl", "entropy")
"""Parts of a step's line that are left out, in this order, while it is wider than `LINE_WIDTH`."""


def step_line(metrics: Mapping[str, Any], total: int | None = None) -> str:
    """The one readable line of a step: what matters, in a fixed order; absent and undefined metrics are left out.

    It keeps to `LINE_WIDTH` columns by leaving out what a reader misses least: how the time was spent, the learning
    rate, the throughput. `metrics.jsonl` and the report hold all of it.

    Args:
        metrics: a metrics line: `step`, `reward`, `loss`, `accuracy`, `completions/mean_length`, `time/step`, ...
        total: number of steps of the stage, shown as `step 3/40`.
    """
    step = f"{metrics['step']:>{len(str(total))}}/{total}" if total is not None else str(metrics["step"])
    parts = {"step": f"step {step}"}
    for name, label, style in _LINE_ITEMS:
        value = metrics.get(name)
        if not isinstance(value, int | float) or (style == "count" and not value):
            continue
        if name == "explained_variance" and not math.isfinite(value):
            continue  # all returns are equal: there is no variance to explain
        parts[name] = f"{label} {100 * value:.1f}%" if style == "percent" else f"{label} {format_number(value)}"
    if raised := alarms_of(metrics):
        parts["alarm"] = f"ALARM {', '.join(raised)}"
    seconds = metrics.get("time/step")
    if isinstance(seconds, int | float):
        parts["time"] = format_seconds(seconds)
        named = _time_split(metrics)
        if named:
            parts["split"] = f"({named})"
    rate = metrics.get("rate/tokens_per_second")
    if isinstance(rate, int | float):
        parts["rate"] = f"{rate:,.0f} tok/s"
    for name in _EXPENDABLE:
        if len(_joined(parts)) <= LINE_WIDTH:
            break
        parts.pop(name, None)
    return _joined(parts)


def alarms_of(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the alarms that a step's line holds, in alphabetical order."""
    return sorted(name.removeprefix("alarm/") for name, value in metrics.items() if name.startswith("alarm/") and value)


def _joined(parts: Mapping[str, str]) -> str:
    return "  ".join(parts.values()).replace("  (", " (")


def _time_split(metrics: Mapping[str, Any]) -> str:
    split = [
        (name.removeprefix("time/"), value)
        for name, value in metrics.items()
        if name.startswith("time/") and name != "time/step"
    ]
    return ", ".join(f"{name} {value:.1f}" for name, value in split if isinstance(value, int | float) and value >= 0.05)
