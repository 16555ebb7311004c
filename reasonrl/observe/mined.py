"""What is mined of wrong answers, as a report shows it: `mined.json` of an `annotate` stage as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mined_tables(mined: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens of wrong answers called right and wrong by each judge and by the consensus, and agreement: title, header,
    body.
    """
    sources, pairs, unit = mined["sources"], mined["pairs"], mined["unit"]
    if not sources:
        return []
    known = mined["with_truth"]
    header = ["judge", f"{unit} called right", "called wrong", "left open", "share right"]
    header += ["precision", "recall", "kappa with the truth"] if known else []
    body = []
    for name, row in sources.items():
        line = [name, *(f"{row[key]:,}" for key in ("right", "wrong", "open")), _percent(row["right_share"])]
        if known:
            line += [_number(row.get(key)) for key in ("precision", "recall", "kappa")]
        body.append(line)
    of = f", the truth known of {known:,}" if known else ""
    tables = [
        {"title": f"Steps of {mined['answers']:,} wrong answers, in {unit}{of}", "header": header, "body": body},
    ]
    if pairs:
        rows = [
            [name.replace(" ", " and "), f"{row['n']:,}", _percent(row["observed"]), _number(row["kappa"])]
            for name, row in pairs.items()
        ]
        header = ["judges", f"{unit} labelled by both", "agree", "kappa"]
        tables.append({"title": "How far judges agree on wrong answers", "header": header, "body": rows})
    return tables


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
