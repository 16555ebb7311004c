"""Samples of one suite on disk: shards while it runs, one file at the end; a killed evaluation goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.errors import RunError
from reasonrl.observe import read_parquet, write_atomically, write_parquet

Key: TypeAlias = tuple[str, str, int]
"""(problem id, `sample` or `greedy`, sample index)."""


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of one stored sample."""
    return row["id"], row["metric"], row["index"]


class SampleStore:
    """The samples of one suite under `directory`: `samples/shard_000001.parquet`, ... and, when done,
    `samples.parquet`.

    Args:
        directory: the suite's folder.
        settings: what makes two sets of samples mixable (decoding settings, seed, model, reward); kept in
            `settings.json`.

    Raises:
        RunError: the folder holds samples made with other settings.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self.path = directory / "samples.parquet"
        self._shards = directory / "samples"
        self._check(json.loads(json.dumps(settings)))

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.directory / "settings.json"
        if not path.exists():
            write_atomically(path, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False).encode())
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name}: there {found.get(name)!r}, now {settings.get(name)!r}"
            for name in sorted({*found, *settings})
            if found.get(name) != settings.get(name)
        ]
        if changed:
            raise RunError(
                f"{self.directory} holds samples made with other settings ({'; '.join(changed)})"
                " and they must not be mixed -> restart the stage, or evaluate into another folder"
            )

    def load(self) -> dict[Key, dict[str, Any]]:
        """Every sample on disk by key."""
        files = [self.path] if self.path.exists() else []
        files += sorted(self._shards.glob("shard_*.parquet"))
        return {key_of(row): row for file in files for row in read_parquet(file)}

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes one shard; it is whole on disk when this returns."""
        numbers = [int(path.stem.removeprefix("shard_")) for path in self._shards.glob("shard_*.parquet")]
        write_parquet(self._shards / f"shard_{max(numbers, default=0) + 1:06d}.parquet", rows)

    def finish(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes `samples.parquet` with these rows in this order, then removes the shards."""
        write_parquet(self.path, list(rows))
        if self._shards.exists():
            # Only our own files, so that rmdir fails loudly on anything else that was put there.
            for path in [*self._shards.glob("shard_*.parquet"), *self._shards.glob(".shard_*.tmp")]:
                path.unlink()
            self._shards.rmdir()
