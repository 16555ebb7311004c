"""The tables and the plot of recipes/mini/bcpg_nsa.md.

    python benchmarks/mini_bcpg_page.py runs/mini-bcpg_nsa docs/mini_bcpg_nsa.png

reads the folders of `reasonrl train mini/bcpg_nsa --study full` and of the sweeps beside it, as far as they are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

from pages import By, finish, gap

BASE = "few_bcpg"
HEADLINE = {
    "few": "weight 0",
    "few_beta_m50": "weight -.5",
    "few_beta_50": "weight .5",
    "few_random_steps": "random steps, .5",
    "few_uniform": "all shrunk alike, .5",
}
BETAS = {
    1.0: BASE,
    0.75: "few_beta_75",
    0.5: "few_beta_50",
    0.25: "few_beta_25",
    0.0: "few",
    -0.25: "few_beta_m25",
    -0.5: "few_beta_m50",
    -1.0: "few_beta_m100",
}
SWEEPS = ("tau", "judges", "noise", "beta", "methods")  # of 40 problems, as the headline
TAUS = {0.01: "_tau_01", 0.03: "_tau_03", 0.13: "", 0.2: "_tau_20"}


def figure(runs: Path, arm: str, stage: str, name: str) -> By:
    """A figure of a stage by seed; equal in every study that has the arm and the seed, as stages are shared."""
    found: By = {}
    for run in runs.glob(f"*/{arm}-seed*"):
        done = run / "stages" / stage / "done.json"
        if done.exists():
            value = float(json.loads(done.read_text())["result"]["metrics"][name])
            found[int(run.name.rpartition("seed")[2])] = value
    return dict(sorted(found.items()))


def right(runs: Path, arm: str, stage: str = "exam", kind: str = "accuracy") -> By:
    """Percent right by seed."""
    return {seed: 100 * value for seed, value in figure(runs, arm, stage, f"held_out/{kind}").items()}


def print_tables(runs: Path) -> None:
    """The headline, then every other arm against the plain one at the same tau."""
    base = right(runs, BASE)
    for name in ("pass@1", "wrong_on_hard", "repair", "well_formed"):
        values = figure(runs, BASE, "gate", name).values()
        print(f"gate, {name}: {', '.join(f'{value:.3f}' for value in values)}")
    passed = {seed for seed, value in figure(runs, BASE, "gate", "passed").items() if value}
    print(f"passed: {passed}\n")
    print(f"| arm | right | over BCPG, {len(base)} seeds | of the {len(passed)} that pass | greedily |")
    print("|---|---|---|---|---|")
    rows = {"start policy": (BASE, "exam_start"), "RFT": (BASE, "exam_rft"), "BCPG": (BASE, "exam")}
    rows |= {title: (arm, "exam") for arm, title in HEADLINE.items()}
    for title, (arm, stage) in rows.items():
        ours, quiet = right(runs, arm, stage), right(runs, arm, stage, "greedy")
        cells = [gap(ours, base), gap(ours, base, passed), f"{mean(quiet.values()):.1f}"]
        print(f"| {title} | {mean(ours.values()):.1f} | {' | '.join(cells)} |")
    swept = [run.name for study in SWEEPS for run in runs.glob(f"{study}/*-seed*")]
    arms = sorted({name.rpartition("-seed")[0] for name in swept} - {*HEADLINE, BASE})
    for arm in arms:
        found = right(runs, arm)
        if found:
            same = right(runs, BASE + arm[arm.index("_tau") :]) if "_tau" in arm else base
            print(
                f"{arm} ({len(found)} seeds): {mean(found.values()):.1f}, over BCPG at the same tau {gap(found, same)}"
            )


def plot(runs: Path, file: Path) -> None:
    """Differences by seed, by weight, and by tau."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base = right(runs, BASE)
    figure, (arms, weights, taus) = pyplot.subplots(1, 3, figsize=(10.5, 3.4))
    for place, (arm, _) in enumerate(HEADLINE.items()):
        found = right(runs, arm)
        apart = [found[seed] - base[seed] for seed in sorted(set(found) & set(base))]
        arms.scatter(apart, [-place] * len(apart), s=18, color="#2563eb")
        arms.scatter([mean(apart)], [-place], marker="|", s=300, color="#111827")
    arms.axvline(0, color="grey", lw=0.8)
    arms.set_yticks([-place for place in range(len(HEADLINE))], list(HEADLINE.values()), fontsize=8)
    arms.set(title="over BCPG, points; one dot a seed", xlabel="percent right at temperature 1")
    there = {beta: right(runs, arm) for beta, arm in BETAS.items() if right(runs, arm)}
    common = set.intersection(*(set(found) for found in there.values()))
    weights.plot(list(there), [mean(found[seed] for seed in common) for found in there.values()], marker="o", ms=4)
    weights.invert_xaxis()
    weights.set(title=f"true labels, {len(common)} seeds", xlabel="weight of right steps of wrong answers")
    for arm, label in ((BASE, "BCPG"), ("few", "weight 0")):
        swept = {tau: right(runs, f"{arm}{end}") for tau, end in TAUS.items() if right(runs, f"{arm}{end}")}
        shared = set.intersection(*(set(found) for found in swept.values()))
        taus.plot(
            list(swept), [mean(found[s] for s in shared) for found in swept.values()], marker="o", ms=4, label=label
        )
    taus.set(title=f"by the constraint, {len(shared)} seeds", xlabel="tau", xscale="log")
    taus.legend(fontsize=8)
    finish(figure, (arms, weights, taus), file)


if __name__ == "__main__":
    print_tables(Path(sys.argv[1]))
    plot(Path(sys.argv[1]), Path(sys.argv[2]))
