"""How much of wrong answers each judge calls right, and how far judges agree with each other and with the truth.

The table of arXiv:2505.14403, Table 4: tokens of wrong answers in steps called right ("mined") and wrong, by each judge
and by their consensus. Pure functions; counts of shards add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from reasonrl.prm.label_agreement import kappa_of
from reasonrl.prm.labels import Label

CONSENSUS = "consensus"
Counts = dict[str, Any]


def nothing_mined() -> Counts:
    """The counts of no answer."""
    return {"answers": 0, "with_truth": 0, "called": {}, "pairs": {}, "truth": {}}


def add_answer(
    counts: Counts,
    labels: Mapping[str, Sequence[Label]],
    sizes: Sequence[int],
    truth: Sequence[Label] | None = None,
) -> None:
    """Count one wrong answer.

    Args:
        counts: of `nothing_mined`, changed in place.
        labels: of each source, [K]; that of the consensus under `CONSENSUS`.
        sizes: [K] tokens of each step.
        truth: [K] the true labels, where they are known.
    """
    counts["answers"] += 1
    for name, given in labels.items():
        called = counts["called"].setdefault(name, [0, 0, 0])
        for label, size in zip(given, sizes, strict=True):
            called[2 if label is None else 1 - label] += size
    judges = [name for name in labels if name != CONSENSUS]
    for one, two in combinations(judges, 2):
        _add_cells(counts["pairs"].setdefault(f"{one} {two}", [0] * 4), labels[one], labels[two], sizes)
    if truth is None:
        return
    counts["with_truth"] += 1
    for name, given in labels.items():
        # What a judge leaves open is not mined, so for this comparison it is not called right.
        plain = [label or 0 for label in given]
        _add_cells(counts["truth"].setdefault(name, [0] * 4), plain, truth, sizes)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Counts:
    """The counts of both together."""
    total: Counts = {name: first[name] + second[name] for name in ("answers", "with_truth")}
    for name in ("called", "pairs", "truth"):
        cells = {key: list(value) for key, value in first[name].items()}
        for key, value in second[name].items():
            cells[key] = [a + b for a, b in zip(cells.get(key, [0] * len(value)), value, strict=True)]
        total[name] = cells
    return total


def table_of(counts: Mapping[str, Any], unit: str) -> dict[str, Any]:
    """What stands in `mined.json`.

    Args:
        counts: of all shards.
        unit: what the sizes of steps count: `tokens`, or `characters` where no tokenizer is named.

    Returns:
        `sources`: for each judge and the consensus the units called right, wrong and open, the share called right, and
        where the truth is known `precision`, `recall` and `kappa` of being called right (open counts as not called
        right). `pairs`: observed agreement and kappa of every two judges over what both label. None stands for a ratio
        over nothing.
    """
    sources = {}
    for name, (right, wrong, left) in counts["called"].items():
        row: dict[str, Any] = {"right": right, "wrong": wrong, "open": left}
        row["right_share"] = _ratio(right, right + wrong + left)
        if name in counts["truth"]:
            both, only_judge, only_truth, neither = counts["truth"][name]
            row["precision"] = _ratio(both, both + only_judge)
            row["recall"] = _ratio(both, both + only_truth)
            row["kappa"] = kappa_of(both, only_judge, only_truth, neither)
        sources[name] = row
    pairs = {
        name: {"n": sum(cells), "observed": _ratio(cells[0] + cells[3], sum(cells)), "kappa": kappa_of(*cells)}
        for name, cells in counts["pairs"].items()
    }
    known = {"answers": counts["answers"], "with_truth": counts["with_truth"]}
    return {"unit": unit, **known, "sources": sources, "pairs": pairs}


def _add_cells(cells: list[int], first: Sequence[Label], second: Sequence[Label], sizes: Sequence[int]) -> None:
    """Both right, only the first, only the second, both wrong; steps that one leaves open are left out."""
    for a, b, size in zip(first, second, sizes, strict=True):
        if a is not None and b is not None:
            cells[2 * (1 - a) + (1 - b)] += size


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
