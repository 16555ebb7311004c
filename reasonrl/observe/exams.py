"""Tables of examinations in a report: many figures, few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def interval_text(interval: Mapping[str, Any], sign: str = "") -> str:
    """A stored interval in percent: `52.1 [49.0, 55.2]`."""
    text = f"{100 * interval['value']:{sign}.1f}"
    if interval["low"] is None or interval["high"] is None:
        return text
    return f"{text} [{100 * interval['low']:{sign}.1f}, {100 * interval['high']:{sign}.1f}]"


def exam_table(suite: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An examination's figures; pairs of them to a line."""
    cells = [[name, interval_text(found)] for name, found in entry["metrics"].items()]
    half = -(-len(cells) // 2)
    body = [
        [*left, *(cells[half + place] if half + place < len(cells) else ["", ""])]
        for place, left in enumerate(cells[:half])
    ]
    title = f"{suite}: percent with 95 % intervals over {entry['n_problems']:,} {entry['unit']}"
    return {"title": title, "header": ["figure", "percent", "figure", "percent"], "body": body}


def exam_comparison(
    suite: str, cells: Sequence[Mapping[str, Any]], about: Mapping[str, Any], level: str
) -> dict[str, Any]:
    """A comparison of examinations: a line a figure and row.

    Args:
        suite: its name.
        cells: its cells, as in `table.json`.
        about: the baseline's context there.
        level: of the intervals, in words.
    """
    lines = [
        [
            cell["metric"],
            cell["label"],
            interval_text(cell["estimate"]),
            "baseline" if cell["difference"] is None else interval_text(cell["difference"], "+"),
        ]
        for cell in cells
    ]
    title = f"{suite}: percent with {level} intervals over {about['n_problems']:,} {about['unit']}, paired differences"
    return {"title": title, "header": ["figure", "row", "percent", "difference"], "body": lines}
