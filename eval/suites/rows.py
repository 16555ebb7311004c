"""A suite's rows: read, narrowed, checked against what is expected, and made ready to be asked."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from reasonrl.data_tools.loading import Rows, load_rows
from reasonrl.data_tools.pictures import pictures_of
from reasonrl.errors import DataError
from reasonrl.eval.suites.entry import INSTRUCTIONS, KIND, SuiteEntry
from reasonrl.plugins import near

log = logging.getLogger(__name__)

_PICTURE_MARK = re.compile(r"<image (\d+)>")


@dataclass(frozen=True)
class RowCheck:
    """What became of the comparison with the entry.

    Attributes:
        rows: rows there are.
        content: their SHA-256 (`content_of`).
        state: `verified` (the entry knows this content), `unverified` (it knows none), `other` (the content of another
            copy; from the hub only).
    """

    rows: int
    content: str
    state: str


def suite_rows(name: str, entry: SuiteEntry, source: Mapping[str, Any], check: bool = True) -> tuple[Rows, RowCheck]:
    """The rows of a suite, ready to be asked.

    Args:
        name: the suite's, for messages.
        entry: what the suite is.
        source: arguments of `load_rows` that say where the rows are.
        check: refuse rows that are not the expected ones.

    Returns:
        Rows with `id`, `problem`, `answer` and, where the entry asks for them, `options` (letter -> text), `images`,
        `group`, `level`, `subject`, `instruction`; and the check's outcome.

    Raises:
        DataError: the source cannot be read, a column that the entry names is missing, the rows are not the expected
            ones, or an answer names none of its options.
    """
    # A code suite has tests instead of an answer.
    require = tuple(
        column for column, needed in (("problem", entry.question is None), ("answer", entry.answer != "code")) if needed
    )
    rows = _read(entry, source, require)
    kept = [row for row in rows if _wanted(name, entry, row)]
    if not kept:
        raise DataError(
            f"suite {name!r}: none of the {len(rows)} rows of {rows.report.source} meets only, since, until"
            " and text_only -> check the entry's columns and values"
        )
    made = [_ready(name, entry, row) for row in kept]
    # Over the data's own words: how options are shown is no matter of the file's.
    content = content_of([{**row, "options": _options(name, entry, row)} for row in kept])
    found = RowCheck(len(made), content, "unverified")
    if check:
        found = _checked(name, entry, found, rows, from_hub=source.get("hub") is not None)
    rows.report.kept, rows.report.filtered = len(made), rows.report.filtered + len(rows) - len(made)
    return Rows(made, rows.report), found


def _read(entry: SuiteEntry, source: Mapping[str, Any], require: Sequence[str]) -> Rows:
    """The rows of the file, or of all configurations of a hub's data set that make the suite."""
    if source.get("hub") is None or entry.source.names is None:
        return load_rows(**source, columns=entry.columns, require=require)
    parts = [
        load_rows(**{**source, "name": name}, columns=entry.columns, require=require) for name in entry.source.names
    ]
    report = parts[0].report
    for part in parts[1:]:
        report.read, report.kept = report.read + part.report.read, report.kept + part.report.kept
        for reason, count in part.report.dropped.items():
            report.dropped[reason] = report.dropped.get(reason, 0) + count
            report.examples.setdefault(reason, part.report.examples[reason])
    return Rows([row for part in parts for row in part], report)


def content_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the rows' problems, answers, options and numbers of pictures: the same in any order and file format,
    wherever the pictures lie.
    """
    lines = sorted(
        json.dumps(
            [row.get("problem"), row.get("answer"), row.get("options"), len(pictures_of(row))],
            ensure_ascii=False,
            sort_keys=True,
            default=str,
        )
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _cell(name: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        there = near(column, [key for key in row if key not in ("answer", "solution")])
        raise DataError(f"suite {name!r}: row {row.get('id')}: there is no column {column!r}{there}")
    return row[column]


def _wanted(name: str, entry: SuiteEntry, row: Mapping[str, Any]) -> bool:
    for column, value in entry.only.items():
        allowed = value if isinstance(value, list) else [value]
        if _cell(name, row, column) not in allowed:
            return False
    for column, first in entry.since.items():
        if str(_cell(name, row, column))[: len(first)] < first:
            return False
    for column, last in entry.until.items():
        if str(_cell(name, row, column))[: len(last)] > last:
            return False
    return not (entry.text_only and any(pictures_of(row)))


def _ready(name: str, entry: SuiteEntry, row: dict[str, Any]) -> dict[str, Any]:
    made = dict(row)
    if entry.question is not None:
        made["problem"] = entry.question
    if entry.gold_values:
        made["answer"] = _value(name, entry, row)
    if entry.text_only:
        made.pop("images", None)
    if entry.images is not None:
        cells = [_cell(name, row, column) for column in entry.images]
        made["images"] = [cell for cell in cells if cell is not None]
        for column in entry.images:
            if column != "images":
                made.pop(column, None)
    if made.get("images") and isinstance(made.get("problem"), str):
        made["problem"] = _PICTURE_MARK.sub(r"<image\1>", made["problem"])
    for ours, theirs in (*entry.labels.items(), *((("group", entry.group),) if entry.group else ())):
        made[ours] = str(_cell(name, row, theirs))
    options = _options(name, entry, row)
    if options is not None:
        made["answer"], ordered = _gold(name, entry, row, options)
        made["options"] = dict(zip(ascii_uppercase, ordered, strict=False))
        if not entry.options_listed:
            listed = "\n".join(f"({letter}) {text}" for letter, text in made["options"].items())
            made["problem"] = f"{made['problem']}\n\n{listed}"
    elif entry.options:
        made.pop("options", None)
    if entry.answer == "mixed":
        made[KIND] = "choice" if options is not None else "math"
        made["instruction"] = INSTRUCTIONS[made[KIND]]
    return made


def _options(name: str, entry: SuiteEntry, row: Mapping[str, Any]) -> list[str] | None:
    """The options' texts in the data's order; None where the row has none."""
    if not entry.options:
        return None
    if len(entry.options) > 1:
        cells = [_cell(name, row, column) for column in entry.options]
        found = [str(cell) for cell in cells if cell is not None and str(cell).strip() not in ("", "nan")]
        return found if len(found) > 1 else None
    cell = _cell(name, row, entry.options[0])
    if isinstance(cell, str) and cell.strip():
        cell = _listed(name, row, cell)
    if isinstance(cell, Mapping):
        cell = cell["text"] if "text" in cell else list(cell.values())
    if not cell:
        return None
    if not isinstance(cell, (list, tuple)) or len(cell) < 2 or len(cell) > len(ascii_uppercase):
        raise DataError(
            f"suite {name!r}: row {row.get('id')}: {entry.options[0]} is {str(cell)[:80]!r}; allowed: a list of 2 to"
            f" {len(ascii_uppercase)} options -> name another column in the entry's options"
        )
    return [str(item) for item in cell]


def _listed(name: str, row: Mapping[str, Any], cell: str) -> Any:
    """A list that a cell writes as JSON or as Python does; read as data, never run."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    from reasonrl.rewards.choice_options import options_in

    found = options_in(cell)
    if found is None:
        raise DataError(f"suite {name!r}: row {row.get('id')}: no options can be read from {cell[:80]!r}")
    return found


def _value(name: str, entry: SuiteEntry, row: Mapping[str, Any]) -> str:
    answer = str(row["answer"]).strip()
    if answer not in entry.gold_values:
        raise DataError(
            f"suite {name!r}: row {row.get('id')}: the answer {answer[:60]!r} is none of gold_values"
            f" ({', '.join(entry.gold_values)}) -> add it there"
        )
    return entry.gold_values[answer]


def _gold(name: str, entry: SuiteEntry, row: Mapping[str, Any], options: list[str]) -> tuple[str, list[str]]:
    """The letter of the right option, and the options in the order in which they are shown."""
    right = _place(name, entry, row, options)
    order = list(range(len(options)))
    if entry.shuffle_options:
        # By the text alone, so that a row's options stand in one order in every company of rows.
        order.sort(
            key=lambda place: hashlib.sha256(f"{row.get('problem')}\n{options[place]}\n{place}".encode()).digest()
        )
    return ascii_uppercase[order.index(right)], [options[place] for place in order]


def _place(name: str, entry: SuiteEntry, row: Mapping[str, Any], options: list[str]) -> int:
    if entry.gold == "first":
        return 0
    answer, place = row["answer"], -1
    if entry.gold == "index":
        place = int(answer) if str(answer).strip().isdigit() else -1
    elif entry.gold == "letter":
        letter = str(answer).strip().strip("().").upper()
        place = ascii_uppercase.index(letter) if len(letter) == 1 and letter in ascii_uppercase else -1
    else:
        place = next((at for at, option in enumerate(options) if option.strip() == str(answer).strip()), -1)
    if not 0 <= place < len(options):
        raise DataError(
            f"suite {name!r}: row {row.get('id')}: the answer {str(answer)[:60]!r} is no {entry.gold} of its"
            f" {len(options)} options -> correct the row, or the entry's gold"
        )
    return place


def _checked(name: str, entry: SuiteEntry, found: RowCheck, rows: Rows, from_hub: bool) -> RowCheck:
    source, reasons = rows.report.source, "; ".join(rows.report.reasons())
    set_aside = f" (set aside: {reasons})" if reasons else ""
    if entry.rows is not None and found.rows != entry.rows:
        said = f"suite {name!r}: {source} has {found.rows} usable rows{set_aside}, where {entry.rows} are expected"
        if entry.verified or entry.rows_from is None:
            raise DataError(f"{said} -> get the whole file, or set check: false to go on with this one")
        log.warning("%s (%s); the entry could not be checked against the file itself", said, entry.rows_from)
    if not entry.verified:
        return found
    if found.content == entry.content:
        return RowCheck(found.rows, found.content, "verified")
    if from_hub:
        log.warning("suite %r: %s has other rows than the file that is known, in wording at least", name, source)
        return RowCheck(found.rows, found.content, "other")
    raise DataError(
        f"suite {name!r}: the rows of {source} have the content {found.content[:12]}…, where {entry.content[:12]}… is"
        " expected: a problem, an answer or an option was changed -> get the file anew, or set check: false to go on"
        " with this one"
    )
