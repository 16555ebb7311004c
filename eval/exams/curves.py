"""Figures against the number of candidates: `rm@8[last]`, `maj@8`, `search@4` as lines over N."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.eval.metrics import Interval
from reasonrl.observe.style import COLOURS, MUTED, new_figure, save_figure, styled

Line: TypeAlias = Mapping[int, Interval]

RAILS = ("random", "maj", "pass")
"""What needs no scores: drawn apart."""

_NAME = re.compile(r"(?P<family>[\w^]+)@(?P<k>\d+)(?P<rule>\[\w+\])?")


def curves_of(metrics: Mapping[str, Interval]) -> dict[str, dict[int, Interval]]:
    """Lines by name (`rm[last]`, `maj`), points by N; `random` at every N that there is. Empty where nothing has an N.

    Args:
        metrics: figures by name.
    """
    found: dict[str, dict[int, Interval]] = {}
    for name, interval in metrics.items():
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(match["family"] + (match["rule"] or ""), {})[int(match["k"])] = interval
    sizes = sorted({k for line in found.values() for k in line})
    if found and "random" in metrics:
        found["random"] = dict.fromkeys(sizes, metrics["random"])
    return found


def headline_curve(lines: Mapping[str, Line]) -> str | None:
    """The line that stands for an examination: best-of-N by its first rule, or the search."""
    return next((name for name in lines if name.startswith("rm[")), None) or next(
        (name for name in lines if name == "search"), None
    )


def plot_exam(suite: str, entry: Mapping[str, Any], path: Path) -> Path | None:
    """One examination: a line a rule with its band, the rails dashed; None where nothing has an N."""
    lines = curves_of({name: Interval(**found) for name, found in entry["metrics"].items()})
    if not any(len(line) > 1 for line in lines.values()):
        return None
    solid = {name: line for name, line in lines.items() if name not in RAILS and not name.startswith("weighted")}
    weighted = next((name for name in lines if name.startswith("weighted")), None)
    if weighted is not None:
        solid[weighted] = lines[weighted]
    rails = {name: lines[name] for name in RAILS if name in lines}
    return plot_curves(solid, rails, f"{suite}: {entry['n_problems']:,} {entry['unit']}", path)


def plot_rows(rows: Mapping[str, Mapping[str, Interval]], title: str, path: Path) -> list[Path]:
    """Several examinations: a line each, the first one's rails beside them; nothing where they have no N.

    Args:
        rows: figures by the name in the legend.
        title, path: of the picture.

    Returns:
        The picture's path, if there is one.
    """
    curves = {name: curves_of(metrics) for name, metrics in rows.items()}
    chosen = {name: headline_curve(lines) for name, lines in curves.items()}
    lines = {name: curves[name][line] for name, line in chosen.items() if line is not None}
    if not any(len(line) > 1 for line in lines.values()):
        return []
    first = next(iter(curves.values()))
    which = " / ".join(dict.fromkeys(line for line in chosen.values() if line is not None))
    rails = {name: first[name] for name in RAILS if name in first}
    return [plot_curves(lines, rails, f"{title}: {which}", path)]


@styled
def plot_curves(lines: Mapping[str, Line], rails: Mapping[str, Line], title: str, path: Path) -> Path:
    """Lines over N with the bands of their intervals; rails without a band, dashed.

    Args:
        lines: points by N, by the name in the legend.
        rails: likewise.
        title: above the picture.
        path: the PNG.
    """
    figure, axis = new_figure(7.2, 4.2)
    every = sorted({k for line in (*lines.values(), *rails.values()) for k in line})
    for number, (name, line) in enumerate(lines.items()):
        colour, sizes = COLOURS[number % len(COLOURS)], sorted(line)
        ends = [
            (
                line[k].value if line[k].low is None else line[k].low,
                line[k].value if line[k].high is None else line[k].high,
            )
            for k in sizes
        ]
        axis.fill_between(
            sizes,
            *([100 * end for end in side] for side in zip(*ends, strict=True)),
            color=colour,
            alpha=0.13,
            linewidth=0,
        )
        axis.plot(sizes, [100 * line[k].value for k in sizes], color=colour, marker="o", markersize=4, label=name)
    for style, (name, line) in zip(((0, (4, 3)), (0, (1, 2)), (0, (6, 2, 1, 2))), rails.items(), strict=False):
        sizes = sorted(line)
        axis.plot(sizes, [100 * line[k].value for k in sizes], color=MUTED, linestyle=style, linewidth=1.3, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(every, [str(k) for k in every])
    axis.minorticks_off()
    axis.set_title(title)
    axis.set_xlabel("N candidates")
    axis.set_ylabel("percent right, with intervals")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save_figure(figure, path)
