"""The work of `reasonrl compare`: evaluation folders side by side, and how many questions a difference needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval import power as planning
from reasonrl.eval.compare import Comparison, compare_evaluations, suite_counts, write_comparison
from reasonrl.eval.exams.record import is_exam_entry
from reasonrl.eval.labelled_folders import labelled_folders
from reasonrl.eval.results import read_results
from reasonrl.eval.tables import format_table

FEW = 100
"""Of fewer questions, a variance is known to worse than 15 % or so, and so is a plan."""


def compare_folders(
    folders: Sequence[str],
    *,
    suites: Sequence[str] = (),
    confidence: float = 0.95,
    detect: float | None = None,
    power: float = planning.POWER,
    assume: str | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> str:
    """The table of evaluation folders, differences to the first; with `detect`, a plan below it or alone.

    Args:
        folders: folders with a `results.json`, `label=folder` to name one; none with `detect`: a plan alone.
        suites: only these.
        confidence: of intervals; 1 - confidence is the plan's alpha, shared between the suites.
        detect: a true difference in points that is to be found.
        power: the chance with which it is to be found.
        assume: `accuracy=50,concentration=1,correlation=0.9` (points, as `detect`), for a plan without two evaluations.
        out: a folder for `table.md`, `table.csv`, `table.json` and `table.png`.
        as_json: JSON instead of text.

    Raises:
        RunError: a folder is no evaluation, there is nothing to compare, or an assumption that means nothing.
    """
    rows = _rows(folders)
    given = _assumed(assume)
    if len(rows) < 2 and detect is None:
        raise RunError(
            f"{len(rows)} evaluation folder{'s' if len(rows) != 1 else ''} given, and a comparison needs two ->"
            " give A and B, or --detect POINTS for a plan"
        )
    record: dict[str, Any] = {}
    parts: list[str] = []
    if len(rows) >= 2:
        comparison = compare_evaluations(rows, next(iter(rows)), confidence=confidence, suites=suites or None)
        if all(cell.difference is None for cell in comparison.cells):
            there = "; ".join(f"{name}: {', '.join(read_results(path)['suites'])}" for name, path in rows.items())
            shared = any(len(labels) > 1 for labels in comparison.context.values())
            said = "share no suite with a figure of both" if shared else "share no suite"
            fix = "see why samples could not be scored" if shared else "evaluate both on the same suites"
            raise RunError(f"the evaluations {said} ({there}) -> {fix}")
        record |= comparison.as_dict()
        parts.append(format_table(comparison))
        parts += _written(comparison, out)
    elif out is not None:
        raise RunError("--out is for the table of a comparison -> give two evaluation folders")
    if detect is not None:
        plans = _plans(rows, suites, given)
        alpha = (1 - confidence) / max(1, len(plans))
        found = {
            name: planning.plan_rows(spread, detect / 100, alpha=alpha, power=power) for name, spread in plans.items()
        }
        record["plan"] = {
            "detect": detect,
            "power": power,
            "alpha": alpha,
            "suites": {
                name: [dict(zip(("samples", "questions", "smallest_difference"), line, strict=True)) for line in lines]
                for name, lines in found.items()
            },
        }
        parts.append(_plan_text(plans, found, detect, power, alpha))
    return json.dumps(record, indent=2, ensure_ascii=False) if as_json else "\n".join(parts).rstrip("\n")


def _written(comparison: Comparison, out: Path | None) -> list[str]:
    return [] if out is None else [f"wrote {path}" for path in write_comparison(comparison, out)] + [""]


def _rows(folders: Sequence[str]) -> dict[str, Path]:
    rows = labelled_folders(folders)
    for path in rows.values():
        if not (path / "results.json").exists():
            near = sorted(str(found.parent) for found in path.glob("stages/*/results.json")) if path.is_dir() else []
            fix = f"name {' or '.join(near)}" if near else "name the folder of an evaluation, or of an eval stage"
            raise RunError(f"{path} holds no results.json -> {fix}")
    return rows


def _assumed(text: str | None) -> dict[str, float]:
    known = {"accuracy": 0.01, "concentration": 1.0, "correlation": 1.0}
    found: dict[str, float] = {}
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value) * known[name.strip()]
        except (KeyError, ValueError):
            raise RunError(
                f"--assume: {part!r} is not understood -> write accuracy=50,concentration=1,correlation=0.9"
            ) from None
    return found


def _plans(rows: Mapping[str, Path], suites: Sequence[str], given: Mapping[str, float]) -> dict[str, planning.Spread]:
    if not rows or {"accuracy", "concentration"} & given.keys():
        return {"assumed": planning.assumed_spread(**given)}
    base, *others = rows.values()
    entries = read_results(base)["suites"]
    # An examination has no right and wrong samples to plan by.
    names = [name for name in entries if (not suites or name in suites) and not is_exam_entry(entries[name])]
    plans: dict[str, planning.Spread] = {}
    for name in names:
        counts = suite_counts(base, name)
        if not others:
            plans[name] = planning.spread_of_one(counts, **given)
        elif name in read_results(others[0])["suites"]:
            plans[name] = planning.observed_spread(suite_counts(others[0], name), counts)
    if not plans:
        raise RunError(f"no suite to plan for; the first evaluation has {', '.join(read_results(base)['suites'])}")
    return plans


def _plan_text(
    plans: Mapping[str, planning.Spread],
    found: Mapping[str, Sequence[tuple[int, int, float | None]]],
    detect: float,
    power: float,
    alpha: float,
) -> str:
    lines = [
        f"To find a true difference of {detect:g} points with chance {power:g} (two-sided, alpha {alpha:.3g}):",
        "",
    ]
    for name, spread in plans.items():
        there = "" if spread.questions is None else f", {spread.questions:,} questions there"
        lines.append(f"{name}{there}")
        if not found[name]:
            lines.append("  (all answers are right, or all wrong, on both sides: nothing to plan from)")
            continue
        for samples, questions, smallest in found[name]:
            text = f"  {samples:>3} sample{'s' if samples > 1 else ' '} a question: {questions:>9,} questions"
            if smallest is not None:
                text += f"; those there find {100 * smallest:.1f} points"
            lines.append(text)
        if spread.questions is not None and spread.questions < FEW:
            lines.append(f"  (a rough plan: the spread is known from {spread.questions} questions)")
        if not spread.separable:
            lines.append("  (one sample a question does not tell luck from skill: more samples cannot be planned for)")
        else:
            lines.append(
                f"  (over questions the models' difference has a standard deviation of {100 * spread.between**0.5:.1f}"
                " points, which no number of samples lowers)"
            )
    return "\n".join(lines)
