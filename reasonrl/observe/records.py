"""JSONL files that grow by one line at a time and outlive a kill: whole lines count, a half-written last does not."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError


def encode_record(record: Mapping[str, Any]) -> bytes:
    """One line, its end included: UTF-8, and escaped where a text holds half a surrogate pair.

    Raises:
        ValueError: a number is not finite, which JSON has no word for.
    """
    try:
        return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(record, allow_nan=False) + "\n").encode()


def changed_settings(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the settings that a folder's records were made with and those of now, in words."""
    return [
        f"{name}: there {there.get(name)!r:.200}, now {now.get(name)!r:.200}"
        for name in sorted({*there, *now})
        if there.get(name) != now.get(name)
    ]


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a file in order; none where there is no file. It may be growing.

    Raises:
        RunError: a line before the last is no JSON object.
    """
    return list(iter_records(path))


def iter_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """`read_records`, a line at a time."""
    path = Path(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        # Lines end at b"\n" alone: a response may hold other characters that Python counts as line ends.
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise RunError(
                    f"{path}, line {number}: {line[:60]!r} is no JSON object -> the file was edited or the disk is"
                    " damaged; remove the line"
                )
            yield record


class RecordWriter:
    """Appends records to a file; each is with the operating system when `write` returns, so that a kill loses none.

    Args:
        path: made with its folders if it is not there; what a kill left of a line is cut off.

    Raises:
        RunError: another process holds the file open for writing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunError(
                f"{self.path} is being written by another process -> wait for it, or evaluate into another folder"
            ) from None
        self._cut()

    def _cut(self) -> None:
        size, block = os.fstat(self._file.fileno()).st_size, 1 << 16
        with self.path.open("rb") as file:
            end = size
            while end > 0:
                start = max(0, end - block)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    end = start + found + 1
                    break
                end = start
        if end < size:
            os.ftruncate(self._file.fileno(), end)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record."""
        line = memoryview(encode_record(record))
        while line:
            line = line[self._file.write(line) :]

    def clear(self) -> None:
        """Removes all records."""
        os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        """Puts the file on the disk and lets it go."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
