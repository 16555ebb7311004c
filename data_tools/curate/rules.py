"""Steps that look at one row at a time: lengths, patterns, choices, and conditions over numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reasonrl.data_tools.curate.spool import RowFile
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.keeping import numbers_of
from reasonrl.data_tools.overlap import problem_text
from reasonrl.errors import DataError
from reasonrl.expressions import Expression, ExpressionError

Step = Callable[[RowFile, Tally], Iterator[dict[str, Any]]]
_OPTION = re.compile(r"(?:^|[\s(\[])\(?([A-H])(?:\)|\.|:)\s", re.MULTILINE)


def text_in(row: Mapping[str, Any], column: str) -> str:
    """A column's text; of `problem`, the user's messages where there is no such column; empty where there is none."""
    if column == "problem":
        return problem_text(row)
    value = row.get(column)
    return value if isinstance(value, str) else "" if value is None else str(value)


def rules(
    characters: Mapping[str, tuple[int | None, int | None]] | None = None,
    drop: Mapping[str, Sequence[str]] | None = None,
    require: Mapping[str, Sequence[str]] | None = None,
    options_from: int | None = None,
) -> Step:
    """A step that drops rows by what stands in them.

    Args:
        characters: [fewest, most] characters of a column; None leaves an end open.
        drop: regular expressions by column (case does not count); a row in which one is found goes.
        require: likewise; a row in which one is not found goes.
        options_from: a row whose answer is a single letter goes if its problem lists fewer options (`A)`, `(B)`, `C.`)
            than this, but at least one: two are guessed too well.

    Raises:
        DataError: a pattern that cannot be read.
    """
    unwanted, wanted = _compiled(drop or {}), _compiled(require or {})

    def reason_of(row: Mapping[str, Any]) -> str | None:
        for column, (low, high) in (characters or {}).items():
            length = len(text_in(row, column))
            if low is not None and length < low:
                return f"{column} under {low} characters"
            if high is not None and length > high:
                return f"{column} over {high} characters"
        for column, pattern in unwanted:
            if pattern.search(text_in(row, column)):
                return f"{column} has {pattern.pattern!r}"
        for column, pattern in wanted:
            if not pattern.search(text_in(row, column)):
                return f"{column} lacks {pattern.pattern!r}"
        if options_from is not None and re.fullmatch(r"\(?[A-H]\)?", str(row.get("answer", "")).strip()):
            options = len(set(_OPTION.findall(problem_text(row))))
            if 0 < options < options_from:
                return f"fewer than {options_from} options"
        return None

    return dropping(reason_of)


def dropping(reason_of: Callable[[Mapping[str, Any]], str | None]) -> Step:
    """A step that drops the rows for which there is a reason."""

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        for row in rows:
            tally.read += 1
            reason = reason_of(row)
            if reason is not None:
                tally.drop(reason, row)
            else:
                yield row

    return step


def _compiled(patterns: Mapping[str, Sequence[str]]) -> list[tuple[str, re.Pattern[str]]]:
    found = []
    for column, several in patterns.items():
        for pattern in several:
            try:
                found.append((column, re.compile(pattern, re.IGNORECASE)))
            except re.error as problem:
                raise DataError(f"curate: the pattern {pattern!r} of {column}: {problem} -> correct it") from problem
    return found


def keep_when(when: str) -> Step:
    """A step that keeps the rows for which a condition over their numeric columns holds, such as `0 < pass_rate < 1`.

    Raises:
        ExpressionError: it cannot be read.
    """
    return dropping(reason_not_to_keep(when))


def reason_not_to_keep(when: str) -> Callable[[Mapping[str, Any]], str | None]:
    """Tells of a row why a condition does not hold for it; None where it does. Raises as `keep_when`."""
    condition = Expression(when)

    def reason_of(row: Mapping[str, Any]) -> str | None:
        values = numbers_of(row)
        missing = sorted(condition.variables - values.keys())
        if missing:
            return f"no number in {', '.join(missing)}"
        try:
            return None if condition.evaluate(values) else f"not {when}"
        except ExpressionError:
            return f"{when} cannot be evaluated"

    return reason_of
