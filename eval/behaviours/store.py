"""Counts on disk, one line each as it is made: a killed count goes on, and other counts are never mixed in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from types import TracebackType
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.eval.behaviours.responses import Key, Response
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import RecordWriter, changed_settings, iter_records

FOLDER = "behaviours"
"""In a suite's folder: `<coder>.jsonl` with the counts of a coder, `<coder>.json` with how they were made."""


@dataclass(frozen=True)
class Count:
    """How often one response shows one behaviour.

    Attributes:
        count: occurrences.
        quoted: how many of them stand in the response as they are quoted; None if nothing was quoted.
    """

    count: int
    quoted: int | None = None


def coders(folder: Path) -> list[str]:
    """The names of those who have counted in a suite."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.jsonl"))


def read_counts(folder: Path, coder: str) -> dict[tuple[Key, str], Count]:
    """The counts of one coder by (response's key, behaviour); of several votes the lower median.

    A file of someone else (people, another tool) is read too: a line needs `id`, `behaviour` and `count`; `metric` is
    `sample` and `index` 0 if they are not there.

    Raises:
        DataError: a line that is no count.
    """
    votes: dict[tuple[Key, str], list[Count]] = {}
    for row in _rows(folder / FOLDER / f"{coder}.jsonl"):
        votes.setdefault((_key(row), row["behaviour"]), []).append(Count(row["count"], row.get("quoted")))
    return {key: _middle(counts) for key, counts in votes.items()}


def _middle(counts: list[Count]) -> Count:
    middle = median_low([one.count for one in counts])
    return next(one for one in counts if one.count == middle)


def _key(row: Mapping[str, Any]) -> Key:
    return row["id"], row.get("metric", "sample"), row.get("index", 0)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(iter_records(path), start=1):
        count = row.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise DataError(f"{path}, line {number}: count is {count!r} -> give a whole number from 0 on")
        if not isinstance(row.get("id"), str) or not isinstance(row.get("behaviour"), str):
            raise DataError(f"{path}, line {number}: has no `id` or no `behaviour` -> give both, as texts")
        yield row


class CountStore:
    """Counts of one coder in one suite, to be added to. Use it in a `with`; one process at a time.

    Args:
        folder: of the suite.
        coder: name of the coder, and of the file.
        settings: how the coder counts; must be those of the counts that are there.
        definitions: fingerprint of each behaviour; more may come, but none may change.
        restart: begin anew; what is there is kept as `<coder>.jsonl.before`.

    Raises:
        RunError: the counts there were made otherwise, are about other responses, or another process writes them.
    """

    def __init__(
        self,
        folder: Path,
        coder: str,
        settings: Mapping[str, Any],
        definitions: Mapping[str, str],
        *,
        restart: bool = False,
    ) -> None:
        self.path = folder / FOLDER / f"{coder}.jsonl"
        self.settings_path = self.path.with_suffix(".json")
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._definitions = dict(definitions)
        self._writer: RecordWriter | None = None
        self._votes: dict[tuple[Key, str, int], str] = {}
        self._restart = restart

    def __enter__(self) -> CountStore:
        writer = RecordWriter(self.path)
        try:
            if self._restart and self.path.stat().st_size:
                self.path.replace(self.path.with_name(f"{self.path.name}.before"))
                self.settings_path.unlink(missing_ok=True)
                writer.close()
                writer = RecordWriter(self.path)
            self._agree()
            for row in _rows(self.path):
                self._votes[_key(row), row["behaviour"], row.get("vote", 0)] = row.get("text_hash", "")
        except BaseException:
            writer.close()
            raise
        self._writer = writer
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def has(self, response: Response, behaviour: str, vote: int) -> bool:
        """Whether this vote is there."""
        return (response.key, behaviour, vote) in self._votes

    def check(self, responses: Iterable[Response]) -> None:
        """Refuse counts of responses that are no longer these.

        Raises:
            RunError: such counts are there.
        """
        now = {response.key: response.text_hash for response in responses}
        stale = sum(bool(text) and now.get(key, text) != text for (key, _, _), text in self._votes.items())
        if stale:
            raise RunError(
                f"{self.path}: {stale} of its {len(self._votes)} counts are about other responses than those of the"
                " evaluation now -> give --restart to begin anew, or another --name"
            )

    def add(self, response: Response, behaviour: str, vote: int, row: Mapping[str, Any]) -> None:
        """Write one count; it is the operating system's when this returns."""
        assert self._writer is not None, "the store is not open"
        key = {"id": response.id, "metric": response.metric, "index": response.index}
        self._writer.write({**key, "behaviour": behaviour, "vote": vote, "text_hash": response.text_hash, **row})
        self._votes[response.key, behaviour, vote] = response.text_hash

    def _agree(self) -> None:
        """Compare the settings with those on disk, and write both together."""
        there: dict[str, Any] = {}
        if self.settings_path.exists():
            there = json.loads(self.settings_path.read_text(encoding="utf-8"))
        elif self.path.stat().st_size:
            raise RunError(
                f"{self.path} holds counts, and {self.settings_path.name} with how they were made is not there -> give"
                " another --name, or --restart to begin anew"
            )
        old, defined = there.get("settings", self._settings), there.get("behaviours", {})
        changed = changed_settings(old, self._settings)
        changed += [
            f"the definition of {name}" for name, mark in self._definitions.items() if defined.get(name, mark) != mark
        ]
        if changed:
            raise RunError(
                f"{self.path} holds counts made otherwise ({'; '.join(changed)}), and they must not be mixed -> give"
                " another --name, or --restart to begin anew"
            )
        both = {"settings": self._settings, "behaviours": {**defined, **self._definitions}}
        write_atomically(self.settings_path, json.dumps(both, indent=2, sort_keys=True).encode())
