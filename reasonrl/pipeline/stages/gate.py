"""Stage kind `gate`: figures, and whether they lie where they must before a comparison says anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, StageFailed
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.files import read_json, write_json

if TYPE_CHECKING:
    from reasonrl.recipe.gate_stage import GateStage

DEPENDS_ON_SEED = False
RECORD = "gate.json"


def run(config: GateStage, context: StageContext) -> StageResult:
    """Writes `gate.json` and says what failed.

    Returns:
        The figures, and `passed` (1 or 0); `data` is the `gate.json`.

    Raises:
        StageFailed: the gate failed and `stop` is set.
        DataError: the rows cannot be measured, or a figure that is looked at is not there.
    """
    figures, expected = _figures(config, context)
    checks = checks_of(config, figures, expected)
    record = {
        "format": 1,
        "passed": all(check["passed"] for check in checks),
        "checks": checks,
        "figures": figures,
        "expected": expected,
    }
    write_json(context.directory / RECORD, record)
    for check in checks:
        context.say(_line(check))
    failed = failure_of(record)
    if failed is not None:
        context.say(f"WARNING: gate {context.name!r} failed: {failed}")
        if config.stop:
            raise StageFailed(
                f"gate {context.name!r} failed: {failed} -> mend what is measured, or set stop: false to go on untested"
            )
    return StageResult(metrics={"passed": float(record["passed"] is True), **figures}, data=Path(RECORD))


def dry_run(config: GateStage, context: StageContext) -> list[str]:
    """What would be looked at."""
    source = config.results or config.data
    what = f"figures of {source}" if config.figures is None else f"{config.figures} of the rows"
    names = ", ".join(dict.fromkeys([*config.bounds, *config.within]))
    return [f"gate on {what}: {names}" + ("; a failure ends the run" if config.stop else "")]


def _figures(config: GateStage, context: StageContext) -> tuple[dict[str, float], dict[str, float] | None]:
    if config.results is not None:
        made = context.result_of(config.results).metrics
        return {name: float(value) for name, value in made.items() if isinstance(value, (int, float))}, None
    from reasonrl.pipeline.stages.common import load_source

    assert config.data is not None and config.figures is not None, "the schema asks for both"
    rows = load_source(config.data, context, ("problem",)).rows
    found = _measure(config.figures, context)(rows, **config.args)
    figures, expected = found if isinstance(found, tuple) else (found, None)
    return dict(figures), None if expected is None else dict(expected)


def _measure(name: str, context: StageContext) -> Any:
    from reasonrl.data_tools.worlds import MEASURES
    from reasonrl.plugins import is_file_reference, load_from_file

    if is_file_reference(name):
        return load_from_file(name, context.base_directory, error=DataError)
    return MEASURES[name]


def checks_of(
    config: GateStage, figures: Mapping[str, float], expected: Mapping[str, float] | None
) -> list[dict[str, Any]]:
    """One entry a figure that is looked at: name, value, low, high, expected, passed. A figure that the measure knows
    and nothing counts for has no value, and fails.

    Raises:
        DataError: a figure is not there, or nothing is expected of one of `within`.
    """
    checks = []
    for name in dict.fromkeys([*config.bounds, *config.within]):
        if name not in figures and name not in (expected or {}):
            raise DataError(f"gate: there is no figure {name!r} -> one of {', '.join(figures) or 'none'}")
        low, high = config.bounds.get(name, (None, None))
        wanted = None if expected is None else expected.get(name)
        if name in config.within:
            if wanted is None:
                raise DataError(f"gate: the measure expects nothing of {name!r} -> write bounds for it")
            low = max(-math.inf if low is None else low, wanted - config.within[name])
            high = min(math.inf if high is None else high, wanted + config.within[name])
        value = figures.get(name)
        passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
        checks.append(
            {"name": name, "value": value, "low": low, "high": high, "expected": wanted, "passed": bool(passed)}
        )
    return checks


def failure_of(record: Mapping[str, Any]) -> str | None:
    """What failed of a `gate.json` in words, `not tested: …`; None if it passed."""
    failed = [_line(check) for check in record["checks"] if not check["passed"]]
    return f"not tested: {'; '.join(failed)}" if failed else None


def failures(folders: Mapping[str, Path]) -> list[str]:
    """Notes for a table about the failed ones of some gates, by name: their `gate.json`."""
    found: Iterable[tuple[str, str | None]] = ((name, failure_of(read_json(path))) for name, path in folders.items())
    return [f"gate {name!r} failed, so this is {failed}" for name, failed in found if failed is not None]


def _line(check: Mapping[str, Any]) -> str:
    low, high = check["low"], check["high"]
    allowed = f"{'any' if low is None else f'{low:.4g}'} to {'any' if high is None else f'{high:.4g}'}"
    expected = "" if check["expected"] is None else f" (expected {check['expected']:.4g})"
    value = "nothing, for nothing counts for it" if check["value"] is None else f"{check['value']:.4g}"
    return f"{check['name']} is {value}, allowed {allowed}{expected}"
