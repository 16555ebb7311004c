"""Coherency and diversity of whole evaluations: figures with intervals over blocks of problems, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.compound import CompoundSuite, is_right, items_of_problem
from reasonrl.eval.metrics import mean_interval
from reasonrl.eval.traces import MEANINGS, SEVERAL, read_trace, sample_figures, trace_figures
from reasonrl.plays import DEFAULT_FORM, PlayForm

MOST_SAMPLES = 4
"""Samples of a prompt that are read: likeness to all others costs the square of their number, and grows with it, so
that evaluations with more samples could not be set beside ones with fewer.
"""
TITLE = f"means with 95 % intervals over blocks of problems, from the first {MOST_SAMPLES} samples of each prompt"
"""What stands under tables."""


def statements_of(problem: Mapping[str, Any]) -> list[str]:
    """The problems that a prompt's record asks."""
    found = [str(item.get("problem") or item["id"]) for item in items_of_problem(problem)]
    return found or [str(problem.get("problem") or problem.get("prompt") or "")]


def suite_traces(
    rows: Sequence[Mapping[str, Any]],
    problems: Mapping[str, Mapping[str, Any]],
    form: PlayForm = DEFAULT_FORM,
    confidence: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """The figures of `traces.MEANINGS` and `traces.SEVERAL` of the first `MOST_SAMPLES` samples of each prompt.

    Each is a mean over blocks: the orders of a block ask the same problems, and so are one observation.

    Args:
        rows: sample records with their texts.
        problems: problem records by id.
        form: how plays are marked.
        confidence: of the intervals.
    """
    suite = CompoundSuite(rows, problems)
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metric"] == "sample" and row["index"] < MOST_SAMPLES:
            by_prompt.setdefault(row["id"], []).append(row)
    values: dict[str, dict[str, list[float]]] = {}
    for key, samples in by_prompt.items():
        for name, value in _prompt_figures(samples, statements_of(problems[key]), form).items():
            values.setdefault(name, {}).setdefault(suite.block_of(key), []).append(value)
    return {
        name: mean_interval([fmean(of_one) for of_one in values[name].values()], confidence).as_dict()
        for name in (*MEANINGS, *SEVERAL)
        if name in values
    }


def _prompt_figures(samples: Sequence[Mapping[str, Any]], asked: Sequence[str], form: PlayForm) -> dict[str, float]:
    traces = [read_trace(row["text"], asked, form) for row in samples]
    single = [trace_figures(trace) for trace in traces]
    means = {name: [figures[name] for figures in single if name in figures] for name in MEANINGS}
    right = [_solved(row, len(asked)) for row in samples]
    return {name: fmean(found) for name, found in means.items() if found} | sample_figures(traces, right)


def _solved(row: Mapping[str, Any], problems: int) -> list[bool]:
    """Whether a sample solves each problem of its prompt; all or none where it was judged as a whole."""
    items = row.get("items")
    return [is_right(row, item) for item in items] if items else [bool(row["correct"])] * problems


def traces_table(figures: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> dict[str, Any]:
    """A table with a line a figure and a column a row of the comparison (monologue, dialogue).

    Args:
        figures: label -> `suite_traces`.
        title: under the table.
    """
    names = [name for name in (*MEANINGS, *SEVERAL) if any(name in found for found in figures.values())]
    body = [
        [name, *(_cell(found.get(name)) for found in figures.values()), {**MEANINGS, **SEVERAL}[name]] for name in names
    ]
    return {"title": title, "header": ["figure", *figures, "what it is"], "body": body}


def _cell(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    ends = "" if interval["low"] is None else f" [{interval['low']:.3g}, {interval['high']:.3g}]"
    return f"{interval['value']:.3g}{ends}"


def compare_traces(
    folders: Sequence[str],
    suites: Sequence[str] = (),
    *,
    form: PlayForm = DEFAULT_FORM,
    out: Path | None = None,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Reads evaluations and says a table a suite; `out` gets all of it as `traces.json` and `traces.md`.

    Args:
        folders: of evaluations or of single suites, as `labelled_folders` takes them.
        suites: only these; none takes all that the first folder has.
        form: how plays are marked.
        out: a folder for the files.
        say: takes lines.

    Raises:
        RunError: a folder holds no evaluation, no folder a suite of a name, or two have one label.
    """
    import json

    from reasonrl.eval.behaviours.responses import suite_folders
    from reasonrl.eval.labelled_folders import labelled_folders
    from reasonrl.eval.report import markdown_table
    from reasonrl.eval.samples import read_problems, read_samples
    from reasonrl.observe import write_atomically

    there = {label: suite_folders(folder) for label, folder in labelled_folders(folders).items()}
    wanted = list(suites) or list(next(iter(there.values())))
    found: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    for suite in wanted:
        read = {label: paths[suite] for label, paths in there.items() if suite in paths}
        if not read:
            raise RunError(f"no folder holds a suite {suite!r} -> one of {', '.join(next(iter(there.values())))}")
        found[suite] = {
            label: suite_traces(read_samples(path), read_problems(path), form) for label, path in read.items()
        }
        lines += [f"## {suite}", "", *markdown_table(traces_table(found[suite], f"{suite}: {TITLE}")), ""]
        lines += [f"{label} holds no suite {suite!r}.\n" for label in there if label not in read]
    for line in lines:
        say(line)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "traces.json", (json.dumps(found, indent=1) + "\n").encode())
        write_atomically(out / "traces.md", "\n".join(lines).encode())
    return found
