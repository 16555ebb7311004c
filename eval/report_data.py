"""What the report of an evaluation shows, as plain numbers: figures, breakdowns, histograms, flags of every sample."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.eval.compound import AGAINST_ALONE, BY_ITEM, CompoundSuite, alone_values, compound_figures
from reasonrl.eval.findings import ABOUT
from reasonrl.eval.metrics import proportion_interval
from reasonrl.eval.named_metrics import by_problem, groups_of, metric_values
from reasonrl.eval.regrade import require_current
from reasonrl.eval.results import of_first, read_results, summarise
from reasonrl.eval.samples import SAMPLES, SETTINGS, UNJUDGED, read_problems, read_samples
from reasonrl.plugins import near

MOST_VALUES = 40
"""A column of the problems with more distinct values than this is no group to break accuracy down by."""
BINS = 40
_OWN = ("level", "subject", "group")
TAIL = 400
"""So many last characters of a response are searched for the gold that was not extracted."""

FLAGS: dict[str, str] = {
    "truncated": "cut at the token limit",
    "empty": "nothing was said",
    "no answer": "no answer was found",
    "right but truncated": "the answer is right, but the response was cut, so it counts as wrong",
    "gold not extracted": "judged wrong, but the gold stands in the last lines: look at the extraction",
}
"""What a sample may be marked with, and what that means."""


class NothingYet(DataError):
    """A suite that was begun and has no finished sample."""


@dataclass(frozen=True)
class SuiteView:
    """One suite of an evaluation folder, read.

    Attributes:
        name: the suite.
        directory: its folder.
        settings: its `settings.json`.
        problems: problem id -> its record, in order.
        rows: sample records in the order of problems, with the verdicts that were asked for.
        result: the figures, as in `results.json`.
        verdicts: name of the re-grade whose verdicts these are; None for those made with the samples.
    """

    name: str
    directory: Path
    settings: Mapping[str, Any]
    problems: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]
    verdicts: str | None = None

    @property
    def sampled(self) -> list[Mapping[str, Any]]:
        """The samples without the greedy ones."""
        return [row for row in self.rows if row["metric"] == "sample"]


def suite_folders(directory: str | Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """The suites of an evaluation folder by name; of a suite's own folder that suite alone.

    Args:
        directory: the folder of an evaluation, of its stage, or of one suite.
        names: only these; none takes all.

    Raises:
        RunError: there are no samples, or no suite of a name.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"{directory} is no folder -> name the folder of an evaluation, the one with results.json")
    if (directory / SAMPLES).is_file():
        found = {directory.resolve().name: directory}
    else:
        found = {path.parent.name: path.parent for path in sorted(directory.glob(f"*/{SAMPLES}"))}
    if not found:
        raise RunError(
            f"{directory} holds no samples (no <suite>/{SAMPLES}) -> name the folder of an evaluation, such as"
            " runs/<run>/stages/<stage>"
        )
    for name in names:
        if name not in found:
            raise RunError(f"{directory} holds no suite {name!r}{near(name, found)}")
    # In the order of results.json, which is that of the recipe.
    order = [name for name in read_results(directory).get("suites", {}) if name in found]
    ordered = [*order, *(name for name in found if name not in order)]
    return {name: found[name] for name in ordered if not names or name in names}


def read_suite(name: str, directory: Path, verdicts: str | None = None) -> SuiteView:
    """Reads one suite; figures come from `results.json` where they are those of these verdicts, else from the samples.

    Raises:
        RunError: there is no re-grade of this name.
        NothingYet: no finished sample.
        DataError: a damaged file.
    """
    settings = _settings(directory)
    rows = read_samples(directory, verdicts)
    if not any(row["metric"] == "sample" for row in rows):
        raise NothingYet(f"{directory / SAMPLES} holds no finished sample yet -> let the evaluation go on first")
    if verdicts is not None:
        require_current(directory, verdicts, rows)
    problems = read_problems(directory)
    stored = read_results(directory.parent).get("suites", {}).get(name)
    if stored is not None and not (directory / UNJUDGED).exists():
        # An evaluation with a smaller n came after: these are the samples that its figures are of.
        rows = of_first(rows, stored["decoding"].get("n"))
    if verdicts is not None or stored is None or stored["n_samples"] != sum(row["metric"] == "sample" for row in rows):
        before = stored or {}
        left_out = AGAINST_ALONE if any(row.get("items") for row in rows) else (*AGAINST_ALONE, *BY_ITEM)
        named = [key for key in before.get("metrics", {}) if key not in left_out]
        stored = figures(name, rows, settings, problems, named)
        if before.get("n_problems") == len(problems):  # else that was told of other problems
            stored |= {key: before[key] for key in ABOUT if key in before}
    return SuiteView(name, directory, settings, problems, rows, stored, verdicts)


def with_compound(views: Sequence[SuiteView]) -> list[SuiteView]:
    """The suites, with the figures of `eval.compound` where prompts ask several problems and those were not stored.

    Figures against problems asked alone need a suite among these that asks them so.
    """
    suites = {view.name: CompoundSuite(view.rows, view.problems) for view in views}
    made = []
    for view in views:
        result = view.result
        if "compound" not in result and suites[view.name].cells():
            found = compound_figures(suites[view.name], alone_values(suites, view.name))
            against = {key: found[key] for key in AGAINST_ALONE if key in found and found["k"] > 1}
            result = {**result, "compound": found, "metrics": {**(result.get("metrics") or {}), **against}}
        made.append(replace(view, result=result))
    return made


def figures(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    problems: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """The figures of sample records, as they stand in `results.json`; `metrics` names further ones."""
    sizes = Counter(row["id"] for row in rows if row["metric"] == "sample")
    n = max(sizes.values(), default=1)
    decoding = {key: settings.get(key) for key in ("temperature", "top_p", "max_tokens")}
    result = summarise(
        name,
        rows,
        k=powers(min(sizes.values(), default=1)),
        decoding={"n": n, **decoding},
        prompt_hash=str(settings.get("prompt_hash", "")),
        seed=int(settings.get("seed") or 0),
        metrics=metrics,
        problems=problems,
    )
    return result.as_dict()


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error} -> evaluate into another folder") from error
    return found if isinstance(found, dict) else {}


def powers(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n."""
    return sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n}) if n >= 1 else [1]


def pass_curve(view: SuiteView) -> dict[int, dict[str, Any]]:
    """pass@k by k with its interval over problems, for k up to the fewest scored samples that a problem has."""
    scored = by_problem(view.rows, "sample")
    sizes = powers(min(map(len, scored.values()))) if scored else []
    return {k: interval_over(view, metric_values(view.rows, f"pass@{k}")) for k in sizes}


def interval_over(view: SuiteView, values: Mapping[str, float]) -> dict[str, Any]:
    """The mean of values in [0, 1] by problem id with its interval, clustered by group where problems have groups."""
    groups = groups_of(view.problems)
    names = [groups.get(key, key) for key in values]
    return proportion_interval(list(values.values()), groups=names).as_dict()


def group_columns(problems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What accuracy can be broken down by: `level`, `subject`, `group` and other columns with 2 to 40 distinct values
    that do not tell every problem apart.
    """
    extra = [name for problem in problems.values() for name in problem.get("columns") or {}]
    kept = []
    for name in dict.fromkeys([*_OWN, *extra]):
        values = {column_of(problem, name) for problem in problems.values()} - {""}
        if 2 <= len(values) <= MOST_VALUES and len(values) <= max(2, len(problems) // 2):
            kept.append(name)
    return kept


def column_of(problem: Mapping[str, Any], name: str) -> str:
    """A problem's value of a column as it is shown; empty for none."""
    return label(problem.get(name) if name in _OWN else (problem.get("columns") or {}).get(name))


def label(value: Any) -> str:
    """A value as it is shown; empty for none."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def breakdown(view: SuiteView) -> dict[str, list[dict[str, Any]]]:
    """Accuracy with its interval over problems by the value of every column of `group_columns`; values in natural
    order, problems without one under an empty name.
    """
    values = metric_values(view.rows, "accuracy")
    found: dict[str, list[dict[str, Any]]] = {}
    for name in group_columns(view.problems):
        groups: dict[str, dict[str, float]] = {}
        for key, value in values.items():
            groups.setdefault(column_of(view.problems.get(key, {}), name), {})[key] = value
        found[name] = [
            {"value": group, "problems": len(groups[group]), "accuracy": interval_over(view, groups[group])}
            for group in sorted(groups, key=natural)
        ]
    return {name: lines for name, lines in found.items() if len(lines) > 1}


def natural(text: str) -> tuple[Any, ...]:
    """A key that sorts `Level 2` before `Level 10`, and no value last."""
    parts: list[Any] = []
    for word in text.replace(".", " . ").split():
        parts.append((0, int(word), "") if word.isdecimal() and len(word) < 18 else (1, 0, word))
    return (text == "", *parts)


def flags_of(row: Mapping[str, Any], gold: str) -> list[str]:
    """Which of FLAGS a sample has."""
    found = []
    cut = row["finish_reason"] != "stop"
    if cut:
        found.append("truncated")
    if not row["text"].strip():
        found.append("empty")
    if row["verdict"] == "no_answer":
        found.append("no answer")
    if cut and row["right"]:
        found.append("right but truncated")
    if row["right"] is False and stands_at_the_end(gold, row["text"], row.get("extracted")):
        found.append("gold not extracted")
    return found


def stands_at_the_end(gold: str, text: str, extracted: str | None) -> bool:
    """Whether the gold stands in the last characters of a text as a word of its own, where something else was read."""
    gold = gold.strip()
    if len(gold) < 2 or gold == (extracted or "").strip():
        return False
    return re.search(rf"(?<![\w.\-/]){re.escape(gold)}(?![\w/]|\.\d)", text[-TAIL:]) is not None


def histogram(view: SuiteView, bins: int = BINS) -> dict[str, Any]:
    """Tokens a sample in equal bins, by outcome: `edges` (bins + 1 of them), and counts of `correct`, `wrong`,
    `truncated` and `unscored` samples; `unknown` counts samples whose length is not recorded.
    """
    rows = [row for row in view.sampled if row["length"] is not None]
    longest = max((row["length"] for row in rows), default=0)
    width = max(1, -(-(longest + 1) // bins))
    count = max(1, -(-(longest + 1) // width))
    parts = {name: [0] * count for name in ("correct", "wrong", "truncated", "unscored")}
    for row in rows:
        parts[outcome(row)][row["length"] // width] += 1
    edges = [width * place for place in range(count + 1)]
    return {"edges": edges, **parts, "unknown": len(view.sampled) - len(rows)}


def outcome(row: Mapping[str, Any]) -> str:
    """`correct`, `truncated` (and so wrong), `wrong` or `unscored`."""
    if row["correct"] is None:
        return "unscored"
    if row["correct"]:
        return "correct"
    return "wrong" if row["finish_reason"] == "stop" else "truncated"


def solve_rates(view: SuiteView) -> list[dict[str, Any]]:
    """One line a problem, hardest first: id, samples scored, how many are correct, truncated, mean tokens."""
    lines = []
    for key, group in by_problem(view.rows, "sample").items():
        lengths = [row["length"] for row in group if row["length"] is not None]
        lines.append(
            {
                "id": key,
                "scored": len(group),
                "correct": sum(row["correct"] for row in group),
                "truncated": sum(row["finish_reason"] != "stop" for row in group),
                "mean_length": fmean(lengths) if lengths else None,
            }
        )
    return sorted(lines, key=lambda line: (line["correct"] / line["scored"], str(line["id"])))


def flag_counts(view: SuiteView) -> dict[str, int]:
    """How many samples, greedy ones included, have each flag."""
    counts = dict.fromkeys(FLAGS, 0)
    for row in view.rows:
        for flag in flags_of(row, gold_of(view, row)):
            counts[flag] += 1
    return counts


def gold_of(view: SuiteView, row: Mapping[str, Any]) -> str:
    """The right answer to a sample's problem, as text; empty if there is none."""
    answer = view.problems.get(row["id"], {}).get("answer")
    return "" if answer is None else str(answer)
