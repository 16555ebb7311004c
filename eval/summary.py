"""The results of one evaluation for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from reasonrl.eval.metrics import Interval
from reasonrl.eval.tables import percent


def results_table(suites: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a suite: accuracy with its interval over problems, what was cut or unread, tokens; then the warnings.

    Args:
        suites: entries of `results.json` by suite.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    header = ("suite", "problems", "n", "accuracy %", "pass@k %", "maj@n %", "truncated", "no answer", "tokens")
    for name in header:
        table.add_column(name, justify="left" if name == "suite" else "right", no_wrap=True)
    for name, entry in suites.items():
        table.add_row(*(Text(cell) for cell in _line(name, entry)))
    console.print(table)
    shown = {entry["accuracy"]["confidence"] for entry in suites.values() if entry["accuracy"]}
    level = f"{100 * shown.pop():g} %" if len(shown) == 1 else "its"
    console.print(Text(f"Accuracy with {level} interval over problems (other problems of this kind)."))
    for name, entry in suites.items():
        for line in _more(entry):
            console.print(Text(f"{name}: {line}"), soft_wrap=True)
    for name, entry in suites.items():
        for warning in entry.get("warnings", ()):
            console.print(Text(f"{name}: {warning}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _more(entry: Mapping[str, Any]) -> list[str]:
    """What the table has no room for: named figures, the interval for these very problems, losses and costs."""
    lines = []
    named = {
        name: found for name, found in (entry.get("metrics") or {}).items() if name not in entry.get("compound", ())
    }
    if named:
        lines.append(", ".join(f"{name} {percent(Interval(**found), name)}" for name, found in named.items()))
    if entry.get("compound"):
        shown = {key: found for key, found in entry["compound"].items() if isinstance(found, Mapping)}
        lines.append(", ".join(f"{name} {percent(Interval(**found), name)}" for name, found in shown.items()))
        places = " ".join(f"{100 * found['value']:.1f}" for found in entry["compound"]["by_position"])
        lines.append(f"accuracy by position {places}")
    within = entry.get("accuracy_within")
    if within and within["low"] is not None:
        lines.append(f"accuracy {percent(Interval(**within))} within problems (other samples of these very problems)")
    counts = entry.get("counts") or {}
    told = [f"{counts[name]:,} {name}" for name in ("empty", "timeout") if counts.get(name)]
    if entry.get("tokens_per_correct") is not None:
        told.append(f"{entry['tokens_per_correct']:,.0f} tokens a right answer")
    return [*lines, ", ".join(told)] if told else lines


def _line(name: str, entry: Mapping[str, Any]) -> list[str]:
    limited = entry.get("limited")
    # A limit counts problems, of which a prompt may ask several.
    asked = limited["problems"] if limited and entry.get("compound") else entry["n_problems"]
    passes = [
        f"@{k} {100 * found['value']:.1f}"
        for k, found in sorted(entry["pass@k"].items(), key=lambda item: int(item[0]))
        if int(k) > 1
    ]
    length = entry["mean_length"]
    return [
        f"{name} (limited)" if limited else name,
        f"{asked:,}" + (f" of {limited['of']:,}" if limited else ""),
        str(entry["decoding"]["n"]),
        "" if entry["accuracy"] is None else percent(Interval(**entry["accuracy"])),
        " ".join(passes),
        "" if entry["maj@n"] is None else f"{100 * entry['maj@n']['value']:.1f}",
        f"{100 * entry['truncated_fraction']:.1f} %",
        f"{100 * entry['no_answer_fraction']:.1f} %",
        "" if length is None else f"{length:,.1f}",
    ]
