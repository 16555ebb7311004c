"""A study's arms and seeds as one table: means over seeds, and paired seed differences with t intervals."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.eval.compare import Comparison, compare_evaluations
from reasonrl.eval.compared import figure_of, of_own_problems
from reasonrl.eval.metrics import Interval, mean_interval, seed_difference
from reasonrl.eval.tables import markdown_table, percent, points
from reasonrl.observe.style import COLOURS, MUTED, new_figure, save_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PANELS = 5
"""Panels beside each other in the picture of a study."""


@dataclass(frozen=True)
class StudyLine:
    """One figure of one arm's row over the study's seeds.

    Attributes:
        suite, metric, arm, label: what it is a figure of.
        estimate: mean over seeds with a t interval (None ends for one seed).
        versus: what `difference` is against: `row <label>` of the same arm, `arm <arm>` in the same row, or empty.
        difference: mean of the paired seed differences with a t interval over seeds; None without `versus`.
        by_seed: the difference of each seed with its interval over problems; without `versus` the figure itself.
    """

    suite: str
    metric: str
    arm: str
    label: str
    estimate: Interval
    versus: str
    difference: Interval | None
    by_seed: Mapping[int, Interval]

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {
            "suite": self.suite,
            "metric": self.metric,
            "arm": self.arm,
            "label": self.label,
            "estimate": self.estimate.as_dict(),
            "versus": self.versus,
            "difference": None if self.difference is None else self.difference.as_dict(),
            "by_seed": {str(seed): interval.as_dict() for seed, interval in self.by_seed.items()},
        }


@dataclass(frozen=True)
class StudyComparison:
    """The table of a study.

    Attributes:
        baseline: the row that the others are compared with inside each arm.
        baseline_arm: the arm that the others are compared with row by row.
        seeds: seeds by arm.
        lines: in the order suite, metric, arm, row.
        notes: seeds that are missing somewhere, settings that differ.
        headlines: of suites with many figures, those to be shown first.
    """

    baseline: str
    baseline_arm: str
    confidence: float
    seeds: Mapping[str, tuple[int, ...]]
    lines: tuple[StudyLine, ...]
    notes: tuple[str, ...]
    headlines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def at_a_glance(self) -> list[StudyLine]:
        """The lines that a terminal and a picture have room for: of an examination, its headline figures."""
        return [line for line in self.lines if line.metric in self.headlines.get(line.suite, (line.metric,))]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `study.json`."""
        return {
            "format": 1,
            "baseline": self.baseline,
            "baseline_arm": self.baseline_arm,
            "confidence": self.confidence,
            "seeds": {arm: list(seeds) for arm, seeds in self.seeds.items()},
            "lines": [line.as_dict() for line in self.lines],
            "notes": list(self.notes),
        }


Runs = Mapping[str, Mapping[int, Mapping[str, Path]]]
"""Evaluation directory by arm, seed and row label."""


def compare_study(
    runs: Runs, *, baseline: str, baseline_arm: str | None = None, confidence: float = 0.95, seed: int = 0
) -> StudyComparison:
    """Compares the rows of every arm over its seeds, and the arms row by row over the seeds they share.

    Args:
        runs: evaluation directories by arm, seed and row label; every seed of every arm has the baseline row.
        baseline: row label that the others are compared with inside each arm.
        baseline_arm: arm that the others are compared with; the first by default.
        confidence: of every interval.
        seed: of the bootstrap over problems.

    Raises:
        RunError: no runs, an unknown baseline, or an evaluation that is not finished.
    """
    if not runs or not all(runs.values()):
        raise RunError("a study's table needs at least one finished run of every arm")
    first_arm = baseline_arm if baseline_arm is not None else next(iter(runs))
    if first_arm not in runs:
        raise RunError(f"the baseline arm {first_arm!r} is no arm; arms: {', '.join(runs)} -> name one of them")
    tables = {
        (arm, number): compare_evaluations(rows, baseline, confidence=confidence, seed=seed)
        for arm, seeds in runs.items()
        for number, rows in seeds.items()
    }
    lines: list[StudyLine] = []
    for suite, metric, arm, label in _places(tables):
        lines += _row_lines(tables, suite, metric, arm, label, baseline, confidence)
        if arm != first_arm and not of_own_problems(metric):
            lines += _arm_lines(runs, tables, suite, metric, arm, label, first_arm, confidence, seed)
    notes = list(
        dict.fromkeys(
            f"arm {arm!r}, seed {number}: {note}" for (arm, number), table in tables.items() for note in table.notes
        )
    )
    every = sorted({number for seeds in runs.values() for number in seeds})
    notes += [
        f"arm {arm!r} has no run of seed {number}"
        for arm, seeds in runs.items()
        for number in every
        if number not in seeds
    ]
    seeds_of = {arm: tuple(sorted(seeds)) for arm, seeds in runs.items()}
    headlines = {
        suite: found for table in tables.values() for suite in table.suites if (found := table.headline(suite))
    }
    return StudyComparison(baseline, first_arm, confidence, seeds_of, tuple(lines), tuple(notes), headlines)


Tables = Mapping[tuple[str, int], Comparison]


def _places(tables: Tables) -> list[tuple[str, str, str, str]]:
    """(suite, metric, arm, row) of every figure, in the table's order."""
    found = [(cell.suite, cell.metric, arm, cell.label) for (arm, _), table in tables.items() for cell in table.cells]
    order: list[dict[str, int]] = [{}, {}, {}, {}]
    for place in found:
        for position, name in enumerate(place):
            order[position].setdefault(name, len(order[position]))
    return sorted(set(found), key=lambda place: [order[position][name] for position, name in enumerate(place)])


def _row_lines(
    tables: Tables, suite: str, metric: str, arm: str, label: str, baseline: str, confidence: float
) -> list[StudyLine]:
    cells = {
        number: cell
        for (its_arm, number), table in tables.items()
        if its_arm == arm and (cell := table.cell(suite, metric, label)) is not None
    }
    estimate = mean_interval([cell.estimate.value for cell in cells.values()], confidence)
    if label == baseline or of_own_problems(metric):
        by_seed = {number: cell.estimate for number, cell in cells.items()}
        return [StudyLine(suite, metric, arm, label, estimate, "", None, by_seed)]
    differences = {number: cell.difference for number, cell in cells.items() if cell.difference is not None}
    over_seeds = seed_difference([found.value for found in differences.values()], confidence)
    return [StudyLine(suite, metric, arm, label, estimate, f"row {baseline}", over_seeds, differences)]


def _arm_lines(
    runs: Runs,
    tables: Tables,
    suite: str,
    metric: str,
    arm: str,
    label: str,
    first_arm: str,
    confidence: float,
    seed: int,
) -> list[StudyLine]:
    shared = [
        number
        for number in runs[arm]
        if all(
            (name, number) in tables and tables[name, number].cell(suite, metric, label) is not None
            for name in (arm, first_arm)
        )
    ]
    if not shared:
        return []
    by_seed = {}
    for number in shared:
        ours, theirs = (figure_of(Path(runs[name][number][label]), suite, metric) for name in (arm, first_arm))
        place = f"{suite}, {metric}, row {label!r}, seed {number}, arms {arm!r} and {first_arm!r}"
        by_seed[number] = ours.difference(theirs, place, confidence, seed)
    cells = [tables[arm, number].cell(suite, metric, label) for number in shared]
    estimate = mean_interval([cell.estimate.value for cell in cells if cell is not None], confidence)
    # The difference of the runs' own figures: a problem unscored on one side moves it by nothing that matters here.
    difference = seed_difference([found.value for found in by_seed.values()], confidence)
    return [StudyLine(suite, metric, arm, label, estimate, f"arm {first_arm}", difference, by_seed)]


def study_markdown(study: StudyComparison) -> str:
    """The study as Markdown: a table a suite and metric, both kinds of interval in it, then the notes."""
    parts = []
    for suite, metric in dict.fromkeys((line.suite, line.metric) for line in study.lines):
        lines = [line for line in study.lines if (line.suite, line.metric) == (suite, metric)]
        header = ["arm", "row", metric, "compared with", "difference over seeds", "by seed, over problems"]
        body = [
            [
                line.arm,
                line.label,
                percent(line.estimate, metric),
                line.versus,
                "" if line.difference is None else points(line.difference),
                "; ".join(
                    f"{number}: {percent(found, metric) if line.difference is None else points(found)}"
                    for number, found in line.by_seed.items()
                ),
            ]
            for line in lines
        ]
        parts.append(f"### {suite}: {metric}\n\n{markdown_table(header, body)}")
    parts.append(study_legend(study) + "\n")
    parts += [f"* Note: {note}" for note in study.notes]
    return "\n".join(parts).rstrip() + "\n"


def study_legend(study: StudyComparison) -> str:
    """Which seeds there are, and what the intervals are over."""
    seeds = "; ".join(f"{arm}: {', '.join(map(str, numbers))}" for arm, numbers in study.seeds.items())
    level = f"{100 * study.confidence:g} %"
    return (
        f"Seeds: {seeds}. Means over seeds and differences over paired seeds with {level} t intervals"
        f" (none for one seed); by seed, differences with {level} intervals over problems."
    )


def study_table(study: StudyComparison) -> str:
    """The study for a terminal, within about 100 columns: means and paired differences over seeds, then each seed's."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=110, force_terminal=False)
    against = {line.versus for line in study.lines if line.versus}
    shown_lines = study.at_a_glance()
    for suite, metric in dict.fromkeys((line.suite, line.metric) for line in shown_lines):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate((f"{suite}: {metric}", "percent", "difference", "each seed", "against")):
            if place < 4 or len(against) > 1:
                table.add_column(name, justify="right" if place in (1, 2) else "left")
        for line in shown_lines:
            if (line.suite, line.metric) != (suite, metric):
                continue
            name = line.label if len(study.seeds) == 1 else f"{line.arm}: {line.label}"
            shown = [
                f"{100 * one.value:{'.1f' if line.difference is None else '+.1f'}}" for one in line.by_seed.values()
            ]
            difference = "" if line.difference is None else points(line.difference)
            cells = (name, percent(line.estimate, metric), difference, "  ".join(shown), line.versus)
            table.add_row(*map(Text, cells[: len(table.columns)]))
        console.print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    notes = [f"Note: {note}" for note in study.notes]
    notes += [f"Differences are to {next(iter(against))}."] if len(against) == 1 else []
    return "\n".join([*lines, "", *textwrap.wrap(study_legend(study), 100), *notes]) + "\n"


@styled
def plot_study(study: StudyComparison, path: Path) -> Path | None:
    """Differences in points: large dots with t intervals over seeds, small dots: seeds; None if nothing is compared."""
    lines = [line for line in study.at_a_glance() if line.difference is not None]
    # Votes and pass@k of the same samples are the same in every arm: there is nothing to see.
    moved = {(line.suite, line.metric) for line in lines if any(one.value for one in line.by_seed.values())}
    lines = [line for line in lines if line.suite not in study.headlines or (line.suite, line.metric) in moved]
    panels = list(dict.fromkeys((line.suite, line.metric) for line in lines))
    if not panels:
        return None
    rows = list(dict.fromkeys((line.arm, line.label, line.versus) for line in lines))
    columns = min(PANELS, len(panels))
    lines_of_panels = -(-len(panels) // columns)
    height = max(2.0, 1.1 + 0.45 * len(rows)) * lines_of_panels
    figure, axes = new_figure(2.4 + 3.0 * columns, height, lines_of_panels, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (suite, metric) in zip(axes.flat, panels, strict=False):
        _study_panel(axis, [line for line in lines if (line.suite, line.metric) == (suite, metric)], rows)
        axis.set_title(f"{suite}: {metric}")
        axis.set_yticks(range(len(rows)), [f"{arm}: {label}\nagainst {versus}" for arm, label, versus in rows])
        axis.set_ylim(len(rows) - 0.5, -0.6)
    level = f"{100 * study.confidence:g} %"
    figure.supxlabel(f"difference in points; bar: {level} t interval over paired seeds; small dots: seeds", fontsize=9)
    return save_figure(figure, path)


def _study_panel(axis: Axes, lines: Sequence[StudyLine], rows: Sequence[tuple[str, str, str]]) -> None:
    axis.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for line in lines:
        assert line.difference is not None
        position = rows.index((line.arm, line.label, line.versus))
        colour = COLOURS[0] if line.versus.startswith("row") else COLOURS[1]
        found = line.difference
        if found.low is not None and found.high is not None:
            axis.plot([100 * found.low, 100 * found.high], [position, position], color=colour, linewidth=2.4)
        seeds = [100 * one.value for one in line.by_seed.values()]
        axis.plot(seeds, [position + 0.22] * len(seeds), "o", color=colour, markersize=3.5, alpha=0.5)
        axis.plot([100 * found.value], [position], "o", color=colour, markersize=7)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)


def write_study(study: StudyComparison, directory: str | Path) -> list[Path]:
    """Writes `study.md`, `study.json`, where there are differences `study.png`, and of examinations over numbers of
    candidates `<suite>.png` with a line an arm; returns their paths.
    """
    from reasonrl.eval.exams.curves import plot_rows
    from reasonrl.observe import write_atomically

    folder = Path(directory)
    write_atomically(folder / "study.md", study_markdown(study).encode())
    write_atomically(folder / "study.json", json.dumps(study.as_dict(), indent=2, ensure_ascii=False).encode())
    picture = plot_study(study, folder / "study.png")
    pictures = [picture] if picture is not None else []
    for suite in dict.fromkeys(line.suite for line in study.lines):
        own = [line for line in study.lines if line.suite == suite and line.label == study.baseline]
        arms = {arm: {line.metric: line.estimate for line in own if line.arm == arm} for arm in study.seeds}
        title = f"{suite}, {study.baseline}: means over seeds, {100 * study.confidence:g} % t intervals"
        pictures += plot_rows(arms, title, folder / f"{suite}.png")
    return [folder / "study.md", folder / "study.json", *pictures]
