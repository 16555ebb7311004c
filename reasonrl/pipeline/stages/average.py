"""Stage kind `average`: one model out of several checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.files import sync_directory
from reasonrl.recipe.references import Reference

if TYPE_CHECKING:
    from reasonrl.models.averaging import Average
    from reasonrl.recipe.average_stage import AverageStage

DEPENDS_ON_SEED = False
_STAGING = ".model.partial"


def run(config: AverageStage, context: StageContext) -> StageResult:
    """Writes `model/`; goes on after the files that are there.

    Returns:
        The model, and how many were averaged and how far apart they lie.

    Raises:
        ModelError: the models do not fit together. RunError: one is not there.
    """
    staging, target = context.directory / _STAGING, context.directory / "model"
    if not context.resuming:
        shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(exist_ok=True)
    average = _average(config, context)
    try:

        def report(done: int, total: int) -> None:
            context.report_progress(done, total, "files")
            context.raise_if_stopping()

        made = average.write(staging, report=report)
        context.say(f"mean of {len(average.folders)} models: {made.numbers:,} numbers; spread {made.spread:.3g}")
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
        sync_directory(context.directory)
    finally:
        average.close()
    counts = {"models": len(average.folders), "tensors": made.tensors, "numbers": made.numbers}
    return StageResult(model=Path("model"), metrics={**counts, "spread": made.spread})


def dry_run(config: AverageStage, context: StageContext) -> list[str]:
    """What would be averaged, and how much it is."""
    how = f"moving average, decay {config.ema:g}" if config.ema is not None else "mean"
    names = ", ".join(map(str, config.models))
    weights = "" if config.weights is None else f" with weights {', '.join(f'{one:g}' for one in config.weights)}"
    lines = [f"{how} of {names}{weights}"]
    wanted = [*config.models, *(() if config.base is None else (config.base,))]
    if not all(context.is_available(model) for model in wanted):
        return lines
    average = _average(config, context)
    average.close()
    kind = "models" if average.adapters is None else "LoRA adapters"
    return [*lines, f"{len(average.folders)} {kind}, {average.numbers():,} numbers in {len(average.shards)} files"]


def resume_point(directory: Path) -> str | None:
    """How many files are there."""
    files = len(list((directory / _STAGING).glob("*.safetensors")))
    return f"{files} files" if files else None


def _average(config: AverageStage, context: StageContext) -> Average:
    from reasonrl.models.averaging import Average, adapter_base, ema_weights, is_adapter

    folders = [folder for model in config.models for folder in _folders(model, context)]
    weights: list[float] | None = None if config.weights is None else list(config.weights)
    if config.ema is not None:
        weights = ema_weights(len(folders), config.ema)
    base: str | None = None if config.base is None else context.model_of(config.base)
    if base is None and is_adapter(folders[0]):
        base = adapter_base(folders[0])
    return Average(folders, weights, None if base is None else _folder(base))


def _folders(model: str | Reference, context: StageContext) -> list[Path]:
    if not isinstance(model, Reference) or model.step != "all":
        return [_folder(context.model_of(model))]
    kept = context.result_of(model).checkpoints
    if not kept:
        raise RunError(f"stage {model.stage!r} kept no checkpoints, so {model} names none -> set its save_total_limit")
    return [kept[step] for step in sorted(kept)]


def _folder(name: str) -> Path:
    from reasonrl.models import resolve_model

    path = Path(resolve_model(name))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    patterns: dict[str, Any] = {"allow_patterns": ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]}
    return Path(snapshot_download(name, **patterns))
