"""The tables and the plot of recipes/mini/dialogue.md.

    python benchmarks/mini_dialogue_page.py runs/mini-dialogue/full docs/mini_dialogue.png

reads the folder of `reasonrl train mini/dialogue --study full`, as far as its runs are there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from pages import By, finish, gap, interval, products

from reasonrl.eval.metrics import seed_difference

ARMS = {
    "default": "control",
    "headers": "scenes",
    "voices": "voices",
    "dialogue": "both",
    "monologue_long": "long monologue",
}
SIZES = (1, 2, 3, 5)
FAULTS = ("intrusion", "perseveration", "extra_switches")
COLORS = {
    "default": "#111827",
    "headers": "#2563eb",
    "voices": "#d97706",
    "dialogue": "#059669",
    "monologue_long": "#9ca3af",
}


def suites(study: Path, arm: str, stage: str = "exam") -> dict[int, dict[str, Any]]:
    """What an evaluation of an arm found, by seed."""
    return {seed: one["suites"] for seed, one in products(study, arm, f"{stage}/results.json").items()}


def figure(study: Path, arm: str, k: int, name: str = "acc_item", stage: str = "exam") -> By:
    """Percent, by seed."""
    return {seed: 100 * one[f"k{k}"]["metrics"][name]["value"] for seed, one in suites(study, arm, stage).items()}


def faults(study: Path, arm: str, name: str) -> By:
    """What the reader found in what was written for five problems, by seed."""
    found = products(study, arm, "faults/done.json")
    return {seed: one["result"]["metrics"][name] for seed, one in found.items()}


def print_arms(study: Path, arms: list[str]) -> None:
    """A line an arm, a line a seed, and differences to the control."""
    base = {name: figure(study, "default", 5, name) for name in ("acc_item", "retention")}
    print("| arm | seeds | k = 1 | 2 | 3 | 5 | over the control, k = 5 | retention | over the control | form |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for arm in arms:
        at = {k: figure(study, arm, k) for k in SIZES}
        kept = figure(study, arm, 5, "retention")
        form = [100 * one["form"]["accuracy"]["value"] for one in suites(study, arm).values()]
        own = [f"{mean(at[k].values()):.1f}" for k in SIZES]
        cells = [*own, gap(at[5], base["acc_item"]), f"{mean(kept.values()):.1f}", gap(kept, base["retention"])]
        print(f"| {ARMS[arm]} | {len(kept)} | {' | '.join(cells)} | {min(form):.1f} and above |")
    print("\n| arm, seed | k = 1 | k = 5 | positions 1 to 5 | retention | " + " | ".join(FAULTS) + " |")
    print("|---|---|---|---|---|---|---|---|")
    for arm in arms:
        for seed, one in suites(study, arm).items():
            places = ", ".join(f"{100 * place['value']:.0f}" for place in one["k5"]["compound"]["by_position"])
            told = [f"{faults(study, arm, name)[seed]:.3f}" for name in FAULTS]
            one_of = [figure(study, arm, k)[seed] for k in (1, 5)]
            kept = figure(study, arm, 5, "retention")[seed]
            print(
                f"| {ARMS[arm]}, {seed} | {one_of[0]:.1f} | {one_of[1]:.1f} | {places} | {kept:.1f} |"
                f" {' | '.join(told)} |"
            )


def print_contrasts(study: Path, arms: list[str]) -> None:
    """The 2 x 2, paired by seed, and the comparison at the checkpoint of nearest accuracy at k = 1."""
    print()
    for title, name in (("acc_item, k = 5", "acc_item"), ("retention", "retention")):
        at = {arm: figure(study, arm, 5, name) for arm in ("default", "headers", "voices", "dialogue") if arm in arms}
        if len(at) < 4:
            continue
        seeds = sorted(set.intersection(*(set(one) for one in at.values())))
        scenes = [(at["headers"][s] + at["dialogue"][s] - at["default"][s] - at["voices"][s]) / 2 for s in seeds]
        voices = [(at["voices"][s] + at["dialogue"][s] - at["default"][s] - at["headers"][s]) / 2 for s in seeds]
        both = [at["dialogue"][s] - at["headers"][s] - at["voices"][s] + at["default"][s] for s in seeds]
        print(
            f"{title}, {len(seeds)} seeds: scenes {interval(scenes)}, voices {interval(voices)},"
            f" together beyond the sum {interval(both)}"
        )
    control = figure(study, "default", 1)
    early = {name: figure(study, "default", k, name, "exam_10") for k, name in ((1, "acc_item"), (5, "retention"))}
    for arm in arms[1:]:
        ours, kept = figure(study, arm, 1), figure(study, arm, 5, "retention")
        apart = []
        for seed in sorted(set(ours) & set(control)):
            late = abs(control[seed] - ours[seed]) <= abs(early["acc_item"][seed] - ours[seed])
            theirs = figure(study, "default", 5, "retention") if late else early["retention"]
            apart.append(kept[seed] - theirs[seed])
        print(f"{ARMS[arm]}: retention over the control's checkpoint nearest in k = 1: {interval(apart)}")


def plot(study: Path, arms: list[str], file: Path) -> None:
    """Accuracy by k and by position; accuracy and retention at k = 5 over the control's, paired by seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, ((sizes, places), (right, kept)) = pyplot.subplots(2, 2, figsize=(9.6, 6.4))
    for arm in arms:
        at = [figure(study, arm, k) for k in SIZES]
        sizes.plot(SIZES, [mean(one.values()) for one in at], marker="o", ms=4, color=COLORS[arm], label=ARMS[arm])
        by_place = [
            [100 * place["value"] for place in one["k5"]["compound"]["by_position"]]
            for one in suites(study, arm).values()
        ]
        places.plot(
            range(1, 6), [mean(place) for place in zip(*by_place, strict=True)], marker="o", ms=4, color=COLORS[arm]
        )
    draw_gaps(right, study, arms[1:], "acc_item")
    draw_gaps(kept, study, arms[1:], "retention")
    sizes.set(title="right answers, mean of the seeds", xlabel="problems in a prompt", ylabel="percent")
    places.set(title="right at each position of five, mean of the seeds", xlabel="position", ylabel="percent")
    sizes.set_xticks(SIZES)
    places.set_xticks(range(1, 6))
    told = "points; dots: seeds; bars: 95 %, paired by seed"
    right.set(title="right answers at k = 5 less the control's", xlabel=told)
    kept.set(title="retention at k = 5 less the control's", xlabel=told)
    sizes.legend(fontsize=8)
    finish(drawn, (sizes, places, right, kept), file)


def draw_gaps(axes: Any, study: Path, arms: list[str], name: str) -> None:
    """A row an arm: what each seed has over the control, their mean and its interval."""
    base = figure(study, "default", 5, name)
    for number, arm in enumerate(arms):
        ours = figure(study, arm, 5, name)
        apart = [ours[seed] - base[seed] for seed in sorted(set(ours) & set(base))]
        found = seed_difference(apart, 0.95)
        axes.scatter(apart, [-number] * len(apart), s=18, color=COLORS[arm], zorder=3)
        axes.scatter([found.value], [-number], marker="|", s=300, color="#111827", zorder=3)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [-number, -number], color=COLORS[arm], lw=2, alpha=0.5)
    axes.axvline(0, color="#6b7280", lw=0.8)
    axes.set_yticks([-number for number in range(len(arms))], [ARMS[arm] for arm in arms])
    axes.set_ylim(-len(arms) + 0.5, 0.5)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    present = [arm for arm in ARMS if suites(folder, arm)]
    print_arms(folder, present)
    print_contrasts(folder, present)
    plot(folder, present, Path(sys.argv[2]))
