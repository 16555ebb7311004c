"""A stage module for tests: counts to max_steps, saves a checkpoint a step, and resumes from the newest one.

What it makes depends on its learning rate, its seed and its input model, as a training's weights do. Environment
variables make it misbehave: COUNT_SLEEP (seconds a step), COUNT_HANG_AT (sleep for good in that step), COUNT_KILL_AT
(kill -9 in that step), COUNT_FAIL_AT (raise in that step), COUNT_DEAF (never asks whether to stop), COUNT_QUIET (prints
nothing), COUNT_LOG (a file that gets one line per step actually done), COUNT_HOLD (`RUN STAGE FILE`: that stage of that
run waits for the file), COUNT_IN (the run that COUNT_FAIL_AT and COUNT_KILL_AT are meant for; default every one).
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

from reasonrl.pipeline.context import StageContext, StageResult


def _number(name: str) -> float:
    return float(os.environ.get(name, "0"))


def _is_meant(context) -> bool:
    return os.environ.get("COUNT_IN", context.run_directory.name) == context.run_directory.name


def _hold(context) -> None:
    run, stage, file = os.environ.get("COUNT_HOLD", "- - -").split(" ", 2)
    while (run, stage) == (context.run_directory.name, context.name) and not Path(file).exists():
        context.raise_if_stopping()
        time.sleep(0.02)


def _weights(config, context) -> str:
    source = (
        config.model if isinstance(config.model, str) else Path(context.model_of(config.model), "weights").read_text()
    )
    return hashlib.sha256(f"{source} {config.learning_rate} {context.seed}".encode()).hexdigest()


def _load(context, config) -> tuple[int, str]:
    saved = sorted(context.directory.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if not saved:
        return 0, _weights(config, context)
    assert context.resuming, "a fresh stage must find no checkpoints"
    return int(saved[-1].name.split("-")[1]), (saved[-1] / "weights").read_text()


def _save(folder: Path, weights: str) -> Path:
    staging = folder.with_name(f"staging-{folder.name}")
    staging.mkdir(exist_ok=True)
    (staging / "weights").write_text(weights)
    if folder.exists():
        (folder / "weights").unlink()
        folder.rmdir()
    staging.rename(folder)
    return folder


def run(config, context: StageContext) -> StageResult:
    step, weights = _load(context, config)
    if context.world_size > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo")
    while step < config.max_steps:
        if "COUNT_DEAF" not in os.environ:
            context.raise_if_stopping()
        _hold(context)
        step += 1
        time.sleep(3600 if step == _number("COUNT_HANG_AT") else _number("COUNT_SLEEP"))
        if step == _number("COUNT_KILL_AT") and _is_meant(context):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == _number("COUNT_FAIL_AT") and _is_meant(context):
            raise ValueError(f"step {step} went wrong on rank {context.rank}")
        weights = hashlib.sha256(f"{weights} {step} {_reduced(context)}".encode()).hexdigest()
        if context.is_main:
            with open(os.environ.get("COUNT_LOG", os.devnull), "a") as log:
                log.write(f"{context.run_directory.name} {context.name} {step}\n")
            _save(context.directory / f"checkpoint-{step}", weights)
        context.report_progress(step, config.max_steps)
        if "COUNT_QUIET" in os.environ:
            continue
        print(f"rank {context.rank} of {context.world_size} did step {step}", flush=True)
    total = _reduced(context)
    if not context.is_main:
        return StageResult()
    model = _save(context.directory / "model", weights)
    checkpoints = {count: context.directory / f"checkpoint-{count}" for count in range(1, step + 1)}
    return StageResult(model=model, metrics={"steps": step, "sum": total}, checkpoints=checkpoints)


def _reduced(context: StageContext) -> float:
    """1 + 2 + … over ranks; every rank must take part, so only called where all do."""
    if context.world_size == 1:
        return 1.0
    import torch
    import torch.distributed as dist

    value = torch.tensor([float(context.rank + 1)])
    dist.all_reduce(value)
    return float(value.item())


def dry_run(config, context: StageContext) -> list[str]:
    return [f"would count to {config.max_steps}"]


def resume_point(directory: Path) -> str | None:
    steps = [int(path.name.split("-")[1]) for path in directory.glob("checkpoint-*")]
    return f"step {max(steps)}" if steps else None
