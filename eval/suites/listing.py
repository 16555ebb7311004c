"""Suites and protocols as tables: for the terminal, and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from reasonrl.errors import DataError
from reasonrl.eval.suites.entry import SuiteEntry
from reasonrl.eval.suites.protocols import Protocol, get_protocol, protocols
from reasonrl.eval.suites.registry import find_entry, local_file, resolve, shipped_suites

_KINDS = {
    "math": "mathematics",
    "choice": "choice",
    "mixed": "mathematics or choice",
    "yes_no": "yes or no",
    "code": "tests",
    "judge": "by a judge",
}


def suites_table(data_root: str | Path | None = None) -> str:
    """The shipped suites and protocols, a line each, with whether the suite's file is there (`local`) or would be read
    from the hub.
    """
    lines = _columns(
        [("suite", "rows", "n", "answer", "data", "about")]
        + [
            (
                name,
                f"{entry.rows or '?'}{'' if entry.verified else '*'}",
                str(entry.n),
                entry.answer,
                _where(entry, data_root),
                entry.about,
            )
            for name, entry in shipped_suites().items()
        ]
    )
    more = _columns([("protocol", "about")] + [(name, protocol.about) for name, protocol in protocols().items()])
    note = "* as stated elsewhere: the file could not be had, so its content is not known"
    return "\n".join([*lines, note, "", *more])


def check(names: str, data_root: str | Path | None = None) -> Iterator[tuple[str, bool]]:
    """Whether the rows of suites are the expected ones: a line a suite, and whether it is all right.

    Args:
        names: as `resolve` takes them.
        data_root: folder of local files; None takes REASONRL_DATA.

    Raises:
        RecipeError: a name or an entry is wrong.
    """
    for name, suite in resolve(names, overrides={"reward": "math"}, data_root=data_root).items():
        try:
            rows, found = suite.load()
        except DataError as error:
            yield f"{name}: {error}", False
            continue
        yield f"{name}: {len(rows)} rows" + (f", {found.state}, content {found.content}" if found else ""), True


def describe(name: str) -> str:
    """A suite's entry (or all entries of a file) or a protocol, as YAML.

    Raises:
        RecipeError: neither a suite nor a protocol has this name.
    """
    if name in protocols() and name not in shipped_suites():
        return _yaml({name: _given(get_protocol(name))})
    found = find_entry(name)
    text = _yaml({key: _given(entry) for key, entry in found.items()})
    states = [f"# {key}: {_where(entry, None)}" for key, entry in found.items()]
    return "\n".join([*states, text])


def markdown_table() -> str:
    """The table of docs/suites.md; a test compares them."""
    head = [
        "| suite | rows | source | answer | default sampling | used by |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_markdown_row(name, entry) for name, entry in shipped_suites().items()])


def protocols_markdown() -> str:
    """The table of protocols of docs/suites.md."""
    head = ["| protocol | what it sets | from |", "|---|---|---|"]
    rows = []
    for name, protocol in protocols().items():
        parts = [_sampling(protocol.given())] if protocol.given() else []
        parts += [f"{suite}: {_sampling(own.given())}" for suite, own in protocol.suites.items()]
        votes = protocol.self_consistency
        if votes is not None:
            counts = ", ".join(map(str, votes.k))
            parts.append(f"votes of {counts} from a pool of {votes.pool}, {votes.resamplings} resamplings")
        derived = f" (**derived:** {protocol.derived})" if protocol.derived else ""
        rows.append(f"| `{name}` | {'; '.join(parts)} | {protocol.settings_from}{derived} |")
    return "\n".join(head + rows)


def _markdown_row(name: str, entry: SuiteEntry) -> str:
    source = entry.source
    where = f"`{source.hub}`" if source.hub else f"`{source.path}`"
    if source.name:
        where += f" ({source.name})"
    if source.revision:
        where += f" @{source.revision[:7]}"
    rows = "?" if entry.rows is None else f"{entry.rows:,}"
    kind = _KINDS[entry.answer] + ("" if entry.metric == "accuracy" else f", {entry.metric}")
    settings = _sampling({key: getattr(entry, key) for key in ("n", "temperature", "top_p", "max_tokens")})
    mark = "" if entry.verified else "*"
    return f"| `{name}` | {rows}{mark} | {where} | {kind} | {settings} | {', '.join(entry.used_by) or '-'} |"


def _sampling(given: dict[str, Any]) -> str:
    words = {"n": "n {}", "temperature": "T {:g}", "top_p": "top-p {:g}", "max_tokens": "{:,} tokens"}
    return ", ".join(words.get(key, key + " {}").format(value) for key, value in given.items())


def _where(entry: SuiteEntry, data_root: str | Path | None) -> str:
    if local_file(entry, data_root) is not None:
        return "local"
    return "hub" if entry.source.hub is not None else "absent"


def _given(model: SuiteEntry | Protocol) -> dict[str, Any]:
    """What an entry says, without the defaults."""
    return model.model_dump(mode="json", exclude_defaults=True)


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).rstrip()


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
