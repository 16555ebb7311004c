"""Completions on disk: one parquet file a step, so that what the model wrote can be read while it trains and after."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.observe.metrics import fsync_directory

_STEP_FILE = re.compile(r"step_(\d+)\.parquet")


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows (the union of their keys as columns, absent values null) atomically as one zstd parquet file.

    Raises:
        ValueError: there are no rows, or a column mixes types that parquet cannot hold together.
    """
    import pyarrow
    import pyarrow.parquet

    if not rows:
        raise ValueError(f"no rows to write to {path}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        try:
            columns[name] = pyarrow.array([row.get(name) for row in rows])
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise ValueError(f"column {name!r} of {path} mixes types that parquet cannot hold: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pyarrow.parquet.write_table(pyarrow.table(columns), temporary, compression="zstd")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one parquet file as plain dictionaries, in order; only some columns if they are named."""
    import pyarrow.parquet

    names = None if columns is None else list(columns)
    rows: list[dict[str, Any]] = pyarrow.parquet.ParquetFile(path).read(columns=names).to_pylist()
    return rows


def completion_files(directory: str | Path) -> dict[int, Path]:
    """The files in a completions folder by step, in ascending order; empty when there are none."""
    found = {
        int(match.group(1)): path
        for path in Path(directory).glob("step_*.parquet")
        if (match := _STEP_FILE.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


class CompletionsWriter:
    """Writes `<directory>/step_000010.parquet`, one file a step, each atomically.

    Args:
        directory: the folder for the files: `completions/` in the stage's directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Writes the completions of one step and returns the file.

        Args:
            step: the step the rows belong to; a file of the same step is replaced.
            rows: one mapping a completion: `id`, `prompt`, `text`, `verdict`, `reward`, `advantage`, `length` (tokens),
                `finish_reason`, ...

        Raises:
            ValueError: there are no rows, `step` is negative, or a column mixes types.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        path = self.directory / f"step_{step:06d}.parquet"
        write_parquet(path, list(rows))
        return path

    def truncate_after(self, step: int) -> int:
        """Removes the files of later steps and leftovers of a killed write. Returns how many steps were removed."""
        removed = 0
        for number, path in completion_files(self.directory).items():
            if number > step:
                path.unlink()
                removed += 1
        for leftover in self.directory.glob(".step_*.tmp"):
            leftover.unlink()
        return removed
