"""Rows spread over files by their key, so that rows that belong together meet without all of them being in memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

PARTS = 64


class Partitions:
    """A temporary folder of `parts` files; rows of equal key are in the same one, in the order in which they came.

    Use as a context manager; the folder goes with it. Rows are plain values that JSON can hold.
    """

    def __init__(self, parts: int = PARTS, where: str | Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reasonrl-", dir=where)
        self._paths = [Path(self._folder.name) / f"{number:04d}" for number in range(parts)]
        self._files: list[IO[bytes]] = [path.open("wb") for path in self._paths]

    def add(self, key: str, row: Any) -> None:
        """Put a row where all others of this key are."""
        self._files[part_of(key, len(self._files))].write(json.dumps([key, row]).encode() + b"\n")

    def parts(self) -> Iterator[list[tuple[str, Any]]]:
        """The keys and rows of each file, one file in memory at a time. Nothing can be added after that."""
        for file in self._files:
            file.close()
        for path in self._paths:
            with path.open("rb") as file:
                yield [(key, row) for key, row in map(json.loads, file)]

    def __enter__(self) -> Partitions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        self._folder.cleanup()


def part_of(key: str, parts: int) -> int:
    """Which of `parts` a key belongs to, in every process the same."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % parts
