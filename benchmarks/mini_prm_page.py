"""The tables and the plot of recipes/mini/prm.md.

    python benchmarks/mini_prm_page.py runs/mini-prm/full docs/mini_prm.png

reads the folder of `reasonrl train mini/prm --study full`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from reasonrl.eval.metrics import seed_difference

ARMS = {
    "default": ("propagation and cessation", "#2563eb"),
    "first_error": ("first error", "#d97706"),
    "first_error_more": ("first error, equal labels", "#f0a020"),
    "first_error_zero": ("first error, then all wrong", "#b03a2e"),
    "mc_hard": ("Monte Carlo, hard", "#0f9d6a"),
    "mc_soft": ("Monte Carlo, soft", "#3ad1a0"),
    "orm": ("answer alone (ORM)", "#111827"),
}
COMPARED = {
    "macro-F1 of steps": "steps/macro_f1",
    "after the first error": "steps/macro_f1[after error]",
    "AUROC": "steps/auroc",
    "best of 4, last step": "best_of/rm@4[last]",
    "best of 16": "best_of/rm@16[last]",
    "by the mean": "best_of/rm@16[mean]",
    "by the smallest": "best_of/rm@16[min]",
    "search, 2": "search/search@2",
    "search, 4": "search/search@4",
}
WITH_INTERVAL = ("macro-F1 of steps", "best of 4, last step", "by the mean", "search, 2", "search, 4")
ZONES = {
    "before an error": "steps/accuracy[before_error]",
    "first error": "steps/accuracy[first_error]",
    "open error": "steps/accuracy[unrepaired]",
    "after a repair": "steps/accuracy[repaired]",
    "right answer after errors": "steps/solution_accuracy[reflective_right]",
    "wrong answer": "steps/solution_accuracy[wrong]",
    "other writers, more repairs": "repairs_more/macro_f1",
    "fewer repairs": "repairs_less/macro_f1",
}
Figures = dict[str, list[float]]


def figures_of(study: Path, arm: str, stage: str = "exam") -> Figures:
    """Every figure of a stage, a value a seed."""
    found: Figures = {}
    for run in sorted(study.glob(f"{arm}-seed*")):
        done: dict[str, Any] = json.loads((run / "stages" / stage / "done.json").read_text())
        for name, value in done["result"]["metrics"].items():
            found.setdefault(name, []).append(100 * float(value))
    return found


def difference(ours: list[float], theirs: list[float]) -> str:
    """The 95 % t interval of the mean of paired differences: ` [-29.7, -24.8]`; empty for one seed."""
    found = seed_difference([a - b for a, b in zip(ours, theirs, strict=True)], 0.95)
    return "" if found.low is None or found.high is None else f" [{found.low:+.1f}, {found.high:+.1f}]"


def print_tables(study: Path, all_figures: dict[str, Figures]) -> None:
    """Both tables of the page, and what stands around them."""
    base = all_figures["default"]
    gate = figures_of(study, "default", "gate")
    for name in ("passed", "pass@1", "with_error", "mark_tells"):
        print(f"gate, {name}: {', '.join(f'{value / 100:.3f}' for value in gate[name])}")
    print("\n| arm | " + " | ".join(COMPARED) + " |\n" + "|---" * (len(COMPARED) + 1) + "|")
    for arm, found in all_figures.items():
        cells = []
        for title, key in COMPARED.items():
            gap = difference(found[key], base[key]) if title in WITH_INTERVAL and arm != "default" else ""
            cells.append(f"{mean(found[key]):.1f}{gap}")
        print(f"| `{arm}` | " + " | ".join(cells) + " |")
    for name in (
        "steps/macro_f1[always right]",
        "best_of/random",
        "best_of/maj@4",
        "best_of/maj@16",
        "best_of/pass@16",
    ):
        print(f"{name}: {mean(base[name]):.1f}")
    print("\n| arm | " + " | ".join(ZONES) + " |\n" + "|---" * (len(ZONES) + 1) + "|")
    for arm, found in all_figures.items():
        print(f"| `{arm}` | " + " | ".join(f"{mean(found[key]):.1f}" for key in ZONES.values()) + " |")


def plot(all_figures: dict[str, Figures], file: Path) -> None:
    """Step scores, best-of-N and guided search by kind of label."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (steps, votes, search) = pyplot.subplots(1, 3, figsize=(10.5, 3.7), width_ratios=[1.0, 1.0, 1.0])
    for place, (arm, found) in enumerate(all_figures.items()):
        label, colour = ARMS[arm]
        whole, after = found["steps/macro_f1"], found["steps/macro_f1[after error]"]
        steps.scatter(whole, [-place] * len(whole), color=colour, s=24)
        steps.scatter(after, [-place - 0.15] * len(after), edgecolors=colour, facecolors="none", marker="s", s=24)
        sizes = [1, 2, 4, 8, 16]
        by_size = [found["best_of/random"], *(found[f"best_of/rm@{n}[last]"] for n in sizes[1:])]
        votes.plot(sizes, [mean(values) for values in by_size], marker="o", ms=3, color=colour, label=label)
        by_width = [mean(found[f"search/search@{n}"]) for n in (1, 2, 4)]
        search.plot([1, 2, 4], by_width, marker="o", ms=3, color=colour)
    base = all_figures["default"]
    for key, style, label in (("maj", "--", "majority"), ("pass", ":", "any right")):
        values = [mean(base["best_of/random"]), *(mean(base[f"best_of/{key}@{n}"]) for n in (2, 4, 8, 16))]
        votes.plot([1, 2, 4, 8, 16], values, style, color="grey", label=label)
    steps.set_yticks([-place for place in range(len(all_figures))], [ARMS[arm][0] for arm in all_figures], fontsize=8)
    steps.set(title="macro-F1 of steps: all (dots), after an error (squares)", xlabel="percent; one mark a seed")
    votes.set(title="best of N, by the last step", xlabel="N", xscale="log")
    votes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"], minor=False)
    votes.minorticks_off()
    search.set(title="guided search", xlabel="candidates a step", xscale="log")
    search.set_xticks([1, 2, 4], ["1", "2", "4"])
    search.minorticks_off()
    for axes in (steps, votes, search):
        axes.title.set_fontsize(8.5)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8.5)
    figure.legend(*votes.get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=7.5)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(file, dpi=100)


def main(study: Path, picture: Path) -> None:
    """Print the tables, draw the plot."""
    all_figures = {arm: figures_of(study, arm) for arm in ARMS if any(study.glob(f"{arm}-seed*"))}
    print_tables(study, all_figures)
    plot(all_figures, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
