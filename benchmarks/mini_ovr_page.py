"""The tables and the plot of recipes/mini/ovr.md.

    python benchmarks/mini_ovr_page.py runs/mini-ovr/full docs/mini_ovr.png

reads the folder of `reasonrl train mini/ovr --study full`, as far as its runs are there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

from pages import By, finish, gap, products

ARMS = {
    "default": "cold start + RL",
    "critic": "cold start + PPO, critic",
    "direct": "direct answers + RL",
    "text_rl": "cold start + RL on text",
    "perception": "cold start + RL on reading",
    "rl_only": "RL only",
    "rl_only_long": "RL only, 400 steps",
}
COLORS = {
    "default": "#059669",
    "critic": "#84cc16",
    "direct": "#d97706",
    "text_rl": "#2563eb",
    "perception": "#7c3aed",
    "rl_only": "#111827",
    "rl_only_long": "#9ca3af",
}
EXAMS = {"exam_base": "base", "exam_cold_start": "before RL", "exam": "after RL"}
SUITES = ("pictures", "twins", "cells")
GATES = ("gate_base", "gate_cold_start", "gate_start")
MOVES = ("looks", "looks_at_wrong", "looks_at_right", "mends", "spoils", "recomputes", "halves", "backward")
TRIALS = {
    "figures_before": "pictures, before RL",
    "figures_before_twins": "twins, before RL",
    "figures_after": "pictures, after RL",
    "figures_after_twins": "twins, after RL",
}
STARTS_AT_BASE = ("rl_only", "rl_only_long")


def right(study: Path, arm: str, exam: str, suite: str, measure: str = "accuracy") -> By:
    """Percent of right answers, by seed. Arms without a cold start stand before RL where the base stands."""
    exam = "exam_base" if exam == "exam_cold_start" and arm in STARTS_AT_BASE else exam
    found = products(study, arm, f"{exam}/results.json")
    return {seed: 100 * one["suites"][suite][measure]["value"] for seed, one in found.items()}


def moves(study: Path, arm: str, trial: str) -> dict[int, dict[str, float]]:
    """What the reader found in 400 samples, by seed."""
    return {seed: one["result"]["metrics"] for seed, one in products(study, arm, f"{trial}/done.json").items()}


def failed_gates(study: Path, arm: str, seed: int) -> list[str]:
    """The gates that did not hold."""
    told = {gate: products(study, arm, f"{gate}/done.json").get(seed) for gate in GATES}
    return [gate for gate, one in told.items() if one and not one["result"]["metrics"]["passed"]]


def print_arms(study: Path, arms: list[str]) -> None:
    """A line an arm with differences to the main one, then a line a seed."""
    print("| arm | seeds | pictures | twins | single cells | `default` less this, pictures |")
    print("|---|---|---|---|---|---|")
    ours = right(study, "default", "exam", "pictures")
    for arm in arms:
        at = {suite: right(study, arm, "exam", suite) for suite in SUITES}
        cells = [f"{mean(one.values()):.1f}" for one in at.values()]
        against = "" if arm == "default" else gap(ours, at["pictures"])
        print(f"| {ARMS[arm]} | {len(at['pictures'])} | {' | '.join(cells)} | {against} |")
    print("\n| arm, seed | " + " | ".join(f"{suite}: base, before, after RL" for suite in SUITES) + " | gates failed |")
    print("|---|---|---|---|---|")
    for arm in arms:
        for seed in right(study, arm, "exam", "pictures"):
            cells = [", ".join(f"{right(study, arm, exam, suite)[seed]:.1f}" for exam in EXAMS) for suite in SUITES]
            print(f"| {ARMS[arm]}, {seed} | {' | '.join(cells)} | {', '.join(failed_gates(study, arm, seed))} |")


def print_moves(study: Path, arms: list[str]) -> None:
    """The behaviours on pictures and on their twins, means over seeds."""
    print("\n| arm, where | " + " | ".join(MOVES) + " |\n|---|" + "---|" * len(MOVES))
    for arm in arms:
        for trial, where in TRIALS.items():
            found = list(moves(study, arm, trial).values())
            if found:
                told = [[one[name] for one in found if name in one] for name in MOVES]
                cells = [f"{mean(values):.3f}" if values else "" for values in told]
                print(f"| {ARMS[arm]}, {where} | {' | '.join(cells)} |")


def plot(study: Path, arms: list[str], file: Path) -> None:
    """Pictures by arm, single cells through the stages, second looks on pictures and in text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, (after, cells, looks) = pyplot.subplots(1, 3, figsize=(10.5, 3.4))
    for number, arm in enumerate(arms):
        values = list(right(study, arm, "exam", "pictures").values())
        after.scatter(values, [-number] * len(values), s=18, color=COLORS[arm])
        after.scatter([mean(values)], [-number], marker="|", s=300, color="#111827")
        seen = [mean(right(study, arm, exam, "cells").values()) for exam in EXAMS]
        cells.plot(list(EXAMS.values()), seen, marker="o", ms=4, color=COLORS[arm])
        for trial, filled in (("figures_before", False), ("figures_after", True)):
            here, there = moves(study, arm, trial), moves(study, arm, f"{trial}_twins")
            both = sorted(set(here) & set(there))
            looks.scatter(
                [100 * there[seed]["looks"] for seed in both],
                [100 * here[seed]["looks"] for seed in both],
                s=22,
                facecolors=COLORS[arm] if filled else "none",
                edgecolors=COLORS[arm],
            )
    before = mean(right(study, "default", "exam_cold_start", "pictures").values())
    after.axvline(before, color="#059669", lw=1, ls=":")
    after.axvline(100 / 6, color="#9ca3af", lw=1, ls="--")
    after.set(
        title="pictures after RL; one dot a seed\n(dotted: after the cold start; dashed: chance)", xlabel="percent"
    )
    after.set_yticks([-number for number in range(len(arms))], [ARMS[arm] for arm in arms], fontsize=8)
    for label, arm in zip(after.get_yticklabels(), arms, strict=True):
        label.set_color(COLORS[arm])
    cells.set(title="single cells read rightly, mean of seeds", ylabel="percent")
    looks.axline((0, 0), slope=1, color="#9ca3af", lw=1)
    looks.set(
        title="solutions with a second look\n(open: before RL; filled: after)",
        xlabel="on twins, percent",
        ylabel="on pictures, percent",
    )
    finish(drawn, (after, cells, looks), file)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    present = [arm for arm in ARMS if right(folder, arm, "exam", "pictures")]
    print_arms(folder, present)
    print_moves(folder, present)
    plot(folder, present, Path(sys.argv[2]))
