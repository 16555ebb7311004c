"""Tables of plain text for the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A header and rows as columns of plain text, as wide as they need to be; no line ends in spaces.

    Args:
        header: names of the columns.
        body: rows of cells, as they are to be shown.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=io.StringIO(), width=10_000, force_terminal=False)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        grid.add_column(Text(name), overflow="fold")
    for line in body:
        grid.add_row(*(Text(cell) for cell in line))
    console.print(grid)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
