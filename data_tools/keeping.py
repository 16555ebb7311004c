"""`keep`: the rows for which an expression over their numeric columns holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.data_tools.report import RowReport
from reasonrl.expressions import Expression


def keep_rows(rows: Sequence[dict[str, Any]], keep: str, report: RowReport) -> list[dict[str, Any]]:
    """The rows for which `keep` holds.

    A column is numeric if at least one row has a number in it (text that spells a number counts: CSV knows nothing
    else). A row that lacks a number the expression asks for is set aside as a bad row.

    Args:
        rows: rows of `load_rows`.
        keep: an expression such as `0 < pass_rate < 1`.
        report: counts the rows taken out and those that lack a number.

    Raises:
        ExpressionError: the expression cannot be read, names no numeric column, or cannot be evaluated.
    """
    numbers = [numbers_of(row) for row in rows]
    expression = Expression(keep, frozenset(name for values in numbers for name in values))
    kept = []
    for row, values in zip(rows, numbers, strict=True):
        missing = [name for name in sorted(expression.variables) if name not in values]
        if missing:
            report.drop(f"keep: no number in {', '.join(missing)}", f"id {row['id']}")
        elif expression.evaluate(values):
            kept.append(row)
        else:
            report.filtered += 1
    return kept


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numeric columns of a row; text that spells a number counts, what is not finite does not."""
    values: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, (bool, int, float)):
            number: float = value
        elif isinstance(value, str) and len(value) < 40:
            try:
                number = float(value)
            except ValueError:
                continue
        else:
            continue
        if math.isfinite(number):
            values[name] = number
    return values
