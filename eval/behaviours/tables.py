"""The figures of behaviours as tables: Markdown, and for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.eval.tables import markdown_table

Table = tuple[str, list[str], list[list[str]]]
"""Title, header, body."""


def behaviour_tables(figures: Mapping[str, Any]) -> list[Table]:
    """A table of rates a coder, one of counts a coder, and one of agreement."""
    names = sorted({name for one in figures["evaluations"] for name in one["coders"]})
    tables = [_rates(figures, name) for name in names]
    tables += [_counts(figures, name) for name in names]
    tables.append(_agreement(figures))
    return [_narrowed(table) for table in tables if table[2]]


def _narrowed(table: Table) -> Table:
    """Without the columns that name the same thing on every line; the title names it."""
    title, header, body = table
    for name in ("evaluation", "suite", "coders"):
        if name in header and len({line[header.index(name)] for line in body}) == 1:
            place = header.index(name)
            title = f"{title}, {name} {body[0][place]}"
            header = [*header[:place], *header[place + 1 :]]
            body = [[*line[:place], *line[place + 1 :]] for line in body]
    return title, header, body


def legend(figures: Mapping[str, Any]) -> str:
    """What the figures are."""
    quoted = " Only occurrences whose quote stands in the response count." if figures["quoted_only"] else ""
    return (
        f"CBR: percent of responses that show the behaviour; BTR = CBR_v / CBR_l in percent;"
        f" {100 * figures['confidence']:g} % intervals over problems. A ratio marked unstable says little: read the two"
        f" rates.{quoted}"
    )


def as_markdown(figures: Mapping[str, Any]) -> str:
    """All tables and the legend."""
    parts = [f"### {title}\n\n{markdown_table(header, body)}" for title, header, body in behaviour_tables(figures)]
    return "\n".join([*parts, legend(figures) + "\n"])


def as_text(figures: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=False)
    for title, header, body in behaviour_tables(figures):
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in header:
            table.add_column(name, no_wrap=True)
        for line in body:
            table.add_row(*map(Text, line))
        console.print(Text(title))
        console.print(table)
    console.print(Text(legend(figures)), soft_wrap=True)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _rates(figures: Mapping[str, Any], coder: str) -> Table:
    header = ["evaluation", "suite", "behaviour", "CBR_l", "CBR_v", "BTR", "note"]
    body = []
    for one in figures["evaluations"]:
        for pair in one["coders"].get(coder, ()):
            language, vision, ratio = pair["language"], pair["vision"], pair["btr"]
            if not language["responses"] and not vision["responses"]:
                continue
            name = f"{language['behaviour']} → {vision['behaviour']}"
            body.append(
                [
                    one["label"],
                    one["suite"],
                    name,
                    _percent(language["cbr"]),
                    _percent(vision["cbr"]),
                    _ratio(ratio),
                    "; ".join(_notes(pair)),
                ]
            )
    return f"behaviours by {coder}", header, body


def _counts(figures: Mapping[str, Any], coder: str) -> Table:
    header = ["evaluation", "suite", "behaviour", "responses", "not counted", "mean count", "CBR to the first"]
    header += ["right with", "right without"]
    quotes = any(
        pair[side]["unquoted"] is not None
        for one in figures["evaluations"]
        for pair in one["coders"].get(coder, ())
        for side in ("language", "vision")
    )
    header += ["quotes not found"] * quotes
    body = []
    for one in figures["evaluations"]:
        for pair in one["coders"].get(coder, ()):
            for side in ("language", "vision"):
                found = pair[side]
                if not found["responses"]:
                    continue
                mean = found["mean_count"]["value"]
                line = [one["label"], one["suite"], found["behaviour"], f"{found['responses']:,}"]
                line += [f"{found['missing']:,}", f"{mean:.2f}", _points(found["difference"])]
                line += [_share(found["right_with"]), _share(found["right_without"])]
                body.append(line + [_share(found["unquoted"])] * quotes)
    return f"counts by {coder}", header, body


def _agreement(figures: Mapping[str, Any]) -> Table:
    header = ["evaluation", "suite", "behaviour", "coders", "responses", "both", "only first", "only second"]
    header += ["neither", "agree", "kappa", "positive agreement"]
    body = []
    for one in figures["evaluations"]:
        for found in one["agreement"]:
            kappa = "-" if found["kappa"] is None else _two(found["kappa"])
            if found["low"] is not None:
                kappa += f" [{_two(found['low'])}, {_two(found['high'])}]"
            line = [one["label"], one["suite"], found["behaviour"], f"{found['first']}, {found['second']}"]
            line += [f"{found[cell]:,}" for cell in ("responses", "both", "only_first", "only_second", "neither")]
            body.append([*line, _share(found["observed"]), kappa, _share(found["positive"])])
    return "agreement on which responses show a behaviour (Cohen's kappa)", header, body


def _notes(pair: Mapping[str, Any]) -> list[str]:
    notes = []
    if pair["btr"]["unstable"]:
        notes.append(f"unstable: {', '.join(pair['btr']['unstable'])}")
    missing = pair["language"]["missing"] + pair["vision"]["missing"]
    if missing:
        total = missing + pair["language"]["responses"] + pair["vision"]["responses"]
        notes.append(f"{missing:,} of {total:,} not counted")
    return notes


def _percent(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _ratio(ratio: Mapping[str, Any]) -> str:
    if ratio["value"] is None:
        return "-"
    high = "∞" if ratio["high"] is None else f"{100 * ratio['high']:.1f}"
    return f"{100 * ratio['value']:.1f} [{100 * ratio['low']:.1f}, {high}]"


def _points(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    ends: Sequence[float] = (difference["low"], difference["high"])
    return f"{100 * difference['value']:+.1f} [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # adding 0 makes -0 plain 0


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
