"""The chain: each step reads the file of the one before and writes its own; what is whole outlives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reasonrl.data_tools.curate.rules import Step
from reasonrl.data_tools.curate.spool import RowFile, written
from reasonrl.data_tools.curate.tally import Tally, line_of
from reasonrl.errors import DataError

ROWS, RECORD, STEPS, DROPPED = "rows.jsonl", "curation.json", "steps", "dropped"
EVERY = 1000
"""Rows between two safe points."""


def curate(
    folder: Path,
    intake: Callable[[Tally], Iterator[dict[str, Any]]],
    steps: Sequence[tuple[str, Step]],
    *,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[[str, int], None] = lambda step, rows: None,
    at_safe_point: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run a chain of steps; one that an earlier attempt has finished is not run again.

    Writes `rows.jsonl` (what is left), `curation.json` (each step's counts, reasons and examples), `dropped/` (id and
    reason of every row that went, a file a step).

    Args:
        folder: where; pictures of rows lie beside.
        intake: makes the first rows; it counts what it reads.
        steps: names and steps, in order.
        say: takes a line a step.
        report: called now and then with a step's name and its rows so far.
        at_safe_point: called between rows; may raise.

    Returns:
        What `curation.json` holds.

    Raises:
        DataError: no row is left; the step is named.
    """
    for name in (STEPS, DROPPED):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    before: Path | None = None
    for number, (name, step) in enumerate([("intake", None), *steps]):
        title = f"{number:02d}-{name}"
        target, record = folder / STEPS / f"{title}.jsonl", folder / STEPS / f"{title}.json"
        if not record.is_file():
            tally = Tally(folder / DROPPED / f"{title}.jsonl")
            if step is None:
                made = intake(tally)
            else:
                assert before is not None
                made = step(RowFile(before, folder), tally)
            _write(made, target, tally, lambda rows, title=title: report(title, rows), at_safe_point)  # type: ignore[misc]
            tally.close()
            _whole(record, json.dumps({"step": title, **tally.as_dict()}, ensure_ascii=False, default=str).encode())
        one = json.loads(record.read_text(encoding="utf-8"))
        say(line_of(title, one))
        if not one["kept"]:
            raise DataError(f"curate: {line_of(title, one)} -> no row is left; loosen this step")
        found.append(one)
        if before is not None:
            before.unlink(missing_ok=True)
        before = target
    assert before is not None
    if before.is_file():
        before.replace(folder / ROWS)
    result = {"format": 1, "read": found[0]["read"], "kept": found[-1]["kept"], "steps": found}
    _whole(folder / RECORD, json.dumps(result, ensure_ascii=False, indent=2).encode())
    return result


def _write(
    rows: Iterator[dict[str, Any]],
    target: Path,
    tally: Tally,
    report: Callable[[int], None],
    at_safe_point: Callable[[], None],
) -> None:
    staging = target.with_suffix(".partial")
    with staging.open("wb") as file:
        for row in rows:
            file.write(written(row))
            tally.kept += 1
            if tally.kept % EVERY == 0:
                report(tally.kept)
                at_safe_point()
        file.flush()
        os.fsync(file.fileno())
    staging.replace(target)


def _whole(path: Path, data: bytes) -> None:
    staging = path.with_suffix(".partial")
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
