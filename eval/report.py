"""The report of an evaluation: `report.md`, `report.json` and the self-contained `report.html` with all its samples."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.compound import CompoundSuite, coverage_notes
from reasonrl.eval.findings import about_rows
from reasonrl.eval.report_browser import MOST_BYTES, Embedded, embed
from reasonrl.eval.report_data import (
    FLAGS,
    NothingYet,
    SuiteView,
    breakdown,
    flag_counts,
    histogram,
    pass_curve,
    read_suite,
    solve_rates,
    suite_folders,
    with_compound,
)
from reasonrl.eval.report_plots import plot_groups, plot_lengths, plot_solve_rates
from reasonrl.eval.trace_tables import TITLE, suite_traces, traces_table
from reasonrl.observe import write_atomically
from reasonrl.observe.compound import compound_tables
from reasonrl.observe.plots import plot_eval_accuracy, plot_pass_at_k
from reasonrl.observe.report import interval_text

REPORT_FORMAT = 1
WORTH_A_WARNING = 0.01
"""A share of samples with a flag above this is said aloud."""


def write_eval_report(
    directory: str | Path,
    *,
    suites: Sequence[str] = (),
    verdicts: str | None = None,
    out: str | Path | None = None,
    most_bytes: int = MOST_BYTES,
    label: str | None = None,
    against: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Writes the report of an evaluation folder, whole or half done, and returns the paths: Markdown, JSON, HTML.

    The page needs no network: pictures are in it, and so are the samples, compressed and opened as they are looked at.
    Equal samples give equal bytes.

    Args:
        directory: the folder with `results.json` and the suites, or one suite's.
        suites: only these; none takes all.
        verdicts: a re-grade whose verdicts are shown in place of the samples' own; it is part of the files' names.
        out: the folder to write into; `directory` if None.
        most_bytes: texts the page carries, as base64; samples beyond it are shown without their texts.
        label: what this evaluation is called beside others; the folder's name if None.
        against: other evaluations by label, whose compound figures and traces stand beside this one's.

    Raises:
        RunError: no samples, no suite or re-grade of a name, or an evaluation in `against` that shares no suite.
        DataError: a damaged file.
    """
    directory = Path(directory)
    views, waiting = _read(suite_folders(directory, suites), verdicts)
    out = directory if out is None else Path(out)
    stem = "report" if verdicts is None else f"report.{verdicts}"
    title = directory.resolve().name
    sides = _sides(views, label or title, against or {}, verdicts)
    several, beside = _several(sides)
    data = report_json(views, waiting) | ({"traces": beside} if beside else {})
    tables = [figures_table({view.name: view.result for view in views}), *several]
    paths = [out / f"{stem}.md", out / f"{stem}.json", out / f"{stem}.html"]
    write_atomically(paths[0], report_markdown(title, views, data, tables).encode())
    write_atomically(paths[1], (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(paths[2], _html(title, views, data, tables, embed(views, most_bytes)))
    return paths


def _read(folders: Mapping[str, Path], verdicts: str | None) -> tuple[list[SuiteView], list[str]]:
    """The suites, and the names of those that have no finished sample yet.

    Raises:
        NothingYet: none of them has one.
    """
    views: list[SuiteView] = []
    waiting: list[str] = []
    for name, path in folders.items():
        try:
            views.append(read_suite(name, path, verdicts))
        except NothingYet:
            if len(waiting) + 1 == len(folders):
                raise
            waiting.append(name)
    return with_compound(views), waiting


def _sides(
    views: Sequence[SuiteView], label: str, against: Mapping[str, Path], verdicts: str | None
) -> dict[str, dict[str, SuiteView]]:
    """Suite -> label -> that suite of each evaluation that has it."""
    sides = {view.name: {label: view} for view in views}
    for other, folder in against.items():
        shared = {name: path for name, path in suite_folders(folder).items() if name in sides}
        if not shared:
            raise RunError(f"{folder} holds none of the suites {', '.join(sides)} -> name an evaluation on one of them")
        for view in _read(shared, verdicts)[0]:
            sides[view.name][other] = view
    return sides


def report_json(views: Sequence[SuiteView], waiting: Sequence[str] = ()) -> dict[str, Any]:
    """The report's numbers: per suite its figures, pass@k curve, breakdowns, lengths, flags and solve rates; `waiting`
    names suites without a finished sample.
    """
    return {
        "format": REPORT_FORMAT,
        "waiting": list(waiting),
        "suites": {
            view.name: {
                "verdicts": view.verdicts,
                "settings": dict(view.settings),
                "figures": dict(view.result),
                "pass@k": {str(k): interval for k, interval in pass_curve(view).items()},
                "accuracy_by": breakdown(view),
                "lengths": histogram(view),
                "flags": flag_counts(view),
                "problems": solve_rates(view),
            }
            for view in views
        },
    }


def figures_table(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table of suites: title, header, body; a column appears if a suite has it.

    Args:
        results: suite -> its figures, as in `results.json`.
    """
    named = dict.fromkeys(name for entry in results.values() for name in entry.get("metrics") or {})
    largest = {max(map(int, entry["pass@k"])) for entry in results.values() if entry.get("pass@k")} - {1}
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("problems", lambda entry: f"{entry['n_problems']:,}"),
        ("samples", lambda entry: f"{entry['n_samples']:,}"),
        ("accuracy", lambda entry: _interval(entry.get("accuracy"))),
        ("within problems", lambda entry: _ends(entry.get("accuracy_within"))),
        *((name, lambda entry, name=name: _interval(entry.get(name))) for name in ("greedy", "maj@n")),
        *(
            (f"pass@{k}", lambda entry, k=k: _interval((entry.get("pass@k") or {}).get(str(k))))
            for k in sorted(largest)
        ),
        *((name, lambda entry, name=name: _interval((entry.get("metrics") or {}).get(name))) for name in named),
        ("mean score", lambda entry: _score(entry.get("mean_score"))),
        ("tokens", lambda entry: _tokens(entry.get("mean_length"))),
        ("tokens a right one", lambda entry: _tokens(entry.get("tokens_per_correct"))),
        ("truncated", lambda entry: _percent(entry.get("truncated_fraction"))),
        ("no answer", lambda entry: _percent(entry.get("no_answer_fraction"))),
        ("unscored", lambda entry: f"{entry.get('unscored', 0):,}"),
    ]
    cells = {name: [read(entry) for entry in results.values()] for name, read in columns}
    kept = [name for name, _ in columns if any(cells[name])]
    return {
        "title": "Percent with 95 % intervals clustered by problem (within problems: for these very problems)",
        "header": ["suite", *kept],
        "body": [[suite, *(cells[name][place] for name in kept)] for place, suite in enumerate(results)],
    }


def report_markdown(
    title: str, views: Sequence[SuiteView], data: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]
) -> str:
    """The report as Markdown: the tables, warnings, accuracy by level and subject."""
    lines = [f"# {title}", "", _subtitle(views), ""]
    lines += markdown_table(tables[0])
    lines += [f"- {line}" for line in _warnings(data)]
    for table in tables[1:]:
        lines += ["", *markdown_table(table)]
    for name, suite in data["suites"].items():
        for table in _group_tables(suite):
            lines += ["", f"## {name}: {table['title']}", "", *markdown_table(table)]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Mapping[str, Any]) -> list[str]:
    """The lines of a Markdown table, its title under it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return [
        line(table["header"]),
        "|" + "---|" * len(table["header"]),
        *map(line, table["body"]),
        "",
        table["title"] + ".",
    ]


def _html(
    title: str,
    views: Sequence[SuiteView],
    data: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    embedded: Embedded,
) -> bytes:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("reasonrl.eval", "templates"), PackageLoader("reasonrl.observe", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = files("reasonrl.eval").joinpath("templates/eval_browser.js").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        pictures, suites = _pictures(views, data, Path(folder))
    html = environment.get_template("eval_report.html.j2").render(
        title=title,
        subtitle=_subtitle(views),
        tables=tables,
        warnings=_warnings(data),
        pictures=pictures,
        suites=[
            {
                "name": view.name,
                "pictures": suites[view.name],
                "tables": _group_tables(data["suites"][view.name]),
                "settings": [(name, _plain(value)) for name, value in view.settings.items()],
            }
            for view in views
        ],
        embedded=embedded,
        left_out=f"{embedded.left_out:,}" if embedded.left_out else "",
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return html.encode("utf-8", "replace")


def _pictures(
    views: Sequence[SuiteView], data: Mapping[str, Any], folder: Path
) -> tuple[list[dict[str, str]], dict[str, list[dict[str, str]]]]:
    """The pictures over all suites, and those of each."""
    figures = {view.name: {**view.result, "pass@k": data["suites"][view.name]["pass@k"]} for view in views}
    over_all = [
        ("accuracy by suite", plot_eval_accuracy({"suites": figures}, folder / "accuracy.png")),
        ("pass@k", plot_pass_at_k({"suites": figures}, folder / "pass_at_k.png")),
    ]
    of_each = {}
    for place, view in enumerate(views):
        suite = data["suites"][view.name]
        made = [
            ("length", plot_lengths(view.name, suite["lengths"], folder / f"{place}_length.png")),
            ("solve rates", plot_solve_rates(view.name, suite["problems"], folder / f"{place}_solved.png")),
        ]
        made += [
            (f"accuracy by {column}", plot_groups(view.name, column, lines, folder / f"{place}_by_{number}.png"))
            for number, (column, lines) in enumerate(suite["accuracy_by"].items())
        ]
        of_each[view.name] = _encoded(made)
    return _encoded(over_all), of_each


def _encoded(made: Sequence[tuple[str, Path | None]]) -> list[dict[str, str]]:
    return [
        {"title": title, "data": base64.b64encode(path.read_bytes()).decode()}
        for title, path in made
        if path is not None
    ]


def _several(
    sides: Mapping[str, Mapping[str, SuiteView]],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Tables of suites that ask several problems at once and of what their responses show of coherency and diversity,
    and the traces of suites that several evaluations have: suite -> label -> figures.
    """
    results = {
        suite if len(views) == 1 else f"{suite}, {label}": view.result
        for suite, views in sides.items()
        for label, view in views.items()
    }
    beside: dict[str, dict[str, dict[str, Any]]] = {}
    own: dict[str, dict[str, Any]] = {}
    for suite, views in sides.items():
        if len(views) > 1:
            beside[suite] = {label: suite_traces(view.rows, view.problems) for label, view in views.items()}
            continue
        (view,) = views.values()
        if CompoundSuite(view.rows, view.problems).k > 1:
            own[suite] = suite_traces(view.rows, view.problems)
    return [
        *compound_tables(results),
        *([traces_table(own, f"Coherency and diversity: {TITLE}")] if own else []),
        *(traces_table(traced, f"{suite}: coherency and diversity, {TITLE}") for suite, traced in beside.items()),
    ], beside


def _group_tables(suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "title": f"accuracy by {column}, percent with 95 % intervals over problems",
            "header": [column, "problems", "accuracy"],
            "body": [
                [line["value"] or "(none)", f"{line['problems']:,}", interval_text(line["accuracy"])] for line in lines
            ],
        }
        for column, lines in suite["accuracy_by"].items()
    ]


def _warnings(data: Mapping[str, Any]) -> list[str]:
    """What a reader should know before believing the table."""
    lines = [f"{name}: begun, and no sample is finished yet" for name in data["waiting"]]
    for name, suite in data["suites"].items():
        total = suite["figures"]["n_samples"]
        notes = coverage_notes(suite["figures"].get("compound") or {})
        lines += [f"{name}: {line}" for line in (*about_rows(suite["figures"]), *notes)]
        for flag, text in FLAGS.items():
            count = suite["flags"][flag]
            if count and count > WORTH_A_WARNING * total:
                lines.append(f"{name}: {count:,} of {total:,} samples ({_percent(count / total)}): {text}")
        if suite["figures"].get("unscored"):
            lines.append(f"{name}: {suite['figures']['unscored']:,} samples could not be scored and are in no rate")
    return lines


def _subtitle(views: Sequence[SuiteView]) -> str:
    models = dict.fromkeys(str(view.settings["model"]) for view in views if view.settings.get("model"))
    parts = [", ".join(models)] if models else []
    parts.append(
        f"{sum(len(view.rows) for view in views):,} samples of {sum(len(view.problems) for view in views):,} problems"
    )
    parts += [f"verdicts of the re-grade {name!r}" for name in dict.fromkeys(view.verdicts for view in views) if name]
    return "; ".join(parts)


def _interval(interval: Mapping[str, Any] | None) -> str:
    return "" if interval is None else interval_text(interval)


def _score(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    ends = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['value']:.3f}{ends}"


def _ends(interval: Mapping[str, Any] | None) -> str:
    if interval is None or interval["low"] is None:
        return ""
    return f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _tokens(count: float | None) -> str:
    return "" if count is None else f"{count:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
