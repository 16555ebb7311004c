"""Files of rows between the steps of curation, and files of scores that outlive kills."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError


class RowFile:
    """Rows in a JSONL file, to be gone through as often as wanted, or read one by one.

    Args:
        path: of the file.
        home: the folder that relative paths of pictures start at.
    """

    def __init__(self, path: Path, home: Path) -> None:
        self.path, self.home = path, home
        self._places: array[int] | None = None
        self._open: Any = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def __len__(self) -> int:
        return len(self._offsets())

    def row(self, number: int) -> dict[str, Any]:
        """The `number`-th row, from 0."""
        start = self._offsets()[number]
        if self._open is None:
            self._open = self.path.open("rb")
        self._open.seek(start)
        row: dict[str, Any] = json.loads(self._open.readline())
        return row

    def _offsets(self) -> array[int]:
        if self._places is None:
            places, place = array("q"), 0
            with self.path.open("rb") as file:
                for line in file:
                    places.append(place)
                    place += len(line)
            self._places = places
        return self._places

    def close(self) -> None:
        """Close what `row` has opened."""
        if self._open is not None:
            self._open.close()
            self._open = None


def written(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON.

    Raises:
        DataError: it holds what JSON has no word for.
    """
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as problem:
        raise DataError(f"cannot be written as JSON: {problem}") from problem


class Ledger:
    """What was found out about rows at some cost, by id, in a file that a resumed step reads first.

    Args:
        path: JSONL; a torn last line is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.known: dict[str, Any] = {}
        if path.is_file():
            for line in path.read_bytes().splitlines():
                try:
                    name, value = json.loads(line)
                except ValueError:
                    continue
                self.known[name] = value
        self._file = path.open("ab")
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")

    def put(self, name: str, value: Any) -> None:
        """Note one finding; it is on its way to the disk when this returns."""
        self.known[name] = value
        self._file.write(json.dumps([name, value]).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
