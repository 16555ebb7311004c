"""Stage kind `compare`: evaluations side by side, with paired differences to a baseline."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.gate import failures

if TYPE_CHECKING:
    from reasonrl.recipe import CompareStage

DEPENDS_ON_SEED = False

_log = logging.getLogger("reasonrl.pipeline")


def run(config: CompareStage, context: StageContext) -> StageResult:
    """Writes `table.md`, `table.csv`, `table.json` and `table.png` and says the table.

    Returns:
        The figures by `<suite>/<row>/<metric>`; `data` is the `table.json`.

    Raises:
        RunError: a row is no finished evaluation, or its problems are not the baseline's.
    """
    from reasonrl.eval.compare import compare_evaluations, write_comparison
    from reasonrl.eval.tables import format_table

    comparison = compare_evaluations(evaluation_rows(config, context), config.baseline, confidence=config.confidence)
    failed = failures({gate.stage: context.data_of(gate) for gate in config.gates})
    comparison = replace(comparison, notes=(*failed, *comparison.notes))
    write_comparison(comparison, context.directory)
    _log.info("\n%s", format_table(comparison))
    return StageResult(metrics=comparison.metrics_flat(), data=context.directory / "table.json")


def dry_run(config: CompareStage, context: StageContext) -> list[str]:
    """Which rows the table would have."""
    rows = ", ".join(f"{label} ({reference})" for label, reference in config.rows.items())
    return [f"table of {rows}; differences to {config.baseline}, {100 * config.confidence:g} % intervals by problem"]


def evaluation_rows(config: CompareStage, context: StageContext) -> dict[str, Path]:
    """The folder of each row's evaluation, wherever it lies (a study shares equal stages between its runs).

    Raises:
        RunError: a referenced stage is no evaluation.
    """
    folders = {}
    for label, reference in config.rows.items():
        data = context.result_of(reference).data
        if data is None or data.name != "results.json":
            fix = "name a stage of kind eval or prm_eval"
            raise RunError(f"row {label!r} is {reference}, which is no evaluation -> {fix}")
        folders[label] = data.parent
    return folders
