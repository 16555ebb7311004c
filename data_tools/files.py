"""Reading rows from files: JSONL, JSON, CSV, parquet, folders saved by `datasets`, and a user's own reader.

Every reader yields `(place, row)`, where `place` is `file:line` (or `file:row n`, counted from 1) and a row that cannot
be read is a `BadRow`.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reasonrl.errors import DataError
from reasonrl.plugins import entry_point_names, is_file_reference, load_entry_point, load_from_file, near

READERS_GROUP = "reasonrl.readers"
"""Entry-point group of installed readers: functions from a `pathlib.Path` to an iterable of mappings."""


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read, and why."""

    reason: str


PlacedRow = tuple[str, Mapping[str, Any] | BadRow]

_FORMAT_OF_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SAVED_DATASET_MARKS = ("dataset_dict.json", "dataset_info.json")


def read_paths(
    path: str | Path | Sequence[str | Path], format: str | None, split: str | None, base_dir: str | Path | None
) -> Iterator[PlacedRow]:
    """Rows of a file, a folder, a glob pattern, or a list of them, in sorted order of the files.

    Args:
        path: what to read; relative paths start at the working directory.
        format: `jsonl`, `json`, `csv`, `parquet`, an installed reader, or `file.py:function`; None goes by the file's
            ending.
        split: picks the files whose names start with it in a folder, or the part of a saved dataset or of a JSON file
            that holds several.
        base_dir: where a custom reader `file.py:function` is looked for; the working directory if None.

    Raises:
        DataError: nothing there, an unknown format, or a split that is missing or ambiguous.
    """
    reader = _reader_of(format, base_dir) if format is not None else None
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    if not paths:
        raise DataError("path is an empty list -> name at least one file")
    for one in paths:
        place = Path(one).expanduser()
        if place.is_dir() and any((place / mark).is_file() for mark in _SAVED_DATASET_MARKS):
            yield from _read_saved_dataset(place, split)
            continue
        for file in _files_at(place, split):
            if split is not None and place.is_file() and file.suffix != ".json":
                raise DataError(
                    f"{file}: split={split!r} picks among the files of a folder, and this is one file -> remove split,"
                    " or name the folder"
                )
            chosen = reader or _READERS[_format_of(file)]
            yield from chosen(file, split) if chosen is _read_json else chosen(file)


def _files_at(place: Path, split: str | None) -> list[Path]:
    if place.is_file():
        return [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.is_file() and _known_suffix(file))
        if not files:
            raise DataError(
                f"{place}: the folder holds no file that ends in {', '.join(_FORMAT_OF_SUFFIX)} -> name a file, or set"
                " format"
            )
        return _files_of_split(place, files, split)
    files = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file())
    if not files:
        raise DataError(
            f"{place}: no such file or folder, and no file matches it as a pattern -> check the path; relative paths"
            f" start at {Path.cwd()}"
        )
    return files


def _files_of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    # Hub folders name shards `train-00000-of-00002.parquet`; a plain folder holds `train.jsonl` and `test.jsonl`.
    names = {file: file.name.split(".")[0].split("-0000")[0].split("-of-")[0] for file in files}
    if split is not None:
        chosen = [file for file in files if names[file] == split]
        if not chosen:
            raise DataError(f"{folder}: no file of the split {split!r}{near(split, names.values())}")
        return chosen
    splits = sorted(set(names.values()) & {"train", "test", "validation", "valid", "val", "dev", "testmini", "eval"})
    if len(splits) > 1:
        raise DataError(
            f"{folder}: the folder holds several splits ({', '.join(splits)}), which must not be mixed -> set split, or"
            " name the file"
        )
    return files


def _known_suffix(file: Path) -> bool:
    return _data_suffix(file) in _FORMAT_OF_SUFFIX


def _data_suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _format_of(file: Path) -> str:
    try:
        return _FORMAT_OF_SUFFIX[_data_suffix(file)]
    except KeyError:
        raise DataError(
            f"{file}: the ending {file.suffix!r} tells no format -> set format; allowed: {', '.join(_READERS)}, or"
            " file.py:function"
        ) from None


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _read_jsonl(file: Path) -> Iterator[PlacedRow]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield f"{file}:{number}", _json_row(line)


def _json_row(line: bytes) -> Mapping[str, Any] | BadRow:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BadRow("not UTF-8")
    except (json.JSONDecodeError, RecursionError):
        return BadRow("torn or invalid JSON")
    return row if isinstance(row, dict) else BadRow(f"not an object but a {type(row).__name__}")


def _read_json(file: Path, split: str | None = None) -> Iterator[PlacedRow]:
    try:
        with _open(file) as stream:
            content = json.loads(stream.read().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DataError(
            f"{file}: not valid JSON: {problem} -> if it holds one object a line, set format: jsonl"
        ) from problem
    if isinstance(content, dict):
        parts = {
            key: value
            for key, value in content.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        }
        if split is None and len(parts) == 1:
            (content,) = parts.values()
        elif split in parts:
            content = parts[split]
        else:
            raise DataError(f"{file}: split={split!r} names none of its lists of rows{near(str(split), parts)}")
    elif split is not None:
        raise DataError(f"{file}: split={split!r}, but the file holds one list of rows -> remove split")
    if not isinstance(content, list):
        raise DataError(f"{file}: a {type(content).__name__} at the top, where a list of objects was expected")
    for number, row in enumerate(content, start=1):
        yield (
            f"{file}:row {number}",
            (row if isinstance(row, dict) else BadRow(f"not an object but a {type(row).__name__}")),
        )


def _read_csv(file: Path) -> Iterator[PlacedRow]:
    delimiter = "\t" if _data_suffix(file) == ".tsv" else ","
    with _open(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                place = f"{file}:{reader.line_num}"
                if None in row:
                    yield place, BadRow(f"more cells than the header's {len(reader.fieldnames or ())}")
                elif None in row.values():
                    yield place, BadRow(f"fewer cells than the header's {len(reader.fieldnames or ())}")
                else:
                    yield place, row
        except (csv.Error, UnicodeDecodeError) as problem:
            raise DataError(f"{file}: broken near line {reader.line_num}: {problem}") from problem


def _read_parquet(file: Path) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}:row {number}", row
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{file}: not a readable parquet file: {problem}") from problem


def _read_saved_dataset(folder: Path, split: str | None) -> Iterator[PlacedRow]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as problem:
        raise DataError(f"{folder}: not a folder that datasets' save_to_disk wrote: {problem}") from problem
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"{folder}: split={split!r} is none of its splits{near(str(split), saved)}")
        saved = saved[split]
    elif split is not None:
        raise DataError(f"{folder}: split={split!r}, but the folder holds one dataset without splits -> remove split")
    for number, row in enumerate(saved, start=1):
        yield f"{folder}:row {number}", row


_READERS: dict[str, Callable[..., Iterator[PlacedRow]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}


def _reader_of(format: str, base_dir: str | Path | None) -> Callable[..., Iterator[PlacedRow]]:
    if format in _READERS:
        return _READERS[format]
    if is_file_reference(format):
        custom = load_from_file(format, base_dir, error=DataError)
    else:
        custom = load_entry_point(format, READERS_GROUP, error=DataError)
        if custom is None:
            raise DataError(
                f"format {format!r} is unknown{near(format, [*_READERS, *entry_point_names(READERS_GROUP)])}, or"
                " file.py:function"
            )

    def read(file: Path) -> Iterator[PlacedRow]:
        for number, row in enumerate(custom(file), start=1):
            yield (
                f"{file}:row {number}",
                (row if isinstance(row, Mapping) else BadRow(f"not a mapping but a {type(row).__name__}")),
            )

    return read
