"""One process of a launched stage, started by `accelerate launch`.

`python -m reasonrl.pipeline.worker RUN_DIRECTORY STAGE`
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from reasonrl.errors import Interrupted, ReasonRLError, RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.directory import CLOCK, CONFIG, RunDirectory
from reasonrl.pipeline.files import read_json, write_json
from reasonrl.pipeline.heartbeat import start_heartbeat
from reasonrl.pipeline.launch import FAILURE, ORDER, RESULT, config_digest
from reasonrl.pipeline.lock import is_alive
from reasonrl.pipeline.progress import LineProgress, StageClock, logs_said
from reasonrl.pipeline.signals import STOP_FILE, StopFlag
from reasonrl.pipeline.stages import as_stage


def main(run_directory: str, stage: str) -> None:
    """Rebuild the stage's config and context from the run directory, run it, and let rank 0 write its result.

    A stage that was asked to stop ends without a result and with exit status 0.
    """
    run = RunDirectory(Path(run_directory))
    directory = run.stage(stage).path
    order = read_json(directory / ORDER)
    end_with(order["parent"])
    heartbeat = start_heartbeat(int(os.environ["RANK"]))
    stop = StopFlag(directory / STOP_FILE)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: _asked(stop, number, frame))
    config, context = rebuild(run, stage, order, stop)
    try:
        with logs_said(context.say):
            result = as_stage(importlib.import_module(order["module"])).run(config, context)
    except Interrupted:
        return
    except Exception as error:
        text = str(error) if isinstance(error, ReasonRLError) else f"{type(error).__name__}: {error}"
        failure = {"rank": context.rank, "at": time.time(), "error": text}
        write_json(directory / f"{FAILURE}{context.rank}.json", {**failure, "traceback": traceback.format_exc()})
        raise
    finally:
        _leave_group()
    if heartbeat is not None:
        heartbeat.finish()
    if context.is_main:
        write_json(directory / RESULT, result.to_json(directory))


def _asked(stop: StopFlag, number: int, frame: FrameType | None) -> None:
    stop.set(number)


def rebuild(run: RunDirectory, stage: str, order: dict[str, Any], stop: StopFlag) -> tuple[Any, StageContext]:
    """A stage's config and context, from `config.yaml`, the other stages' `done.json`, and the launcher's order."""
    from reasonrl.recipe import expand_stages, load_recipe

    recipe = load_recipe(run.path / CONFIG, base_directory=order["base_directory"]).recipe
    results: dict[str, StageResult] = {}
    for instance in expand_stages(recipe):
        if instance.name != stage:
            done = run.stage(instance.name).read_done()
            if done is not None:
                results[instance.name] = done.result
            continue
        if config_digest(instance.config) != order["config"]:
            raise RunError(f"stage {stage!r} reads back differently from {run.path / CONFIG} -> start the run again")
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        directory = run.stage(stage).path
        context = StageContext(
            name=stage,
            directory=directory,
            recipe_name=recipe.recipe,
            seed=recipe.seed,
            run_directory=run.path,
            launch=instance.config.launch,
            base_directory=Path(order["base_directory"]),
            resuming=bool(order["resuming"]),
            report_to=tuple(recipe.report_to),
            results=results,
            progress=LineProgress(_print, stage),
            stop=stop,
            clock=StageClock(directory / CLOCK, processes=world_size),
            say=_print,
            rank=rank,
            world_size=world_size,
        )
        return instance.config, context
    raise RunError(f"{run.path / CONFIG} has no stage {stage!r}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def end_with(parent: Any) -> None:
    """Let this process die within about a second of the run that launched it: orphans must not go on writing."""

    def watch() -> None:
        while is_alive(parent):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _leave_group() -> None:
    """Leave torch's process group, if the stage joined one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
