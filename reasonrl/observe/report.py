"""`report.html`: one self-contained file a run, made from the files in the run directory; no network, no script."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.observe.completions import completion_files, read_parquet
from reasonrl.observe.compound import compound_tables
from reasonrl.observe.exams import exam_comparison, exam_table
from reasonrl.observe.exams import interval_text as interval_text  # importable from here, too
from reasonrl.observe.metrics import alarms_of, format_number, format_seconds, is_time_field, write_atomically
from reasonrl.observe.mined import mined_tables
from reasonrl.observe.play_page import page_view
from reasonrl.observe.plays import play_view
from reasonrl.observe.plots import TRAINING_PLOTS, plot_eval_accuracy, plot_pass_at_k
from reasonrl.observe.records import read_records
from reasonrl.observe.rollouts import rollout_headlines, rollout_pictures, rollout_tables
from reasonrl.observe.rundir import RunView, StageView

SAMPLES_SHOWN = 3
LONGEST_TEXT = 4_000
_IN_BETWEEN = ("annotate", "gate", "rollout")
"""Kinds of stages whose tables are not what a run is about."""

_HEADLINES = (
    "reward",
    "loss",
    "accuracy",
    "mean_token_accuracy",
    "eval/accuracy",
    "completions/mean_length",
    "explained_variance",
)


def write_report(run_directory: str | Path) -> Path:
    """Writes `report.html` and the pictures as PNG files in `plots/`, and returns the report's path.

    Reads files only: `config.yaml`, `environment.json`, and of each stage `done.json`, `metrics.jsonl`, `completions/`,
    `results.json`, `table.json`, `gate.json`. What is not there is left out, so that it can be made of a run at any
    point.

    Raises:
        RunError: this is no run directory.
        DataError: a metrics file is damaged.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    run = RunView(run_directory)
    plots = run.directory / "plots"
    stages = [_stage_section(stage, plots) for stage in run.stages]
    kept = {picture["file"] for stage in stages for picture in stage["pictures"]}
    for old in plots.glob("*.png"):
        # Pictures of an earlier report that show what is no longer there.
        if old.name not in kept:
            old.unlink()
    environment = Environment(
        loader=PackageLoader("reasonrl.observe", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        recipe=run.recipe,
        directory=run.directory.name,
        seed=run.config.get("seed"),
        summary=[_summary_row(stage) for stage in run.stages],
        headline=next(
            (stage for stage in reversed(stages) if stage["tables"] and stage["kind"] not in _IN_BETWEEN), None
        ),
        stages=stages,
        environment=environment_rows(run.environment),
        config=run.config_text,
    )
    path = run.directory / "report.html"
    write_atomically(path, html.encode())
    return path


def _summary_row(stage: StageView) -> dict[str, str]:
    steps = f"{stage.metrics[-1]['step']:,}" if stage.metrics else ""
    figures = ", ".join(f"{name} {text}" for name, text in headline_figures(stage)[:3])
    seconds, cpu = stage.seconds("wall"), stage.seconds("cpu")
    return {
        "name": stage.name,
        "kind": stage.kind,
        "state": stage.state,
        "steps": steps,
        "figures": figures,
        "time": "" if seconds is None else format_seconds(seconds),
        "cpu": "" if cpu is None else format_seconds(cpu),
    }


def headline_figures(stage: StageView) -> list[tuple[str, str]]:
    """The few figures that say how a stage went: accuracies with intervals, or the last reward and accuracy."""
    if stage.gate:
        return [("gate", "passed" if stage.gate["passed"] else "FAILED")]
    if stage.results:
        exams = {suite: entry for suite, entry in stage.results["suites"].items() if entry.get("kind") == "values"}
        return [
            (f"{suite} {name}", interval_text(entry["metrics"][name]))
            for suite, entry in exams.items()
            for name in entry["headline"]
            if name in entry["metrics"]
        ] + [
            (suite if name == "accuracy" else f"{suite} {name}", interval_text(entry[name]))
            for suite, entry in stage.results["suites"].items()
            for name in ("accuracy", "greedy")
            if entry.get(name)
        ]
    if stage.rollouts:
        return rollout_headlines(stage.rollouts)
    last: dict[str, Any] = {}
    for record in stage.metrics:
        last |= record
    found = []
    for name in _HEADLINES:
        value = last.get(name)
        if isinstance(value, int | float):
            percent = "accuracy" in name
            found.append((name, f"{100 * value:.1f} %" if percent else format_number(value)))
    return found


def tokens_text(count: float | None) -> str:
    """Mean tokens a sample; empty where an imported sample has no count."""
    return "" if count is None else f"{count:.1f}"


def _stage_section(stage: StageView, plots: Path) -> dict[str, Any]:
    """Everything the template shows of one stage."""
    return {
        "name": stage.name,
        "kind": stage.kind,
        "state": stage.state,
        "tables": _tables(stage),
        "pictures": _pictures(stage, plots),
        "last": _last_metrics(stage),
        "alarms": alarm_lines(stage.metrics),
        "completions": _completions(stage),
        "notes": list(stage.table.get("notes", [])),
        "failed": gate_failure(stage.gate),
    }


def gate_failure(gate: Mapping[str, Any]) -> str | None:
    """What failed of a `gate.json`; None where nothing did."""
    failed = [check for check in gate.get("checks", []) if not check["passed"]]
    told = "; ".join(
        f"{check['name']} is {figure_text(check['value'])}, allowed {allowed_text(check)}" for check in failed
    )
    return f"gate failed: not tested: {told}" if failed else None


def figure_text(value: float | None) -> str:
    """A gate's figure; `nothing` where nothing counts for it."""
    return "nothing" if value is None else f"{value:.4g}"


def allowed_text(check: Mapping[str, Any]) -> str:
    """The bounds of a gate's figure: `0.4 to 0.5`, `any to 0.6`."""
    return " to ".join("any" if end is None else figure_text(end) for end in (check["low"], check["high"]))


def alarm_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line an alarm that was raised: its name, in how many steps, the first and the last of them."""
    steps: dict[str, list[int]] = {}
    for record in records:
        for name in alarms_of(record):
            steps.setdefault(name, []).append(record["step"])
    return [
        f"{name}: in {len(raised)} of {len(records)} steps, first {raised[0]}, last {raised[-1]}"
        for name, raised in sorted(steps.items())
    ]


def _pictures(stage: StageView, plots: Path) -> list[dict[str, str]]:
    made: list[tuple[str, Path | None]] = [
        (name, plot(stage.metrics, plots / f"{stage.name}_{name}.png")) for name, plot in TRAINING_PLOTS.items()
    ]
    if stage.results:
        made.append(("accuracy", plot_eval_accuracy(stage.results, plots / f"{stage.name}_accuracy.png")))
        made.append(("pass_at_k", plot_pass_at_k(stage.results, plots / f"{stage.name}_pass_at_k.png")))
    if stage.rollouts:
        made += rollout_pictures(stage.rollouts, plots, stage.name)
    # Drawn by the stage itself: the table's, and lines over numbers of candidates.
    own = ["table"] if stage.table else []
    own += [*(stage.results.get("suites") or {}), *(stage.table.get("context") or {})]
    for name in own:
        if (stage.directory / f"{name}.png").exists():
            copy = plots / f"{stage.name}_{name}.png"
            write_atomically(copy, (stage.directory / f"{name}.png").read_bytes())
            made.append((name, copy))
    return [
        {
            "file": path.name,
            "title": name.replace("_", " "),
            "data": base64.b64encode(path.read_bytes()).decode(),
            "wide": "wide" if name == "table" else "",
        }
        for name, path in made
        if path is not None
    ]


def _tables(stage: StageView) -> list[dict[str, Any]]:
    """Tables of an evaluation, a comparison or a gate: title, header, body."""
    if stage.rollouts:
        return rollout_tables(stage.rollouts)
    if stage.mined:
        return mined_tables(stage.mined)
    if stage.gate:
        return [_gate_table(stage.gate)]
    if stage.table:
        return [_comparison_table(stage.table, suite) for suite in stage.table["context"]]
    if stage.results and stage.results["suites"]:
        suites = stage.results["suites"]
        exams = {suite: entry for suite, entry in suites.items() if entry.get("kind") == "values"}
        sampled = {suite: entry for suite, entry in suites.items() if suite not in exams}
        tables = [exam_table(suite, entry) for suite, entry in exams.items()]
        return [_results_table(sampled), *compound_tables(sampled), *tables] if sampled else tables
    return []


def _gate_table(gate: Mapping[str, Any]) -> dict[str, Any]:
    expected = gate.get("expected") or {}
    checks = {check["name"]: check for check in gate["checks"]}
    body = []
    for name in (*checks, *(other for other in gate["figures"] if other not in checks)):
        wanted = expected.get(name)
        line = [name, figure_text(gate["figures"].get(name)), "" if wanted is None else figure_text(wanted)]
        check = checks.get(name)
        line += ["", ""] if check is None else [allowed_text(check), "passed" if check["passed"] else "FAILED"]
        body.append(line)
    return {"title": "Figures that must hold", "header": ["figure", "is", "expected", "allowed", ""], "body": body}


def _results_table(suites: Mapping[str, Any]) -> dict[str, Any]:
    # The largest k of each suite; the picture shows the others, and a table of all would not fit the page.
    largest = {max(map(int, entry["pass@k"])) for entry in suites.values() if entry["pass@k"]}
    sizes = sorted(largest - {1})
    header = ["suite", "problems", "samples each", "accuracy", "greedy", *(f"pass@{k}" for k in sizes)]
    header += ["tokens", "truncated", "no answer", "unscored"]
    body = []
    for suite, entry in suites.items():
        line = [suite, f"{entry['n_problems']:,}", str(entry["decoding"]["n"])]
        line += ["" if entry[name] is None else interval_text(entry[name]) for name in ("accuracy", "greedy")]
        line += ["" if str(k) not in entry["pass@k"] else interval_text(entry["pass@k"][str(k)]) for k in sizes]
        line += [tokens_text(entry["mean_length"])]
        line += [f"{100 * entry[name]:.1f} %" for name in ("truncated_fraction", "no_answer_fraction")]
        body.append([*line, str(entry["unscored"])])
    return {"title": "Percent with 95 % intervals over problems", "header": header, "body": body}


def _comparison_table(table: Mapping[str, Any], suite: str) -> dict[str, Any]:
    cells = [cell for cell in table["cells"] if cell["suite"] == suite]
    metrics = list(dict.fromkeys(cell["metric"] for cell in cells))
    about, level = table["context"][suite][table["baseline"]], f"{100 * table['confidence']:g} %"
    if about.get("kind") == "values":
        return exam_comparison(suite, cells, about, level)
    header = ["row", *(name for metric in metrics for name in (metric, "difference")), "tokens", "truncated"]
    body = []
    for label in table["labels"]:
        if label not in table["context"][suite]:
            continue
        line = [label]
        for metric in metrics:
            cell = next((cell for cell in cells if (cell["metric"], cell["label"]) == (metric, label)), None)
            if cell is None:
                line += ["", ""]
                continue
            difference = "baseline" if cell["difference"] is None else interval_text(cell["difference"], "+")
            line += [interval_text(cell["estimate"]), difference]
        context = table["context"][suite][label]
        body.append([*line, tokens_text(context["mean_length"]), f"{100 * context['truncated_fraction']:.1f} %"])
    decoding = table["context"][suite][table["baseline"]]["decoding"]
    settings = ", ".join(f"{name} {value:g}" for name, value in decoding.items() if value is not None)
    title = f"{suite} ({settings}): percent with {level} intervals over problems, paired differences in points"
    return {"title": title, "header": header, "body": body}


def _last_metrics(stage: StageView) -> list[tuple[str, str]]:
    """Every metric of the last step that has it, time and memory last."""
    last: dict[str, Any] = {}
    for record in stage.metrics:
        last |= record
    names = sorted(last, key=lambda name: (name != "step", is_time_field(name)))
    return [
        (name, format_number(last[name]) if isinstance(last[name], int | float) else str(last[name])) for name in names
    ]


def _completions(stage: StageView) -> list[dict[str, Any]]:
    """A few completions of the first and the last step, or of each suite of an evaluation."""
    files = completion_files(stage.directory / "completions")
    steps = dict.fromkeys([min(files), max(files)]) if files else {}
    shown = {f"step {step}": read_parquet(files[step]) for step in steps}
    if stage.results:
        shown |= {suite: rows for suite in stage.results["suites"] if (rows := _suite_samples(stage.directory / suite))}
    if stage.rollouts:
        shown["samples"] = [
            {**row, "prompt": row.get("prompt") or row["problem"]}
            for row in read_records(stage.directory / "examples.jsonl")
        ]
    return [{"title": title, "samples": [_sample(row) for row in pick(rows)]} for title, rows in shown.items()]


def _suite_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of a suite, each with its problem's prompt and answer, by problem."""
    problems = {row["id"]: (place, row) for place, row in enumerate(read_records(folder / "problems.jsonl"))}
    rows = [row for row in read_records(folder / "samples.jsonl") if row["id"] in problems]
    rows.sort(key=lambda row: (problems[row["id"]][0], row["metric"] != "sample", row["index"]))
    return [{**row, **{name: problems[row["id"]][1].get(name) for name in ("prompt", "answer")}} for row in rows]


def pick(rows: Sequence[Mapping[str, Any]], count: int = SAMPLES_SHOWN) -> list[Mapping[str, Any]]:
    """A few rows that differ in verdict: the first of each verdict, then the next of each."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row.get("verdict"), []).append(row)
    ordered = sorted(groups.values(), key=len, reverse=True)
    rounds = [group[turn] for turn in range(count) for group in ordered if turn < len(group)]
    return rounds[:count]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = []
    for name in ("verdict", "reward", "score", "advantage", "length", "finish_reason", "extracted", "answer", "id"):
        value = row.get(name)
        if value is not None:
            facts.append(
                (name.replace("_", " "), format_number(value) if isinstance(value, int | float) else str(value))
            )
    return {
        "facts": facts,
        "verdict": str(row.get("verdict") or ""),
        "prompt": shorten(prompt_text(row.get("prompt"))),
        "text": shorten(str(row.get("text") or "")),
        "play": None if (view := play_view(row)) is None else page_view(view),
    }


def prompt_text(prompt: Any) -> str:
    """A prompt column as text: text as it is, messages as `role: content`."""
    if isinstance(prompt, list):
        return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return "" if prompt is None else str(prompt)


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and end with the number of characters left out between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def environment_rows(environment: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The environment record as dotted names and values, nested mappings opened."""
    rows: list[tuple[str, str]] = []
    for name, value in environment.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows += environment_rows(value, f"{key}.")
        else:
            rows.append((key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows
