"""How every picture looks: one palette, one set of sizes, drawn without a display."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: tuple[str, ...] = ("#2563eb", "#e07b39", "#2f9e63", "#a23b93", "#c9a227", "#4fb3d9", "#c8453f", "#6b7280")
"""In the order of use; the first four are told apart with the common kinds of colour blindness."""

INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
}


def new_figure(
    width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure in the house style and its axes (an array when there are several), drawn by Agg: no display, no global
    state.

    Args:
        width, height: in inches (150 dots each when saved).
        rows, columns: of panels.
        options: passed to `Figure.subplots`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, **options)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG at 150 dots an inch, whole or not at all, and returns its path."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with matplotlib.rc_context(_STYLE):
        # Without software and date, equal data give equal bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    temporary.replace(path)
    return path
