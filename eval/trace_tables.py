"""Coherency and diversity of whole evaluations: figures with intervals over prompts, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.compound import items_of_problem
from reasonrl.eval.metrics import mean_interval
from reasonrl.eval.traces import MEANINGS, SEVERAL, sample_figures, trace_figures
from reasonrl.plays import DEFAULT_FORM, PlayForm

MOST_SAMPLES = 4
"""Samples of a prompt that are read."""


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
    """The figures of `traces.MEANINGS` and `traces.SEVERAL`, each a mean over prompts with its interval.

    Args:
        rows: sample records with their texts.
        problems: problem records by id.
        form: how plays are marked.
        confidence: of the intervals.
    """
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metric"] == "sample" and row["index"] < MOST_SAMPLES:
            by_prompt.setdefault(row["id"], []).append(row)
    values: dict[str, list[float]] = {}
    for key, samples in by_prompt.items():
        asked = statements_of(problems[key])
        single = [trace_figures(row["text"], asked, form) for row in samples]
        together = sample_figures([row["text"] for row in samples], [bool(row["correct"]) for row in samples])
        for name in MEANINGS:
            of_one = [figures[name] for figures in single if name in figures]
            if of_one:
                values.setdefault(name, []).append(sum(of_one) / len(of_one))
        for name, value in together.items():
            values.setdefault(name, []).append(value)
    order = [*MEANINGS, *SEVERAL]
    return {name: mean_interval(values[name], confidence).as_dict() for name in order if name in values}


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
        folders: of evaluations or of single suites, `label=folder` to name them in the tables.
        suites: only these; none takes all that the first folder has.
        form: how plays are marked.
        out: a folder for the files.
        say: takes lines.

    Raises:
        RunError: a folder holds no evaluation, or no suite of a name.
    """
    import json

    from reasonrl.eval.behaviours.responses import suite_folders
    from reasonrl.eval.report import markdown_table
    from reasonrl.eval.samples import read_problems, read_samples
    from reasonrl.observe import write_atomically

    named = [entry.partition("=")[::2] if "=" in entry else (Path(entry).name, entry) for entry in folders]
    there = {label: suite_folders(Path(folder)) for label, folder in named}
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
        table = traces_table(found[suite], f"{suite}: means over prompts with 95 % intervals")
        lines += [f"## {suite}", "", *markdown_table(table), ""]
    for line in lines:
        say(line)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "traces.json", (json.dumps(found, indent=1) + "\n").encode())
        write_atomically(out / "traces.md", "\n".join(lines).encode())
    return found
