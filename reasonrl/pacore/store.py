"""The record of a batch run on disk: one line a finished call, one line a finished problem; both only ever grow.

A run's folder holds `settings.json` (what makes calls mixable), `calls.jsonl` and `results.jsonl`. Calls are known by
what was asked, so that a killed run, or one whose input has grown, asks nothing twice and mixes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from reasonrl.errors import RunError
from reasonrl.observe.records import RecordWriter, changed_settings, iter_records
from reasonrl.pacore.rounds import Answer, Call, Failure

SETTINGS, CALLS, RESULTS = "settings.json", "calls.jsonl", "results.jsonl"

Key: TypeAlias = tuple[str, int, int, str]
"""(problem id, round, index, hash of what was asked)."""


def prompt_hash(messages: Sequence[Mapping[str, Any]]) -> str:
    """16 hexadecimal digits of a conversation."""
    said = json.dumps(list(messages), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class CallStore:
    """The folder of one run, held by one process at a time; use it in a `with`.

    Answers are not kept in memory, only where they stand in the file.

    Args:
        directory: made if it is not there.
        settings: what makes calls mixable.

    Raises:
        RunError: the folder holds calls made with other settings, another process writes there, or a line is damaged.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self._calls = RecordWriter(directory / CALLS)
        try:
            self._check(json.loads(json.dumps(settings)))
            self._results = RecordWriter(directory / RESULTS)
        except BaseException:
            self._calls.close()
            raise
        self._reader = (directory / CALLS).open("rb")
        self._places = dict(self._index())
        self.finished: set[tuple[str, str]] = {
            (row["id"], row["prompt_hash"]) for row in iter_records(directory / RESULTS)
        }
        """(id, hash of the conversation) of problems with a result."""

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.directory / SETTINGS
        if path.exists() and (self.directory / CALLS).stat().st_size:
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as problem:
                raise RunError(f"{path} is damaged: {problem} -> run into another folder") from None
            if changed := changed_settings(there, settings):
                raise RunError(
                    f"{self.directory} holds calls made with other settings ({'; '.join(changed)}), and they must not"
                    " be mixed -> run into another folder"
                )
            return
        path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")

    def _index(self) -> Iterator[tuple[Key, tuple[int, int]]]:
        start = 0
        for number, line in enumerate(self._reader, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                yield (row["id"], row["round"], row["index"], row["prompt_hash"]), (start, len(line))
            except (ValueError, KeyError, TypeError):
                raise RunError(
                    f"{self.directory / CALLS}, line {number}: {line[:60]!r} is no call -> the file was edited or the"
                    " disk is damaged; remove the line"
                ) from None
            start += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def known(self, name: str, call: Call, asked: str) -> Answer | Failure | None:
        """How a call ended, if it did before this process began."""
        place = self._places.get((name, call.round, call.index, asked))
        if place is None:
            return None
        return outcome_of(json.loads(os.pread(self._reader.fileno(), place[1], place[0])))

    def write(self, name: str, call: Call, asked: str, outcome: Answer | Failure) -> None:
        """Appends one finished call."""
        said = {"id": name, "round": call.round, "index": call.index, "prompt_hash": asked, "seed": call.seed}
        self._calls.write({**said, **dataclasses.asdict(outcome)})

    def finish(self, row: Mapping[str, Any]) -> None:
        """Appends one finished problem."""
        self._results.write(row)

    def __enter__(self) -> CallStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._calls.close()
        self._results.close()
        self._reader.close()


def outcome_of(row: Mapping[str, Any]) -> Answer | Failure:
    """How a stored call ended."""
    if "error" in row:
        return Failure(row["error"])
    return Answer(**{field.name: row[field.name] for field in dataclasses.fields(Answer)})
