"""What a stage is given (`StageContext`) and what it hands back (`StageResult`)."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted, RunError
from reasonrl.observe.phases import step_done
from reasonrl.pipeline.progress import SilentProgress, StageClock
from reasonrl.pipeline.signals import StopFlag

if TYPE_CHECKING:
    from reasonrl.pipeline.progress import ProgressReporter
    from reasonrl.recipe import DataSource, LaunchConfig, Reference

_log = logging.getLogger("reasonrl.pipeline")


@dataclass(frozen=True)
class StageResult:
    """The product of a finished stage.

    A stage fills in paths under its own directory (absolute, or relative to it); in `done.json` they stand relative to
    that directory, and
    `StageContext.result_of` gives them back absolute.

    Attributes:
        model: folder of the final model, loadable by `from_pretrained`.
        critic: folder of the final critic.
        data: file or folder of rows this stage made.
        metrics: final figures by name; anything that JSON can hold.
        cpu_seconds: CPU time over all processes and all attempts; leave 0 to let the runner fill in what it measured.
        wall_seconds: time on the clock, likewise.
        checkpoints: saved models by step, for `${stage:NAME@step=N}` and `${stage:NAME@all}`.
    """

    model: Path | None = None
    critic: Path | None = None
    data: Path | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    checkpoints: Mapping[int, Path] = field(default_factory=dict)

    def to_json(self, directory: Path) -> dict[str, Any]:
        """As plain JSON, with every path relative to `directory` (a path outside it stays absolute)."""
        return {
            "model": _relative(self.model, directory),
            "critic": _relative(self.critic, directory),
            "data": _relative(self.data, directory),
            "metrics": {name: _strict(value) for name, value in self.metrics.items()},
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "checkpoints": {str(step): _relative(path, directory) for step, path in sorted(self.checkpoints.items())},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], directory: Path) -> StageResult:
        """The inverse of `to_json`; paths come back absolute.

        Raises KeyError, TypeError or ValueError on a record of another shape.
        """
        return cls(
            model=_absolute(record["model"], directory),
            critic=_absolute(record["critic"], directory),
            data=_absolute(record["data"], directory),
            metrics=dict(record["metrics"]),
            cpu_seconds=float(record["cpu_seconds"]),
            wall_seconds=float(record["wall_seconds"]),
            checkpoints={int(step): directory / path for step, path in record["checkpoints"].items()},
        )


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as text, as in `metrics.jsonl`."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _relative(path: Path | None, directory: Path) -> str | None:
    if path is None:
        return None
    absolute = directory / path
    return absolute.relative_to(directory).as_posix() if absolute.is_relative_to(directory) else str(absolute)


def _absolute(path: str | None, directory: Path) -> Path | None:
    return None if path is None else directory / path


@dataclass(frozen=True)
class StageContext:
    """Everything a stage module may know besides its own config.

    Attributes:
        name: instance name: `train`, or `train.2` for the second pass of a loop.
        directory: `<run>/stages/<name>`, existing and writable (in a dry run it need not exist, and nothing may be
            written).
        recipe_name: the recipe's `recipe:`.
        seed: the recipe's seed.
        run_directory: the run's folder.
        base_directory: the folder of the recipe file; what `file.py:function` is relative to.
        launch: how this stage is started.
        resuming: the directory holds a half-done (or grown) stage of the same identity, to be carried on.
        report_to: trackers to report to.
        results: results of the stages that are done, by instance name.
        progress: where progress goes; use `report_progress`.
        stop: set when the run was asked to stop; use `should_stop`.
        clock: CPU and wall time of this stage over all its attempts.
        say: takes a line for the user.
        rank, world_size: this process among those of a launched stage; 0 and 1 in process.
        dry: this is a dry run.
    """

    name: str
    directory: Path
    recipe_name: str
    seed: int
    run_directory: Path
    launch: LaunchConfig
    base_directory: Path = field(default_factory=Path.cwd)
    resuming: bool = False
    report_to: tuple[str, ...] = ()
    results: Mapping[str, StageResult] = field(default_factory=dict)
    progress: ProgressReporter = field(default_factory=SilentProgress)
    stop: StopFlag = field(default_factory=StopFlag)
    clock: StageClock = field(default_factory=StageClock)
    say: Callable[[str], None] = _log.info
    rank: int = 0
    world_size: int = 1
    dry: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def should_stop(self) -> bool:
        """Whether the run was asked to stop (Ctrl-C, SIGTERM): save, then call `raise_if_stopping`.

        With several ranks this is a collective call, so that all of them stop at the same point: every rank must call
        it, at the same
        places (a `TrainerCallback` does), and never between the first and last sample of a rollout.
        """
        step_done()  # a trainer asks once a step
        asked = self.stop.is_set()
        return _any_rank(asked) if self.world_size > 1 else asked

    def raise_if_stopping(self) -> None:
        """Raise `Interrupted` if `should_stop()`; to be called at a safe point, once what must survive is saved."""
        if self.should_stop():
            raise Interrupted(f"stage {self.name!r} stopped at a safe point")

    def report_progress(self, done: float, total: float | None = None, unit: str = "steps", note: str = "") -> None:
        """Say how far the stage is (cheap: may be called every step); only the main rank's calls show.

        Args:
            done: units finished, counted from the stage's very start, not from where it was resumed.
            total: units in all; None if unknown (no time left is shown then).
            unit: what is counted.
            note: a few words: what is being done or waited for.
        """
        if self.is_main:
            self.progress.report(done, total, unit, note)
            self.clock.save_now_and_then()

    def cpu_seconds(self) -> float:
        """CPU seconds this process and its finished children spent in this stage so far, earlier attempts included."""
        return self.clock.cpu_seconds()

    def is_available(self, value: str | Reference | DataSource | None) -> bool:
        """Whether `value` needs no stage that is still to run: strings and files always, what a stage makes once it is
        done.
        """
        stage = getattr(getattr(value, "path", value), "stage", None)
        return stage is None or stage in self.results

    def result_of(self, reference: Reference) -> StageResult:
        """The result of the stage a reference names, paths absolute.

        Raises RunError if that stage is not done.
        """
        if reference.stage not in self.results:
            done = ", ".join(self.results) or "none"
            raise RunError(
                f"stage {self.name!r} needs stage {reference.stage!r}, which is not done (done: {done}) -> run it first"
            )
        return self.results[reference.stage]

    def model_of(self, value: str | Reference) -> str:
        """The path or hub id a `model` field stands for: strings as they are; references as the folder of their model,
        critic or checkpoint.

        Raises RunError if the stage is not done, made no such model, has no checkpoint of that step, or the folder is
        gone.
        """
        if isinstance(value, str):
            return value
        result = self.result_of(value)
        if value.step == "all":
            raise RunError(
                f"stage {self.name!r} needs one model, but {value} names all checkpoints -> name one with @step=N"
            )
        if value.step is not None:
            if value.step not in result.checkpoints:
                steps = ", ".join(map(str, sorted(result.checkpoints))) or "none"
                raise RunError(
                    f"stage {value.stage!r} has no checkpoint of step {value.step} (kept: {steps}) "
                    "-> name one of these, or raise its save_total_limit"
                )
            return self._existing(result.checkpoints[value.step], value)
        made = result.critic if value.part == "critic" else result.model
        if made is None:
            raise RunError(
                f"stage {value.stage!r} made no {value.part or 'model'}, which stage {self.name!r} needs as {value}"
            )
        return self._existing(made, value)

    def data_of(self, reference: Reference) -> Path:
        """The rows a referenced stage made. Raises RunError if it is not done, made none, or they are gone."""
        made = self.result_of(reference).data
        if made is None:
            raise RunError(
                f"stage {reference.stage!r} made no data, which stage {self.name!r} asks for with {reference}"
            )
        return Path(self._existing(made, reference))

    def _existing(self, path: Path, reference: Reference) -> str:
        if not path.exists():
            raise RunError(
                f"{path} is gone, but stage {self.name!r} needs it ({reference}) -> put it back, or make it again with "
                f"--restart-stage {reference.stage}"
            )
        return str(path)


def _any_rank(value: bool) -> bool:
    """Whether `value` is true on any rank; a collective call."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    on_gpu = dist.get_backend() == "nccl"
    flag = torch.tensor([float(value)], device=f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item() > 0)
