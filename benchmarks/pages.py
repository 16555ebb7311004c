"""What the scripts of the miniatures' pages share: differences in words, and the look of their plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasonrl.eval.metrics import seed_difference

By = dict[int, float]
"""A figure by seed."""


def products(study: Path, arm: str, file: str) -> dict[int, dict[str, Any]]:
    """A file of every seed's run of an arm, by seed: `<stage>/<name>`, of the stages that are done. A stage that arms
    share lies with one of them.
    """
    stage, _, name = file.partition("/")
    found = {}
    for run in study.glob(f"{arm}-seed*"):
        folder = run / "stages" / stage
        if (folder / "done.json").exists():
            done = json.loads((folder / "done.json").read_text())
            home = folder / (done["shared_from"] or ".")
            found[int(run.name.rpartition("seed")[2])] = json.loads((home / name).read_text())
    return dict(sorted(found.items()))


def interval(values: list[float]) -> str:
    """Mean and 95 % t interval: `+3.3 [+2.1, +4.4]`; a single one alone."""
    found = seed_difference(values, 0.95)
    tail = "" if found.low is None or found.high is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.value:+.1f}{tail}"


def gap(ours: By, theirs: By, seeds: set[int] | None = None) -> str:
    """Of the seeds that both have, or of those among them."""
    both = sorted(set(ours) & set(theirs) & (set(ours) if seeds is None else seeds))
    return interval([ours[seed] - theirs[seed] for seed in both])


def finish(drawn: Any, all_axes: tuple[Any, ...], file: Path) -> None:
    """Small titles, a faint grid, and the file."""
    for axes in all_axes:
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    drawn.tight_layout()
    drawn.savefig(file, dpi=100)
