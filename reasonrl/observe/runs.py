"""Looking over run directories from the terminal: list them, follow one, compare several."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.observe.metrics import format_number, format_seconds, step_line
from reasonrl.observe.report import headline_figures, interval_text
from reasonrl.observe.rundir import RunView, StageView, find_runs
from reasonrl.observe.tables import table
from reasonrl.observe.trackers import flatten

POLL_SECONDS = 0.5


def _age(run: RunView) -> str:
    """Time since something was last written to the run."""
    files = [run.directory / "config.yaml"]
    for stage in run.stages:
        files += [stage.directory / name for name in ("done.json", "metrics.jsonl", "results.json", "clock.json")]
    times = [path.stat().st_mtime for path in files if path.exists()]
    if not times:
        return ""
    seconds = max(0.0, time.time() - max(times))
    return (
        f"{seconds / 86_400:.0f} d" if seconds >= 2 * 86_400 else format_seconds(round(seconds)).replace(".0 s", " s")
    )


def list_runs(root: str | Path) -> str:
    """A table of the runs at or below `root`: run, recipe, stages with their state, steps, last figures, time since the
    last write.

    Returns:
        The table as text; a sentence if there is no run.
    """
    folder = Path(root)
    found = find_runs(folder)
    if not found:
        return f"no runs under {folder}"
    body = []
    for path in found:
        run = RunView(path)
        stages = _states(run)
        trained = [stage for stage in run.stages if stage.metrics]
        figures: list[tuple[str, str]] = []
        for stage in run.stages:
            figures = headline_figures(stage)[:2] or figures
        name = str(path.relative_to(folder)) if path != folder else path.name
        steps = f"{trained[-1].metrics[-1]['step']:,}" if trained else ""
        body.append([name, run.recipe, stages, steps, ", ".join(f"{key} {value}" for key, value in figures), _age(run)])
    return table(["run", "recipe", "stages", "steps", "last figures", "age"], body)


def _states(run: RunView) -> str:
    """`5 done`, or the stages that are not and how many are: `rl unfinished, exam waiting (2 of 4 done)`."""
    left = [f"{stage.name} {stage.state}" for stage in run.stages if stage.state != "done"]
    finished = len(run.stages) - len(left)
    if not left:
        return f"{finished} done"
    more = f", {len(left) - 2} more" if len(left) > 2 else ""
    return f"{', '.join(left[:2])}{more} ({finished} of {len(run.stages)} done)"


def _metrics_file(path: Path) -> Path:
    """The metrics file to show: of a run, that of the stage written last."""
    if path.is_file():
        return path
    if (path / "metrics.jsonl").exists():
        return path / "metrics.jsonl"
    files = [file for stage in RunView(path).stages if (file := stage.directory / "metrics.jsonl").exists()]
    if not files:
        raise RunError(f"{path} has no metrics yet: no training stage has finished a step -> try again later")
    return max(files, key=lambda file: file.stat().st_mtime)


def tail_run(path: str | Path, lines: int = 10, follow: bool = False) -> Iterator[str]:
    """The last readable step lines of a run's current stage; with `follow`, every new one as it is written.

    Args:
        path: a run directory, a stage directory or a metrics file.
        lines: how many lines to begin with.
        follow: go on until the caller stops; a stage that starts later is followed too, and a run that was resumed
            (whose file was cut back) is followed from there.

    Raises:
        RunError: no run directory, or no metrics yet.
        DataError: the metrics file is damaged.
    """
    from reasonrl.observe.metrics import read_metrics

    target = Path(path)
    file = _metrics_file(target)
    yield f"{_stage_name(file)}:"
    records = read_metrics(file)
    for record in records[len(records) - lines :] if lines < len(records) else records:
        yield step_line(record)
    last = records[-1]["step"] if records else None
    while follow:
        time.sleep(POLL_SECONDS)
        newest = _metrics_file(target)
        if newest != file:
            file, last = newest, None
            yield f"{_stage_name(file)}:"
        records = read_metrics(file)
        if last is not None and (not records or records[-1]["step"] < last):
            last = records[-1]["step"] if records else None
            yield f"(resumed after step {last})" if last is not None else "(started anew)"
        for record in records:
            if last is None or record["step"] > last:
                yield step_line(record)
        last = records[-1]["step"] if records else None


def _stage_name(file: Path) -> str:
    return file.parent.name


def compare_runs(paths: Sequence[str | Path]) -> str:
    """Runs side by side: final figures of every stage, evaluations with their intervals, and the config keys that
    differ.

    Raises:
        RunError: no path, or one that is no run directory.
    """
    if not paths:
        raise RunError("there is nothing to compare -> name at least one run directory")
    runs = [RunView(path) for path in paths]
    names = _distinct_names([run.directory for run in runs])
    rows: dict[str, list[str]] = {}
    for position, run in enumerate(runs):
        for stage in run.stages:
            for name, text in _figures(stage):
                rows.setdefault(f"{stage.name}: {name}", [""] * len(runs))[position] = text
    parts = [
        table(["figure", *names], [[name, *values] for name, values in rows.items()]) if rows else "no figures yet"
    ]
    differing = _differing_config([run.config for run in runs])
    if len(runs) > 1:
        parts.append(
            table(["config key that differs", *names], differing) if differing else "the composed recipes are equal"
        )
    return "\n\n".join(parts)


def _figures(stage: StageView) -> list[tuple[str, str]]:
    """State, time and final figures of one stage."""
    found = [("state", stage.state)]
    if stage.metrics:
        found.append(("steps", f"{stage.metrics[-1]['step']:,}"))
    if (seconds := stage.seconds("wall")) is not None:
        found.append(("time", format_seconds(seconds)))
    if (seconds := stage.seconds("cpu")) is not None:
        found.append(("CPU time", format_seconds(seconds)))
    found += headline_figures(stage)
    if stage.results:
        for suite, entry in stage.results["suites"].items():
            found += [
                (f"{suite} pass@{k}", interval_text(interval)) for k, interval in entry["pass@k"].items() if k != "1"
            ]
            if entry["mean_length"] is not None:
                found.append((f"{suite} tokens", format_number(entry["mean_length"])))
    for cell in stage.table.get("cells", []):
        if cell["difference"] is not None:
            name = f"{cell['suite']} {cell['metric']}, {cell['label']} - {stage.table['baseline']}"
            found.append((name, interval_text(cell["difference"], "+")))
    return found


def _distinct_names(directories: Sequence[Path]) -> list[str]:
    """The shortest trailing parts of the paths that tell them apart."""
    for depth in range(1, max(len(path.absolute().parts) for path in directories)):
        names = ["/".join(path.absolute().parts[-depth:]) for path in directories]
        if len(set(names)) == len(set(directories)):
            return names
    return [str(path) for path in directories]


def _differing_config(configs: Sequence[dict[str, Any]]) -> list[list[str]]:
    flat = [flatten(config) for config in configs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    missing = object()
    rows = []
    for key in keys:
        values = [one.get(key, missing) for one in flat]
        if any(value != values[0] for value in values[1:]):
            rows.append([key, *("" if value is missing else str(value) for value in values)])
    return rows
