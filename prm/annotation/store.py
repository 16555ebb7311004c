"""An annotation on disk: for each shard of the input the judges' votes as they came, and the labels made of them.

    settings.json                 how the labels are made; other ones are refused
    votes/<n>.<judge>/<shard>.jsonl   append-only: one line an answer (labels or a failure), as it comes
    labels/<shard>.jsonl          the shard's label records in the order of the input, written when it is complete
    failed/<shard>.jsonl          its rows without labels, with the reason
    index/<shard>.json            what the two hold: counts, cost, SHA-256
    index.json, failed.jsonl, mined.json    the sum of all shards, once all are there

A shard is so many neighbouring rows of the input, whatever becomes of them. Votes are never rewritten; the other files
are whole or absent, and made of the votes alone, so that a kill at any moment costs what was under way and no more.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import RecordWriter, changed_settings, encode_record, iter_records
from reasonrl.prm.annotation.mined import merged, nothing_mined, table_of
from reasonrl.prm.label_agreement import kappa_of

LABELS, FAILED, INDEX, VOTES = "labels", "failed", "index", "votes"


@dataclass(frozen=True)
class Shards:
    """Which shards a process takes: those whose number is `number - 1` modulo `of`."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise RunError(f"--shard {self.number}/{self.of} -> give i/n with i from 1 to n, such as 1/4")

    @classmethod
    def parse(cls, text: str) -> Shards:
        """`i/n`; raises RunError for anything else."""
        number, slash, of = text.partition("/")
        if not (slash and number.strip().isdecimal() and of.strip().isdecimal()):
            raise RunError(f"--shard {text!r} -> give i/n, such as 1/4 for the first of four processes")
        return cls(int(number), int(of))

    def takes(self, shard: int) -> bool:
        """Whether this process takes the shard."""
        return shard % self.of == self.number - 1


class VoteLog:
    """The answers of one judge about one shard, to be added to from any thread."""

    def __init__(self, path: Path) -> None:
        self._writer = RecordWriter(path)
        self._lock = threading.Lock()
        self._open = True

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one answer; it is the operating system's when this returns. Nothing is written after `close`."""
        with self._lock:
            if self._open:
                self._writer.write(line)

    def close(self) -> None:
        """Put it on the disk and let it go."""
        with self._lock:
            if self._open:
                self._open = False
                self._writer.close()


class Folder:
    """The folder of one annotation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settle(self, settings: Mapping[str, Any], date: str) -> str:
        """Make the settings those of the folder, or hold them against those that are there.

        Returns:
            The date of the labels: the one that the first call gave.

        Raises:
            RunError: the labels there are made otherwise.
        """
        wanted = json.loads(json.dumps(settings))
        file = self.path / "settings.json"
        with self._alone():
            if not file.exists():
                if any((self.path / name).exists() for name in (VOTES, LABELS)):
                    raise RunError(f"{self.path} holds labels, but not how they were made -> take another folder")
                text = json.dumps({"date": date, "settings": wanted}, indent=2, ensure_ascii=False)
                write_atomically(file, f"{text}\n".encode("utf-8", "backslashreplace"))
                return date
        there = json.loads(file.read_text(encoding="utf-8"))
        if changed := changed_settings(there["settings"], wanted):
            raise RunError(
                f"{self.path} holds labels made otherwise ({'; '.join(changed)}), and they must not be mixed -> take"
                " another folder, or start anew"
            )
        return str(there["date"])

    def votes_path(self, source: str, shard: int) -> Path:
        """The log of one judge about one shard."""
        return self.path / VOTES / source / f"{shard:06d}.jsonl"

    def votes(self, source: str, shard: int) -> Iterator[dict[str, Any]]:
        """The lines of that log; none where there is no file."""
        return iter_records(self.votes_path(source, shard))

    def entry(self, shard: int) -> dict[str, Any] | None:
        """What the index says of a shard; None if it is not complete."""
        path = self.path / INDEX / f"{shard:06d}.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def reopen(self, shard: int) -> None:
        """Take a shard for not complete; its votes stay."""
        (self.path / INDEX / f"{shard:06d}.json").unlink(missing_ok=True)
        (self.path / "index.json").unlink(missing_ok=True)

    def seal(
        self,
        shard: int,
        labelled: Sequence[Mapping[str, Any]],
        failed: Sequence[Mapping[str, Any]],
        entry: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write a complete shard, its index entry last."""
        lines = b"".join(map(encode_record, labelled))
        for name, data in ((LABELS, lines), (FAILED, b"".join(map(encode_record, failed)))):
            path = self.path / name / f"{shard:06d}.jsonl"
            if name == FAILED and not data:
                path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        whole = {"shard": shard, **entry, "bytes": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}
        path = self.path / INDEX / f"{shard:06d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{json.dumps(whole)}\n".encode())
        return whole

    def conclude(self, shards: int, unit: str = "characters") -> dict[str, Any] | None:
        """Write `index.json` and `mined.json` if all shards are complete; None if some are not.

        What belongs to no shard any more (the input shrank) is left out of it.

        Args:
            shards: of the input.
            unit: what the sizes of steps count.
        """
        with self._alone():
            entries = [self.entry(shard) for shard in range(shards)]
            there = [entry for entry in entries if entry is not None]
            if len(there) < shards:
                return None
            total = sum_entries(there)
            digests = "".join(str(entry["sha256"]) for entry in there)
            total["sha256"] = hashlib.sha256(digests.encode()).hexdigest()
            lines = [
                {key: entry[key] for key in ("shard", "solutions", "failed", "steps", "sha256")} for entry in there
            ]
            text = json.dumps({**total, "shards": lines}, indent=1)
            mined = json.dumps(table_of(sum_mined(there), unit), indent=1)
            write_atomically(self.path / "mined.json", f"{mined}\n".encode())
            write_atomically(self.path / "failed.jsonl", b"".join(map(encode_record, self.failures())))
            write_atomically(self.path / "index.json", f"{text}\n".encode())
            return total

    def labelled(self) -> Iterator[dict[str, Any]]:
        """The label records of all complete shards in order; rows that passed through without labels are left out."""
        for path in sorted((self.path / LABELS).glob("*.jsonl")):
            if (self.path / INDEX / f"{path.stem}.json").exists():
                yield from (record for record in iter_records(path) if record["source"] is not None)

    def failures(self) -> Iterator[dict[str, Any]]:
        """The rows without labels of all complete shards in order."""
        for path in sorted((self.path / FAILED).glob("*.jsonl")):
            if (self.path / INDEX / f"{path.stem}.json").exists():
                yield from iter_records(path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".annotation.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def sum_mined(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is mined of all shards together (`mined`)."""
    total = nothing_mined()
    for entry in entries:
        total = merged(total, entry["mined"])
    return total


COUNTS = ("rows", "solutions", "failed", "steps", "right", "wrong", "open")
USAGE = ("asked", "prompt_tokens", "completion_tokens", "cost")


def sum_entries(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and cost of several shards together, and how far every two votes agree (`labels.kappa_of`)."""
    total: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    usage: dict[str, Any] = dict.fromkeys(USAGE, 0)
    pairs: dict[str, list[int]] = {}
    passed: Counter[str] = Counter()
    for entry in entries:
        passed.update(entry["passed"])
        for name in COUNTS:
            total[name] += entry[name]
        for name in USAGE:
            usage[name] += entry["usage"][name]
        for name, cells in entry["pairs"].items():
            pairs[name] = [a + b for a, b in zip(pairs.get(name, [0] * 4), cells, strict=True)]
    agreement = {
        name: {"n": sum(cells), "observed": (cells[0] + cells[3]) / max(sum(cells), 1), "kappa": kappa_of(*cells)}
        for name, cells in sorted(pairs.items())
    }
    return {**total, "passed": dict(sorted(passed.items())), "usage": usage, "agreement": agreement}
