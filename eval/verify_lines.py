"""Files of pairs for `reasonrl verify`: input lines of a gold and a response, output lines of a verdict."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.rewards.verdict import STATUSES, Verdict

GOLD_COLUMNS = ("gold", "answer")
RESPONSE_COLUMNS = ("pred", "response", "completion")
_CHECKED_AT_FIRST = 100
_PASSED_THROUGH = ("id", "equal")


@dataclass(frozen=True)
class Pair:
    """One line of the input.

    Attributes:
        line: its number, from 1.
        gold, response: the texts; None where the line has none.
        passed: `id` and `equal`, as they are.
        fault: what is wrong with the line; empty if nothing is.
    """

    line: int
    gold: str | None
    response: str | None
    passed: dict[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Columns:
    """Where the texts stand; None takes the first of GOLD_COLUMNS or RESPONSE_COLUMNS that a line has."""

    gold: str | None = None
    response: str | None = None

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (
            (self.gold,) if self.gold is not None else GOLD_COLUMNS,
            (self.response,) if self.response is not None else RESPONSE_COLUMNS,
        )


def count_and_hash(path: Path) -> tuple[int, str]:
    """How many lines a file has, and its SHA-256.

    Raises:
        DataError: it cannot be read or is empty.
    """
    digest, lines, last = hashlib.sha256(), 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                lines += block.count(b"\n")
                last = block[-1:]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} -> give a JSONL file of pairs") from error
    lines += last != b"\n"
    if not lines:
        raise DataError(f"{path} is empty -> one JSON object a line, with the columns gold and pred")
    return lines, digest.hexdigest()


def read_pairs(path: Path, columns: Columns, start: int = 0, end: int | None = None) -> Iterator[Pair]:
    """The lines of a file from number `start` + 1 to number `end`, whatever is in them."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if end is not None and number > end:
                return
            if number > start:
                yield _pair(number, raw, columns)


def check_columns(path: Path, columns: Columns) -> None:
    """Raises:
    DataError: not one of the first lines is a pair, so that every verdict would be a fault.
    """
    first: Pair | None = None
    for pair in read_pairs(path, columns, end=_CHECKED_AT_FIRST):
        if not pair.fault:
            return
        first = first or pair
    if first is not None:
        raise DataError(
            f"{path}: none of the first lines is a pair; line 1: {first.fault} -> name the columns with --gold-column"
            " and --pred-column"
        )


def _pair(number: int, raw: bytes, columns: Columns) -> Pair:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        said = "blank line" if not raw.strip() else f"not JSON: {str(error)[:200]}"
        return Pair(number, None, None, {}, said)
    if not isinstance(row, dict):
        return Pair(number, None, None, {}, f"a {type(row).__name__} where a JSON object was expected")
    passed = {name: row[name] for name in _PASSED_THROUGH if name in row}
    texts: list[str | None] = []
    for names in columns.names:
        name = next((name for name in names if name in row), None)
        text = None if name is None else _text(row[name])
        if text is None:
            there = ", ".join(map(repr, list(row)[:12])) or "none"
            wanted = " or ".join(map(repr, names))
            said = f"no column {wanted}; columns: {there}" if name is None else _no_text(name, row[name])
            return Pair(number, None, None, passed, said)
        texts.append(text)
    return Pair(number, texts[0], texts[1], passed)


def _no_text(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"column {name!r} holds {value}, no finite number -> write a finite number, or text in quotes"
    return f"column {name!r} holds a {type(value).__name__} where text was expected"


def read_label(value: Any) -> bool | None:
    """A pair's `equal`: true, false, 1, 0, or these words in quotes; None if it is none of them."""
    word = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(word)


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, (int, float)):
        try:
            return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        except ValueError:  # an integer of thousands of digits
            return None
    return value if isinstance(value, str) else None


def verdict_line(pair: Pair, verdict: Verdict) -> bytes:
    """The output line of a pair, with its end of line."""
    record = {
        "line": pair.line,
        **pair.passed,
        "status": verdict.status,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return (json.dumps(record) + "\n").encode()


def read_verdicts(path: Path, fix: str = "start over with --restart") -> Iterator[dict[str, Any]]:
    """The whole lines of a file of verdicts, each checked to be the verdict on its line's number; a torn last line is
    left out.

    Raises:
        DataError: a line that is no verdict, or not the one that belongs there.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                record = json.loads(raw)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or record.get("status") not in STATUSES:
                raise DataError(f"{path}:{number}: no verdict -> {fix}")
            if record.get("line") != number:
                raise DataError(f"{path}:{number}: the verdict on line {record.get('line')!r} stands here -> {fix}")
            yield record


def whole_length(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0
