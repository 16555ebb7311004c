"""Figures of prompts that ask several problems (`reasonrl.data_tools.compound`): every problem counts once.

Intervals are over blocks: the problems of a block are always asked together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.eval.compound_against import Against, independence_gap, retention
from reasonrl.eval.metrics import proportion_interval

BY_ITEM = ("acc_item", "answered")
"""Figures of `recipe.metric_names` with a value a problem of a compound prompt."""
AGAINST_ALONE = ("retention", "independence_gap")
"""Figures that need the same problems asked one at a time, in another suite of the same evaluation."""
AGAINST = "retention is over"
"""How a sentence of `coverage_notes` begins."""
_UNSCORED = ("bad_gold", "fault")

Rows = Sequence[Mapping[str, Any]]


def items_of_problem(problem: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The problems of a prompt's record (`problems.jsonl`), or of a row; empty where it asks one plain problem."""
    cell = (problem.get("columns") or {}).get("items") or problem.get("items")
    found = json.loads(cell) if isinstance(cell, str) else cell
    return found if isinstance(found, list) else []


def counted(row: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """(position from 0, verdict) of a sample's problems that count and could be scored."""
    for position, item in enumerate(row.get("items") or ()):
        if item.get("scored", True) and item["verdict"] not in _UNSCORED:
            yield position, item


def is_right(row: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether a problem counts as solved: its answer is right, and the sample came to its end."""
    return item["verdict"] == "correct" and row["finish_reason"] == "stop"


def item_values(rows: Rows, family: str) -> dict[str, float]:
    """Value by problem id, mean over samples and orders: `acc_item` or `answered`.

    Raises:
        DataError: the samples were not judged problem by problem.
    """
    found: dict[str, list[bool]] = {}
    sampled = [row for row in rows if row["metric"] == "sample"]
    if sampled and not any(row.get("items") for row in sampled):
        raise DataError(f"{family} is about prompts that ask several problems -> judge them with reward: compound")
    for row in sampled:
        for _, item in counted(row):
            value = is_right(row, item) if family == "acc_item" else item["verdict"] != "no_answer"
            found.setdefault(item["id"], []).append(value)
    return {key: fmean(values) for key, values in found.items()}


@dataclass(frozen=True)
class CompoundSuite:
    """The samples of one compound suite.

    Attributes:
        rows: sample records.
        problems: problem records by id.
    """

    rows: Rows
    problems: Mapping[str, Mapping[str, Any]]

    @property
    def k(self) -> int:
        """Problems in a prompt (the most, should they differ)."""
        return max(len(items_of_problem(problem)) or 1 for problem in self.problems.values())

    def block_of(self, prompt: str) -> str:
        """The block of a prompt."""
        group = self.problems[prompt].get("group")
        return prompt if group is None else str(group)

    def cells(self) -> list[tuple[str, int, str, float]]:
        """(block, position, problem, 1 or 0) of every problem of every sample that counts."""
        return [
            (self.block_of(row["id"]), position, item["id"], float(is_right(row, item)))
            for row in self.rows
            if row["metric"] == "sample"
            for position, item in counted(row)
        ]

    def whole(self) -> dict[str, float]:
        """Share of samples with all problems right by block, over orders and samples."""
        found: dict[str, list[bool]] = {}
        for row in self.rows:
            items = [item for _, item in counted(row)]
            if row["metric"] == "sample" and items:
                found.setdefault(self.block_of(row["id"]), []).append(all(is_right(row, item) for item in items))
        return {key: fmean(values) for key, values in found.items()}

    def members(self) -> dict[str, list[str]]:
        """Ids of the problems that count by block; a plain problem is a block of its own."""
        found: dict[str, dict[str, None]] = {}
        for key, problem in self.problems.items():
            for item in items_of_problem(problem) or [{"id": key}]:
                if item.get("scored", True):
                    found.setdefault(self.block_of(key), {})[item["id"]] = None
        return {block: list(ids) for block, ids in found.items()}


def compound_figures(
    suite: CompoundSuite, alone: Mapping[str, float] | None = None, confidence: float = 0.95
) -> dict[str, Any]:
    """All figures of a compound suite as plain data.

    Args:
        suite: its samples.
        alone: share of right samples by problem id where each is asked alone; None leaves retention and gap out.
        confidence: of every interval.

    Returns:
        `k`, `acc_item` (each problem counts once: the headline), `acc_all` (each problem counts if all of its prompt
        are right), `answered`, `by_position` (a list), `retention` = acc_item / accuracy alone, `independence_gap` =
        share of whole blocks right - mean product of the accuracies alone, `tokens_per_problem`, `truncated`. With
        `alone`, `problems` and `blocks` are how many there are, `problems_alone` how many of them retention is over,
        `blocks_alone` how many the gap is over.

    Raises:
        DataError: no sample was judged problem by problem.
    """
    cells = suite.cells()
    if not cells:
        raise DataError("no sample was judged problem by problem -> judge with reward: compound")
    sampled = [row for row in suite.rows if row["metric"] == "sample"]
    members, whole = suite.members(), suite.whole()
    blocks_of = {item: block for block, ids in members.items() for item in ids}

    def by_item(values: Mapping[str, float]) -> dict[str, Any]:
        units = [blocks_of[key] for key in values]
        return proportion_interval(list(values.values()), confidence, groups=units).as_dict()

    last = max(position for _, position, _, _ in cells)
    places: list[dict[str, list[float]]] = [{} for _ in range(last + 1)]
    for _, position, item, right in cells:
        places[position].setdefault(item, []).append(right)
    lengths = [row["length"] for row in sampled]
    tokens = None if None in lengths else sum(lengths) / sum(len(row["items"]) for row in sampled if row.get("items"))
    of_each = {item: whole[block] for block, ids in members.items() if block in whole for item in ids}
    figures: dict[str, Any] = {
        "k": suite.k,
        "acc_item": by_item(item_values(suite.rows, "acc_item")),
        "acc_all": by_item(of_each),
        "answered": by_item(item_values(suite.rows, "answered")),
        "by_position": [by_item({key: fmean(v) for key, v in place.items()}) for place in places if place],
        "tokens_per_problem": tokens,
        "truncated": sum(row["finish_reason"] != "stop" for row in sampled) / len(sampled),
    }
    if alone is not None and suite.k > 1:
        found = _against(suite, alone)
        figures |= {name: one.estimate(confidence).as_dict() for name, one in found.items() if one is not None}
        together = item_values(suite.rows, "acc_item")
        figures["problems"], figures["problems_alone"] = len(blocks_of), len(together.keys() & alone.keys())
        gap = found["independence_gap"]
        figures["blocks"], figures["blocks_alone"] = len(members), 0 if gap is None else len(gap.blocks)
    return figures


def coverage_notes(figures: Mapping[str, Any]) -> list[str]:
    """A sentence where `retention` or `independence_gap` is not over all problems of a suite.

    Args:
        figures: of `compound_figures`.
    """
    if "problems_alone" not in figures:
        return []
    pairs = [(figures[f"{name}_alone"], figures[name]) for name in ("problems", "blocks")]
    if all(alone == of for alone, of in pairs):
        return []
    (problems, of), (blocks, of_blocks) = pairs
    return [
        f"{AGAINST} {problems:,} of {of:,} problems, independence_gap over {blocks:,} of {of_blocks:,} blocks: the"
        " others are not asked alone here, or could not be scored -> evaluate the same problems at k = 1"
    ]


def alone_values(suites: Mapping[str, CompoundSuite], name: str) -> dict[str, float] | None:
    """Share of right samples by problem id where each of a suite's problems is asked alone: in the suite of the same
    evaluation that asks most of them so, plain before framed; None where there is none.
    """
    wanted = {item for ids in suites[name].members().values() for item in ids}
    best: tuple[int, bool, dict[str, float]] | None = None
    for other, suite in suites.items():
        if suite.k != 1:
            continue
        values = single_values(suite)
        rank = (len(wanted & values.keys()), not other.endswith("-framed"))
        if rank[0] and (best is None or rank > best[:2]):
            best = (*rank, values)
    return None if best is None else best[2]


def single_values(suite: CompoundSuite) -> dict[str, float]:
    """Share of right samples by problem id of a suite that asks one problem at a time."""
    if any(row.get("items") for row in suite.rows):
        return item_values(suite.rows, "acc_item")
    found: dict[str, list[bool]] = {}
    for row in suite.rows:
        if row["metric"] == "sample" and row["correct"] is not None:
            found.setdefault(row["id"], []).append(bool(row["correct"]))
    return {key: fmean(values) for key, values in found.items()}


def read_compound(directory: str | Path) -> dict[str, CompoundSuite]:
    """The finished suites of an evaluation folder by name; empty where none asks several problems at a time."""
    from reasonrl.eval.results import of_first, read_results
    from reasonrl.eval.samples import read_problems, read_samples

    folder = Path(directory)
    found: dict[str, CompoundSuite] = {}
    compound = False
    for name, entry in read_results(folder)["suites"].items():
        if entry.get("kind") == "values" or not (folder / name).is_dir():
            continue
        problems = read_problems(folder / name)
        compound |= any(items_of_problem(problem) for problem in problems.values())
        rows = of_first(read_samples(folder / name), entry.get("decoding", {}).get("n"))
        found[name] = CompoundSuite(rows, problems)
    return found if compound else {}


def write_compound(directory: str | Path) -> dict[str, dict[str, Any]]:
    """Puts the compound figures of a finished evaluation into its `results.json` (`compound` of every such suite, and
    `metrics.retention`; a warning where these are not over all problems), and returns them by suite.

    Raises:
        RunError: results or samples are damaged.
    """
    from reasonrl.eval.results import read_results
    from reasonrl.eval.samples import encode_object
    from reasonrl.observe import write_atomically

    suites = read_compound(directory)
    results = read_results(directory)
    made: dict[str, dict[str, Any]] = {}
    for name, suite in suites.items():
        if not any(row.get("items") for row in suite.rows):
            continue
        figures = compound_figures(suite, alone_values(suites, name))
        entry = results["suites"][name]
        entry["compound"] = made[name] = figures
        told = [line for line in entry.get("warnings", ()) if not line.startswith(AGAINST)]
        entry["warnings"] = told + coverage_notes(figures)
        if figures["k"] > 1:
            entry["metrics"] = {**entry["metrics"], **{key: figures[key] for key in AGAINST_ALONE if key in figures}}
    if made:
        write_atomically(Path(directory) / "results.json", encode_object(results))
    return made


def flat_figures(name: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """A suite's compound figures for `done.json`: `<suite>/acc_all`, `<suite>/position_1`, …"""
    named = {key: figures[key] for key in ("acc_item", "acc_all", "answered", *AGAINST_ALONE) if key in figures}
    named |= {f"position_{number}": found for number, found in enumerate(figures["by_position"], start=1)}
    flat = {f"{name}/{key}": found["value"] for key, found in named.items()}
    flat |= {f"{name}/{key}_low": found["low"] for key, found in named.items() if found["low"] is not None}
    flat |= {f"{name}/{key}_high": found["high"] for key, found in named.items() if found["high"] is not None}
    if figures["tokens_per_problem"] is not None:
        flat[f"{name}/tokens_per_problem"] = figures["tokens_per_problem"]
    return flat


def against_alone(directory: str | Path, suite: str, metric: str) -> Against:
    """`retention` or `independence_gap` of a finished suite, by block.

    Raises:
        RunError: the suite asks one problem at a time, or too few of its problems are asked alone next to it.
    """
    suites = read_compound(directory)
    if suite not in suites:
        raise RunError(f"{directory}: suite {suite!r} asks one problem at a time -> compare another figure")
    one, alone = suites[suite], alone_values(suites, suite)
    found = None if alone is None else _against(one, alone)[metric]
    if found is None:
        what = "right alone" if metric == "retention" else "all asked alone, block by block"
        raise RunError(
            f"{directory}: {metric} of {suite!r} needs problems that are {what} -> evaluate k = 1 of the same problems"
            " as well"
        )
    return found


def _against(suite: CompoundSuite, alone: Mapping[str, float]) -> dict[str, Against | None]:
    """The figures of `AGAINST_ALONE` by name."""
    members = suite.members()
    kept = retention(item_values(suite.rows, "acc_item"), alone, members)
    return {"retention": kept, "independence_gap": independence_gap(suite.whole(), members, alone)}
