"""An examination for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from reasonrl.eval.metrics import Interval
from reasonrl.eval.tables import percent

COLUMNS = 2


def exam_text(suite: str, entry: Mapping[str, Any]) -> str:
    """The suite's figures in percent with their intervals, and its warnings."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=140, force_terminal=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{suite}: {entry['n_problems']:,} {entry['unit']}")
    for _ in range(COLUMNS):
        table.add_column("figure", no_wrap=True)
        table.add_column("percent", justify="right", no_wrap=True)
    cells = [(name, percent(Interval(**found))) for name, found in entry["metrics"].items()]
    rows = -(-len(cells) // COLUMNS)
    for number in range(rows):
        line = [cell for column in range(COLUMNS) for cell in _at(cells, number + column * rows)]
        table.add_row(*map(Text, line))
    console.print(table)
    for warning in entry["warnings"]:
        console.print(Text(f"{suite}: {warning}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _at(cells: list[tuple[str, str]], place: int) -> tuple[str, str]:
    return cells[place] if place < len(cells) else ("", "")
