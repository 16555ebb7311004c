"""Walking a recipe: plan, lock, run what is to be run, say so, stop when asked, report at the end."""

from __future__ import annotations

import logging
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted, NothingLeft, ReasonRLError, StageFailed
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.directory import CLOCK, RunDirectory, StageRecord, now
from reasonrl.pipeline.engines import require_engines
from reasonrl.pipeline.environment import versions
from reasonrl.pipeline.files import write_text
from reasonrl.pipeline.launch import kill_children, launch_stage, needs_launch
from reasonrl.pipeline.lock import run_lock, wait_for_orphans
from reasonrl.pipeline.machines import dismiss_machines, welcome_machines
from reasonrl.pipeline.planning import ANEW, CARRIED_ON, Action, Peers, PlannedStage, plan_run
from reasonrl.pipeline.progress import LineProgress, StageClock, duration, logs_said
from reasonrl.pipeline.signals import StopFlag, stop_on_signals
from reasonrl.pipeline.stages import as_stage, resume_point, stage_module

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

Say = Callable[[str], None]
FAILURE = "failure.txt"
LAUNCHER = "launcher.json"
REPORT = "report.html"
_log = logging.getLogger("reasonrl.pipeline")


@dataclass(frozen=True)
class StageSummary:
    """What became of a stage: the action taken, and its result."""

    name: str
    kind: str
    action: Action
    seconds: float
    result: StageResult


@dataclass(frozen=True)
class RunSummary:
    """What a call of `train` did.

    Attributes:
        directory: the run directory.
        stages: in order.
        report: the report's path; None after a dry run.
    """

    directory: Path
    stages: tuple[StageSummary, ...] = ()
    report: Path | None = None

    def __getitem__(self, name: str) -> StageResult:
        """The result of the stage instance `name`. Raises KeyError."""
        return {stage.name: stage.result for stage in self.stages}[name]


def train(
    resolved: ResolvedRecipe,
    *,
    dry_run: bool = False,
    restart_stages: Sequence[str] = (),
    run_directory: Path | None = None,
    peers: Sequence[Path] = (),
    say: Say | None = None,
    command: str | None = None,
    stop: StopFlag | None = None,
    must_train: bool = False,
    shown: dict[str, str] | None = None,
    sources: Mapping[str, Path] | None = None,
) -> RunSummary:
    """Run a recipe, or carry on with what its run directory holds.

    Args:
        resolved: from `load_recipe`.
        dry_run: go through every stage without training; writes nothing.
        restart_stages: stages to make anew; `train` stands for every pass of a looped stage. Their folders are moved
            aside.
        run_directory: default the recipe's `output`.
        peers: run directories whose finished stages may be shared if their keys are equal.
        say: takes each line for the user; default the logger `reasonrl.pipeline`.
        command: what resumes this run, shown when it is stopped; default this process's command line without
            `--restart-stage`.
        stop: set when this run is asked to stop; a study has one for all its runs.
        must_train: a run whose stages are all done already is an error.
        shown: of a study's dry run, the stages that earlier runs have shown (`dry_run.rehearse`).
        sources: in place of `peers`, the one stage folder that each stage may be shared from (`planning.Peers`).

    Raises RunError (nothing was started), Interrupted (asked to stop; everything is saved), StageFailed, or what a
    stage raised.
    """
    from reasonrl.recipe import expand_stages

    say = say or _log.info
    run = RunDirectory(Path(run_directory or resolved.recipe.output).expanduser().absolute())
    instances = expand_stages(resolved.recipe)

    def plan() -> list[PlannedStage]:
        return plan_run(
            instances,
            run,
            seed=resolved.recipe.seed,
            base_directory=resolved.path.parent.absolute(),
            restart=restart_stages,
            peers=Peers(tuple(RunDirectory(path) for path in peers), sources),
        )

    if dry_run:
        from reasonrl.pipeline.dry_run import rehearse

        rehearse(resolved, instances, run, say, restart_stages, shown)
        return RunSummary(run.path)
    run.check_ours()
    if not run.exists():
        require_engines(plan())  # a recipe that cannot be planned leaves no folder behind
    run.create()
    with run_lock(run.path) as taken_over:
        if taken_over:
            say(f"{run.path}: the process that held it is gone; taking over")
        planned = plan()
        require_engines(planned)
        run.write_recipe(resolved)
        walk = _Walk(resolved, run, say, command or resume_command(sys.argv), stop or StopFlag())
        summary = walk.go(planned)
        if not walk.began:
            _nothing_left(f"nothing left to do: all {len(planned)} stages of {run.path} are done", say, must_train)
        return summary


def _nothing_left(text: str, say: Say, must_train: bool) -> None:
    if must_train:
        raise NothingLeft(f"{text} -> raise what may grow (max_steps, n), or choose another `output`")
    say(text)


def resume_command(arguments: Sequence[str]) -> str:
    """The shell command that carries on what `arguments` (a `sys.argv`) began: the same, without `--restart-stage`."""
    words: list[str] = []
    skip = False
    for word in arguments[1:]:
        if skip:
            skip = False
        elif word == "--restart-stage":
            skip = True
        elif not word.startswith("--restart-stage="):
            words.append(word)
    program = Path(arguments[0]).name
    if program == "__main__.py" or program.endswith(".py"):
        return shlex.join([Path(sys.executable).name, *_program_words(arguments[0]), *words])
    return shlex.join([program, *words])


def _program_words(program: str) -> list[str]:
    """How Python was given this program: `-m package`, or the script's path."""
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    if specification is None:
        return [program]
    return ["-m", specification.name.removesuffix(".__main__")]


class _Walk:
    """One pass over the planned stages, holding the run's lock."""

    def __init__(self, resolved: ResolvedRecipe, run: RunDirectory, say: Say, command: str, stop: StopFlag) -> None:
        self.resolved = resolved
        self.run = run
        self.say = say
        self.command = command
        self.stop = stop
        self.results: dict[str, StageResult] = {}
        self.summaries: list[StageSummary] = []
        self.began = False

    def go(self, planned: list[PlannedStage]) -> RunSummary:
        began = time.monotonic()
        anew = [stage.name for stage in planned if stage.action in ANEW]
        if anew:
            self.say(f"to be made anew: {', '.join(anew)} (restarted, or reading what changes); the old are kept")
        status = 1
        welcome_machines()
        with stop_on_signals(self.stop, self.say, kill_children), logs_said(self.say):
            try:
                for number, stage in enumerate(planned, start=1):
                    self._stage(stage, f"[{number}/{len(planned)}] {stage.name} ({stage.kind})")
                    if self.stop.is_set() and number < len(planned):
                        raise self.stop.interrupted(f"after stage {stage.name!r}", self.command)
            except ReasonRLError as error:
                status = error.exit_status
                self._report()  # of what is there: a run that stopped is looked at more, not less
                raise
            finally:
                if len(self.summaries) == len(planned) and not self.stop.is_set():
                    status = 0
                others = max((stage.instance.config.launch.num_machines for stage in planned), default=1) - 1
                dismiss_machines(status, others, self.stop.is_set)
            report = self._report()
        self.say(f"done in {duration(time.monotonic() - began)}: {self.run.path}")
        return RunSummary(self.run.path, tuple(self.summaries), report)

    def _stage(self, stage: PlannedStage, label: str) -> None:
        for note in stage.notes:
            self.say(f"{label}: {note}")
        began = time.monotonic()
        made_already = stage.action in (Action.SKIP, Action.SHARE)
        result = self._reuse(stage, label) if made_already else self._make(stage, label)
        self.results[stage.name] = result
        self.summaries.append(StageSummary(stage.name, stage.kind, stage.action, time.monotonic() - began, result))

    def _reuse(self, stage: PlannedStage, label: str) -> StageResult:
        assert stage.done is not None
        age = f"done {duration(max(stage.done.age_seconds, 0.0))} ago"
        if stage.source is None:
            self.say(f"{label}: skipped ({age})")
            return stage.done.result
        if stage.drop_link:
            stage.directory.set_aside()
        self.say(f"{label}: shared from {stage.source.path} ({age})")
        return stage.directory.link(stage.source).result

    def _make(self, stage: PlannedStage, label: str) -> StageResult:
        directory = stage.directory
        wait_for_orphans(directory.path / LAUNCHER)
        if stage.action in ANEW or stage.drop_link:
            self.say(f"{label}: the old folder is now {directory.set_aside(stage.attempt).name}")
        before = directory.read_stage() if stage.action in CARRIED_ON else None
        record = StageRecord(stage.identity, stage.attempt, before.started if before else now(), versions())
        # A resumed stage keeps the versions it began with: they are what a change is measured against.
        record = replace(record, versions=before.versions) if before else record
        directory.begin(record)
        clock = StageClock(directory.path / CLOCK)
        context = self._context(stage, clock, label)
        self.say(f"{label}: {_verb(stage)}")
        self.began = True
        result = self._run(stage, context, label)
        clock.save()
        filled = replace(
            result,
            cpu_seconds=result.cpu_seconds or clock.cpu_seconds(),
            wall_seconds=result.wall_seconds or clock.wall_seconds(),
        )
        done = directory.finish(record, filled)
        self.say(f"{label}: done in {duration(clock.attempt_seconds())}")
        return StageResult.from_json(done.result.to_json(directory.path), directory.path)

    def _context(self, stage: PlannedStage, clock: StageClock, label: str) -> StageContext:
        recipe = self.resolved.recipe
        return StageContext(
            name=stage.name,
            directory=stage.directory.path,
            recipe_name=recipe.recipe,
            seed=recipe.seed,
            run_directory=self.run.path,
            launch=stage.instance.config.launch,
            base_directory=self.resolved.path.parent.absolute(),
            resuming=stage.action in CARRIED_ON,
            report_to=tuple(recipe.report_to),
            results=dict(self.results),
            progress=LineProgress(self.say, label),
            stop=self.stop,
            clock=clock,
            say=self.say,
        )

    def _run(self, stage: PlannedStage, context: StageContext, label: str) -> StageResult:
        """Run the stage here or in launched processes; a failure is said, kept in `failure.txt` and raised on."""
        config = stage.instance.config
        failure = context.directory / FAILURE
        failure.unlink(missing_ok=True)
        try:
            if needs_launch(config):
                return self._launch(config, context, label)
            return as_stage(stage_module(stage.kind)).run(config, context)
        except Interrupted as error:
            context.clock.save()
            raise self.stop.interrupted(f"in stage {stage.name!r}", self.command) from error
        except Exception as error:
            context.clock.save()
            write_text(failure, "".join(traceback.format_exception(error)))
            self.say(f"{label}: failed after {duration(context.clock.attempt_seconds())}")
            if isinstance(error, ReasonRLError):
                raise
            raise StageFailed(
                f"stage {stage.name!r} failed: {type(error).__name__}: {error} (traceback in {failure}) "
                f"-> once it is mended, carry on with: {self.command}"
            ) from error

    def _launch(self, config: Any, context: StageContext, label: str) -> StageResult:
        """Run a launched stage, again up to `launch.max_restarts` times when it fails."""
        for attempt in range(config.launch.max_restarts + 1):
            try:
                return launch_stage(config, context, self.say, context.directory / LAUNCHER)
            except StageFailed as error:
                if attempt == config.launch.max_restarts or self.stop.is_set():
                    raise
                self.say(f"{label}: {str(error).splitlines()[0]}")
            self.say(f"{label}: restart {attempt + 1} of {config.launch.max_restarts} (launch.max_restarts)")
            context = replace(context, resuming=True)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _report(self) -> Path:
        report = self.run.path / REPORT
        if not report.exists() or self.began or any(stage.action is not Action.SKIP for stage in self.summaries):
            from reasonrl.observe.report import write_report

            try:
                write_report(self.run.path)
            except (ReasonRLError, OSError) as error:
                self.say(f"warning: the report could not be written: {error}")
        return report


def _verb(stage: PlannedStage) -> str:
    """`started`, or `resumed at step 40`."""
    if stage.action not in CARRIED_ON:
        return "started"
    point = resume_point(stage.kind, stage.directory.path)
    word = "extended" if stage.action is Action.EXTEND else "resumed"
    return f"{word} at {point}" if point else f"{word} from its start (nothing was saved yet)"
