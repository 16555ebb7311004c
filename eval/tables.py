"""A comparison as Markdown, CSV, terminal table and picture."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.eval.compared import of_own_problems
from reasonrl.eval.compound import AGAINST_ALONE
from reasonrl.eval.metrics import Interval
from reasonrl.observe.report import tokens_text
from reasonrl.observe.style import COLOURS, MUTED, dot_with_bar, new_figure, save_figure, styled

if TYPE_CHECKING:
    from reasonrl.eval.compare import Cell, Comparison


def percent(interval: Interval, metric: str = "accuracy") -> str:
    """An estimate in percent with its interval: `52.1 [49.0, 55.2]`.

    A share's interval is shown within 0 and 100; `retention` may be above, `independence_gap` below.
    """
    if interval.low is None or interval.high is None:
        return f"{100 * interval.value:.1f}"
    low, high = interval.low, interval.high
    if metric not in AGAINST_ALONE:
        low, high = max(0.0, low), min(1.0, high)
    return f"{100 * interval.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points(interval: Interval) -> str:
    """A difference in percentage points with its sign: `+21.3 [+18.9, +23.6]`."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.value:+.1f}"
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def decoding_text(context: Mapping[str, Any]) -> str:
    """`1,024 problems, 16 samples each, temperature 1, top_p 1, at most 64 tokens`."""
    decoding = context["decoding"]
    if context.get("kind") == "values":
        return f"{context['n_problems']:,} {context['unit']}"
    samples = "1 sample each" if decoding["n"] == 1 else f"{decoding['n']} samples each"
    known = [
        (decoding["temperature"], "temperature {:g}"),
        (decoding["top_p"], "top_p {:g}"),
        (decoding["max_tokens"], "at most {:,} tokens"),
    ]
    told = [text.format(value) for value, text in known if value is not None]  # imported samples may not tell
    return ", ".join([f"{context['n_problems']:,} problems", samples, *told])


def suite_table(comparison: Comparison, suite: str) -> tuple[list[str], list[list[str]]]:
    """Header and body of one suite: a line a row; figures in percent, differences in points.

    An examination has many figures and few rows: there, a line is a figure of a row.
    """
    if comparison.context[suite][comparison.baseline].get("kind") == "values":
        cells = [cell for cell in comparison.cells if cell.suite == suite]
        texts = [
            [cell.metric, cell.label, percent(cell.estimate, cell.metric), _difference_text(cell), p_text(cell)]
            for cell in cells
        ]
        return ["figure", "row", "percent", "difference", "p"], texts
    metrics = comparison.metrics(suite)
    header = ["row"]
    for metric in metrics:
        header += [metric, f"{metric}: difference", f"{metric}: p"]
    header += ["tokens", "truncated", "no answer", "empty", "timeout", "tokens per right answer"]
    body = []
    for label in comparison.labels:
        if label not in comparison.context[suite]:
            continue
        line = [label]
        for metric in metrics:
            cell = comparison.cell(suite, metric, label)
            line += (
                ["", "", ""] if cell is None else [percent(cell.estimate, metric), _difference_text(cell), p_text(cell)]
            )
        body.append([*line, *_lost(comparison.context[suite][label])])
    return header, body


def _lost(found: Mapping[str, Any]) -> list[str]:
    """Mean length, and samples that were lost: in percent of all, so that rows of another n compare."""
    counts, samples = found.get("counts") or {}, max(1, found["n_samples"])
    shares = [f"{100 * counts[name] / samples:.1f} %" if name in counts else "" for name in ("empty", "timeout")]
    each = found.get("tokens_per_correct")
    return [
        tokens_text(found["mean_length"]),
        f"{100 * found['truncated_fraction']:.1f} %",
        f"{100 * found['no_answer_fraction']:.1f} %",
        *shares,
        "" if each is None else f"{each:,.0f}",
    ]


def _difference_text(cell: Cell) -> str:
    if cell.difference is None:
        return "" if of_own_problems(cell.metric) else "baseline"
    return points(cell.difference)


def p_text(cell: Cell) -> str:
    """The corrected p-value of a difference: `0.012`, `< 0.001`; empty for the baseline."""
    if cell.p_corrected is None:
        return ""
    return "< 0.001" if cell.p_corrected < 0.001 else f"{cell.p_corrected:.3f}"


def legend(comparison: Comparison) -> str:
    """What the numbers are, in one sentence."""
    tests = _tests(comparison)
    family = "one comparison" if tests == 1 else f"{tests} comparisons a metric"
    tested = f"; p by sign flips, two-sided, corrected for {family} by Holm's rule" if tests else ""
    return (
        f"Percent with {100 * comparison.confidence:g} % intervals over problems; differences to"
        f" {comparison.baseline!r} in points, paired by problem{tested}."
    )


def _tests(comparison: Comparison) -> int:
    """The most comparisons that any metric has."""
    return max(
        (
            sum(cell.metric == metric and cell.p_value is not None for cell in comparison.cells)
            for metric in {cell.metric for cell in comparison.cells}
        ),
        default=0,
    )


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: a table a suite, the legend, the notes."""
    parts = []
    for suite in comparison.suites:
        header, body = suite_table(comparison, suite)
        parts.append(f"### {suite}\n\n{decoding_text(comparison.context[suite][comparison.baseline])}\n")
        parts.append(markdown_table(header, body))
    parts.append(legend(comparison) + "\n")
    parts += [f"* Note: {note}" for note in comparison.notes]
    return "\n".join(parts).rstrip() + "\n"


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


CSV_COLUMNS = (
    "suite",
    "metric",
    "row",
    "value",
    "low",
    "high",
    "se",
    "n_problems",
    "difference",
    "difference_low",
    "difference_high",
    "method",
    "p_value",
    "p_corrected",
)


def comparison_csv(comparison: Comparison) -> str:
    """One line a figure, as fractions (not percent); empty where there is none."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for cell in comparison.cells:
        estimate, difference = cell.estimate, cell.difference
        line = [
            cell.suite,
            cell.metric,
            cell.label,
            estimate.value,
            estimate.low,
            estimate.high,
            estimate.se,
            estimate.n,
        ]
        line += (
            [""] * 6
            if difference is None
            else [
                difference.value,
                difference.low,
                difference.high,
                difference.method,
                cell.p_value,
                cell.p_corrected,
            ]
        )
        writer.writerow(line)
    return output.getvalue()


def format_table(comparison: Comparison) -> str:
    """The comparison for a terminal: one table a suite, a line a metric and row, at most about 90 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=False)
    for suite in comparison.suites:
        console.print(Text(f"{suite}: {decoding_text(comparison.context[suite][comparison.baseline])}"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, side in (
            ("metric", "left"),
            ("row", "left"),
            ("percent", "right"),
            ("difference", "right"),
            ("p", "right"),
        ):
            table.add_column(name, justify="left" if side == "left" else "right", no_wrap=True)
        for metric in comparison.headline(suite) or comparison.metrics(suite):
            cells = [cell for cell in comparison.cells if (cell.suite, cell.metric) == (suite, metric)]
            for number, cell in enumerate(cells):
                name = metric if number == 0 else ""
                line = (name, cell.label, percent(cell.estimate, metric), _difference_text(cell), p_text(cell))
                table.add_row(*(Text(text) for text in line), end_section=number == len(cells) - 1)
        console.print(table)
        for label, found in comparison.context[suite].items():
            if found.get("kind") == "values":
                continue
            names = ("tokens each", "truncated", "no answer", "empty", "timeout", "tokens a right answer")
            told = ", ".join(f"{text} {name}" for name, text in zip(names, _lost(found), strict=True) if text)
            console.print(Text(textwrap.fill(f"{label}: {told}", 100, subsequent_indent="  ")))
        console.print()
    console.print(Text(textwrap.fill(legend(comparison), 100)))
    for note in comparison.notes:
        console.print(Text(f"Note: {note}"))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


@styled
def plot_comparison(comparison: Comparison, path: Path) -> Path:
    """Dots with interval bars: one panel a suite and metric, one line a row, the baseline's value as a dashed line."""
    suites = comparison.suites
    shown = {suite: comparison.headline(suite) or comparison.metrics(suite) for suite in suites}
    columns = max(map(len, shown.values()))
    height = max(1.8, 0.9 + 0.42 * len(comparison.labels))
    figure, axes = new_figure(
        1.2 + 3.2 * columns, 0.3 + height * len(suites), len(suites), columns, squeeze=False, sharey="row"
    )
    for row, suite in enumerate(suites):
        metrics = shown[suite]
        for column in range(columns):
            axis = axes[row][column]
            if column >= len(metrics):
                axis.set_visible(False)
                continue
            _panel(axis, comparison, suite, metrics[column])
            title = metrics[column] if len(suites) == 1 else f"{suite}: {metrics[column]}"
            axis.set_title(title)
    figure.supxlabel(f"percent, {100 * comparison.confidence:g} % interval over problems", fontsize=9)
    return save_figure(figure, path)


def _panel(axis: Any, comparison: Comparison, suite: str, metric: str) -> None:
    base = comparison.cell(suite, metric, comparison.baseline)
    if base is not None:
        axis.axvline(100 * base.estimate.value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for position, label in enumerate(comparison.labels):
        cell = comparison.cell(suite, metric, label)
        if cell is None:
            continue
        interval = cell.estimate
        low, high = (interval.value if end is None else end for end in (interval.low, interval.high))
        colour = MUTED if label == comparison.baseline else COLOURS[0]
        dot_with_bar(axis, position, 100 * interval.value, 100 * low, 100 * high, colour)
    axis.set_yticks(range(len(comparison.labels)), comparison.labels)
    axis.set_ylim(len(comparison.labels) - 0.5, -0.6)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)
