"""How every picture looks: one palette, one set of sizes, drawn without a display."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

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


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator for a function that draws: everything in it is drawn in the house style, nothing outside is touched."""

    @wraps(draw)
    def in_style(*args: P.args, **options: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **options)

    return in_style


def new_figure(
    width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes (an array when there are several), drawn by Agg: no display, no global
    state.

    Args:
        width, height: in inches (150 dots each when saved).
        rows, columns: of panels.
        options: passed to `Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def dot_with_bar(axis: Any, position: float, value: float, low: float, high: float, colour: str) -> None:
    """An estimate as a dot with its number above it, its interval as a bar, on one line of a dot plot."""
    axis.plot([low, high], [position, position], color=colour, linewidth=2.6, solid_capstyle="round")
    axis.plot([value], [position], "o", color=colour, markersize=7)
    axis.annotate(
        f"{value:.1f}",
        (value, position),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG at 150 dots an inch, whole or not at all, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Without the software's version, equal data give equal bytes.
    figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    temporary.replace(path)
    return path
