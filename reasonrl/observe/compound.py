"""Tables of prompts that ask several problems, from the entries of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasonrl.observe.exams import interval_text


def compound_tables(suites: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy together against alone, accuracy by position; none where no suite asks several problems.

    Args:
        suites: suite -> its entry in `results.json`.
    """
    found = {name: entry["compound"] for name, entry in suites.items() if entry.get("compound")}
    if not found:
        return []
    body = [
        [
            name,
            str(figures["k"]),
            *(_cell(figures, key) for key in ("acc_item", "acc_all", "retention", "independence_gap", "answered")),
            f"{100 * figures['truncated']:.1f} %",
            "" if figures["tokens_per_problem"] is None else f"{figures['tokens_per_problem']:,.1f}",
        ]
        for name, figures in found.items()
    ]
    header = [
        "suite",
        "k",
        "acc_item",
        "acc_all",
        "retention",
        "independence gap",
        "answered",
        "truncated",
        "tokens a problem",
    ]
    tables = [
        {
            "title": "Several problems in a prompt: percent with 95 % intervals over blocks",
            "header": header,
            "body": body,
        }
    ]
    several = {name: figures["by_position"] for name, figures in found.items() if figures["k"] > 1}
    if several:
        most = max(len(places) for places in several.values())
        lines = [
            [name, *(interval_text(place) for place in places), *[""] * (most - len(places))]
            for name, places in several.items()
        ]
        places = [str(number) for number in range(1, most + 1)]
        tables.append(
            {"title": "Accuracy by position in the prompt, percent", "header": ["suite", *places], "body": lines}
        )
    return tables


def _cell(figures: Mapping[str, Any], name: str) -> str:
    return "" if name not in figures else interval_text(figures[name])
