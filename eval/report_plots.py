"""Pictures of an evaluation's report: lengths by outcome, accuracy by level or subject, solve rates of problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.observe.style import COLOURS, MUTED, dot_with_bar, new_figure, save_figure, styled

OUTCOME_COLOURS = {"correct": COLOURS[2], "wrong": COLOURS[6], "truncated": COLOURS[4], "unscored": COLOURS[7]}
MOST_LINES = 40


@styled
def plot_lengths(suite: str, histogram: Mapping[str, Any], path: Path) -> Path | None:
    """Tokens a sample as bars, stacked by outcome; None where no length is recorded.

    Args:
        suite: for the title.
        histogram: as `report_data.histogram` makes it.
        path: the PNG.
    """
    edges = histogram["edges"]
    if not any(sum(histogram[name]) for name in OUTCOME_COLOURS):
        return None
    figure, axis = new_figure()
    width, below = edges[1] - edges[0], [0] * (len(edges) - 1)
    for name, colour in OUTCOME_COLOURS.items():
        counts = histogram[name]
        if sum(counts):
            axis.bar(edges[:-1], counts, width=width, bottom=below, align="edge", color=colour, label=name, linewidth=0)
            below = [base + count for base, count in zip(below, counts, strict=True)]
    axis.grid(axis="x", visible=False)
    axis.margins(x=0.01)
    axis.legend()
    axis.set_title(f"{suite}: length")
    axis.set_xlabel("tokens a sample")
    axis.set_ylabel("samples")
    return save_figure(figure, path)


@styled
def plot_groups(suite: str, column: str, lines: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Accuracy with its interval by the value of a column, one line a value with its number of problems.

    Args:
        suite, column: for the title.
        lines: as in `report_data.breakdown`; at most 40 are drawn.
        path: the PNG.
    """
    shown = lines[:MOST_LINES]
    figure, axis = new_figure(height=max(1.9, 1.1 + 0.36 * len(shown)))
    for position, line in enumerate(shown):
        value, low, high = (100 * line["accuracy"][end] for end in ("value", "low", "high"))
        dot_with_bar(axis, position, value, low, high, COLOURS[0])
    names = [f"{_short(line['value'] or '(none)')}  ({line['problems']:,})" for line in shown]
    axis.set_yticks(range(len(shown)), names)
    axis.set_ylim(len(shown) - 0.5, -0.7)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)
    axis.set_title(f"{suite}: accuracy by {column}")
    axis.set_xlabel("percent right, 95 % interval over problems (how many)")
    return save_figure(figure, path)


@styled
def plot_solve_rates(suite: str, lines: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """How many problems were solved how often; None with one sample a problem.

    Args:
        suite: for the title.
        lines: as `report_data.solve_rates` makes them.
        path: the PNG.
    """
    if not lines or max(line["scored"] for line in lines) < 2:
        return None
    bins = min(max(line["scored"] for line in lines), 20)
    counts = [0] * (bins + 1)
    for line in lines:
        counts[round(bins * line["correct"] / line["scored"])] += 1
    figure, axis = new_figure()
    places = [100 * place / bins for place in range(bins + 1)]
    axis.bar(places, counts, width=86 / bins, color=COLOURS[0], linewidth=0)
    for place, count in zip((places[0], places[-1]), (counts[0], counts[-1]), strict=True):
        axis.annotate(f"{count:,}", (place, count), xytext=(0, 3), textcoords="offset points", ha="center", color=MUTED)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.12)
    axis.set_title(f"{suite}: problems by how often they are solved")
    axis.set_xlabel("percent of a problem's samples that are right")
    axis.set_ylabel("problems")
    return save_figure(figure, path)


def _short(text: str, most: int = 28) -> str:
    # A dollar sign would begin mathematics.
    plain = text.replace("$", r"\$")
    return plain if len(plain) <= most else plain[: most - 1] + "…"
