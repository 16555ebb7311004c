"""The record of one suite on disk: `settings.json`, `problems.jsonl`, `samples.jsonl`, and re-judgings in `verdicts/`.

`samples.jsonl` only ever grows, by one line a finished and judged sample; `docs/evaluation.md` names its fields. A
killed evaluation goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.errors import RunError
from reasonrl.observe import write_atomically
from reasonrl.observe.records import RecordWriter, changed_settings, encode_record, iter_records, read_records

Key: TypeAlias = tuple[str, str, int]
"""(problem id, `sample` or `greedy`, sample index)."""

SAMPLES, PROBLEMS, SETTINGS, UNJUDGED = "samples.jsonl", "problems.jsonl", "settings.json", "unjudged.jsonl"

LEFT_OUT = "left_out.json"
"""Answers, by id, of problems that were asked and no longer are: their samples were judged with these."""

CURRENT = "current"
"""The re-judging by a newer grader that the results stand on; `read_samples` lays it over unless told otherwise."""

OWN = "own"
"""What `read_samples` calls the verdicts that stand in `samples.jsonl` itself."""

JUDGED = ("extracted", "class", "verdict", "reason", "right", "correct", "score", "grader")
"""The fields of a sample that a grader fills, and a re-grade anew."""

ITEMS = "items"
"""One more such field, of samples that answer several problems: a verdict a problem."""

_METRICS = {"sample": 0, "greedy": 1}


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of one stored sample."""
    return row["id"], row["metric"], row["index"]


def read_problems(directory: str | Path) -> dict[str, dict[str, Any]]:
    """The problems of a suite's folder by id, in their order.

    Raises:
        RunError: the folder holds no evaluation of a suite.
    """
    path = Path(directory) / PROBLEMS
    if not path.exists():
        raise RunError(f"{path} does not exist -> name the folder of one suite of an evaluation, as in <run>/math500")
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(iter_records(path), start=1):
        key = row.get("id")
        if not isinstance(key, str) or key in found:
            why = f"problem {key!r} is there twice" if key in found else "has no `id`, as text"
            raise RunError(f"{path}, line {number}: {why} -> the file was edited; run the evaluation again")
        found[key] = row
    return found


def read_settings(directory: str | Path) -> dict[str, Any]:
    """The `settings.json` of a suite's folder; none where there is no such file.

    Raises:
        RunError: it is no JSON object.
    """
    return read_object(Path(directory) / SETTINGS, "evaluate into another folder")


def encode_object(value: Mapping[str, Any]) -> bytes:
    """An indented JSON object: UTF-8, and escaped where a text holds half a surrogate pair, as a server may send."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=2).encode()


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """A JSON object of a file; none where there is no such file. Raises RunError, with this fix, for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error} -> {fix}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object -> {fix}")
    return found


def read_samples(
    directory: str | Path, verdicts: str | None = None, problems: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """The samples of a suite's folder, sorted by (order of the problems, `sample` before `greedy`, index).

    Samples of problems that the evaluation no longer has are left out.

    Args:
        directory: the suite's folder; it may be half done.
        verdicts: name of a re-grade in `verdicts/`, whose verdicts are laid over; `own` for those of `samples.jsonl`
            as they are; None for those that the results stand on (`current` where there is one).
        problems: ids of the folder's problems in their order, where they have been read already.

    Raises:
        RunError: there is no such folder or re-grade, or a sample is there twice.
    """
    folder = Path(directory)
    order = {name: place for place, name in enumerate(read_problems(folder) if problems is None else problems)}
    samples = _by_key(folder / SAMPLES)
    if verdicts != OWN:
        name = CURRENT if verdicts is None else verdicts
        path = verdicts_path(folder, name)
        if verdicts is not None and not path.exists():
            there = sorted(found.stem for found in path.parent.glob("*.jsonl"))
            raise RunError(f"{path} does not exist; there: {', '.join([OWN, *there])} -> name one of them")
        for key, row in _by_key(path).items():
            if key in samples:
                samples[key].pop(ITEMS, None)  # another grader's
                samples[key] |= row
    rows = [row for row in samples.values() if row["id"] in order]
    return sorted(rows, key=lambda row: (order[row["id"]], _METRICS.get(row["metric"], 2), row["index"]))


def verdicts_path(directory: str | Path, name: str) -> Path:
    """Where a re-grade of this name lies; its settings are beside it with the ending `.json`."""
    return Path(directory) / "verdicts" / f"{name}.jsonl"


def write_verdicts(
    directory: str | Path, name: str, rows: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Path:
    """Writes a re-grade whole, at once: the keys, the `JUDGED` fields and, where there are, the `ITEMS` of its rows.

    Args:
        directory: the suite's folder.
        name: of the re-grade; `current` is the one that the results stand on.
        rows: samples with their new verdicts; other fields are not written.
        settings: what judged, for `verdicts/<name>.json`.
    """
    path = verdicts_path(directory, name)
    lines = [
        encode_record(
            {field: row[field] for field in ("id", "metric", "index", *JUDGED, *([ITEMS] if ITEMS in row else []))}
        )
        for row in sorted(rows, key=key_of)
    ]
    write_atomically(path.with_suffix(".json"), encode_object(settings))
    write_atomically(path, b"".join(lines))
    return path


def _by_key(path: Path, without: Collection[str] = ()) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {}
    for number, row in enumerate(iter_records(path), start=1):
        for name in without:
            row.pop(name, None)
        try:
            key = key_of(row)
        except KeyError as error:
            raise RunError(f"{path}, line {number}: no sample, it has no {error} -> remove the line") from None
        if key in found:
            raise RunError(
                f"{path}, line {number}: sample {key[2]} ({key[1]}) of problem {key[0]!r} is there twice -> files were"
                " put together; keep one of the lines"
            )
        found[key] = row
    return found


class SampleStore:
    """The record of one suite under `directory`, held by one process at a time.

    Args:
        directory: the suite's folder.
        settings: what makes two sets of samples mixable (model, template, decoding, seed, reward); kept in
            `settings.json`.

    Raises:
        RunError: the folder holds samples made with other settings, or another process writes there.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory = directory
        self.path = directory / SAMPLES
        # Held before it is looked at: else two processes that begin at once could each write their settings.
        self._samples = RecordWriter(self.path)
        try:
            self._check(json.loads(json.dumps(settings)))
            self._arrived = RecordWriter(directory / UNJUDGED)
        except BaseException:
            self._samples.close()
            raise

    def _check(self, settings: Mapping[str, Any]) -> None:
        path = self.directory / SETTINGS
        # Where no sample is there yet, there is nothing to mix with.
        if path.exists() and any(
            (self.directory / name).exists() and (self.directory / name).stat().st_size for name in (SAMPLES, UNJUDGED)
        ):
            if changed := changed_settings(read_settings(self.directory), settings):
                raise RunError(
                    f"{self.directory} holds samples made with other settings ({'; '.join(changed)})"
                    " and they must not be mixed -> restart the stage, or evaluate into another folder"
                )
            return
        write_atomically(path, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False).encode())

    def load(self, without: Collection[str] = ()) -> dict[Key, dict[str, Any]]:
        """Every judged sample on disk by key, with the verdicts of `current` laid over; fields left out by name."""
        samples = _by_key(self.path, without)
        for key, row in _by_key(verdicts_path(self.directory, CURRENT)).items():
            if key in samples:
                samples[key] |= row
        return samples

    def load_unjudged(self) -> dict[Key, dict[str, Any]]:
        """Samples that had arrived and were not judged when the process ended, by key; judged ones may be among
        them.
        """
        return {key_of(row): row for row in read_records(self.directory / UNJUDGED)}

    def problems(self) -> dict[str, dict[str, Any]]:
        """The problems as they were written last; none before the first time."""
        return read_problems(self.directory) if (self.directory / PROBLEMS).exists() else {}

    def answers(self) -> dict[str, Any]:
        """The answer by problem id that the stored samples were judged with, of problems no longer asked too."""
        return self._left_out() | {key: row.get("answer") for key, row in self.problems().items()}

    def _left_out(self) -> dict[str, Any]:
        return read_object(self.directory / LEFT_OUT, "remove the file")

    def write_problems(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `problems.jsonl` at once, unless it says the same already; the answers of problems that are no longer
        there are kept.
        """
        asked = {row["id"] for row in rows}
        gone = {key: answer for key, answer in self.answers().items() if key not in asked}
        if gone != self._left_out():
            write_atomically(self.directory / LEFT_OUT, json.dumps(gone, indent=0).encode())
        content = b"".join(map(encode_record, rows))
        path = self.directory / PROBLEMS
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)

    def arrive(self, row: Mapping[str, Any]) -> None:
        """Keeps a sample as it came from the engine until it is judged."""
        self._arrived.write(row)

    def clear_arrived(self) -> None:
        """All that has arrived is judged and appended: its first copy goes away."""
        self._arrived.clear()

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends one judged sample."""
        self._samples.write(row)

    def judged_again(self, rows: Mapping[Key, Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
        """Puts new verdicts on stored samples into `verdicts/current.jsonl`, beside those that are there."""
        there = _by_key(verdicts_path(self.directory, CURRENT))
        write_verdicts(self.directory, CURRENT, (there | dict(rows)).values(), settings)

    def finish(self, waiting: Iterable[Mapping[str, Any]] = ()) -> None:
        """Everything asked that arrived has been judged: the samples are put on the disk, the others' file goes away.

        Args:
            waiting: samples that still wait for a verdict, of problems that are not asked this time; they are kept.
        """
        self.close()
        path, kept = self.directory / UNJUDGED, b"".join(map(encode_record, waiting))
        if kept:
            write_atomically(path, kept)
        else:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets the files go."""
        self._samples.close()
        self._arrived.close()
