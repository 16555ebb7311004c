"""What every run of a study will make and what it will share, decided before the first of them starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageResult
from reasonrl.pipeline.directory import DoneRecord, RunDirectory, StageDirectory, StageRecord
from reasonrl.pipeline.engines import require_engines
from reasonrl.pipeline.keys import StageIdentity
from reasonrl.pipeline.planning import Action, Peers, PlannedStage, done_or_none, plan_run, same_path

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe


@dataclass(frozen=True)
class Foreseen(Peers):
    """Peers as they will be once what is planned for them is done.

    Attributes:
        planned: the stages of each earlier run of the study, in order.
    """

    planned: tuple[tuple[PlannedStage, ...], ...] = ()

    def find(self, identity: StageIdentity) -> tuple[StageDirectory, DoneRecord] | None:
        for stage in self._stages():
            if stage.name != identity.name or source_of(stage) is not None:
                continue
            if stage.identity.key == identity.key and stage.identity.extensible == identity.extensible:
                return stage.directory, _foreseen(stage)
        return super().find(identity)

    def linked_product(self, name: str, folder: Path) -> str | None:
        for stage in self._stages():
            if same_path(stage.directory.path, folder):
                return stage.identity.product(stage.attempt)
        return super().linked_product(name, folder)

    def _stages(self) -> Iterator[PlannedStage]:
        for stages in self.planned:
            yield from stages


def source_of(stage: PlannedStage) -> Path | None:
    """The stage folder of another run that a planned stage takes its result from; None if it has its own."""
    if stage.source is not None:
        return stage.source.path
    return None if stage.done is None else stage.done.shared_from


def _foreseen(stage: PlannedStage) -> DoneRecord:
    """The record that a stage will leave, as far as it is known before."""
    return stage.done or DoneRecord(StageRecord(stage.identity, stage.attempt, "", {}), StageResult(), "")


@dataclass(frozen=True)
class Need:
    """A stage of another run that must be done before a run can start.

    Attributes:
        stage: its name in both runs.
        folder: where it is made.
        product: the hash that its record will hold.
    """

    stage: str
    folder: Path
    product: str

    def is_met(self) -> bool:
        done = done_or_none(StageDirectory(self.folder))
        return done is not None and done.product == self.product


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        arm, seed: which.
        resolved: its recipe.
        directory: its folder.
        stages: what is to be done with each stage.
    """

    arm: str
    seed: int
    resolved: ResolvedRecipe
    directory: Path
    stages: tuple[PlannedStage, ...]

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def is_done(self) -> bool:
        return all(stage.action is Action.SKIP for stage in self.stages)

    @property
    def to_make(self) -> tuple[PlannedStage, ...]:
        return tuple(stage for stage in self.stages if stage.action not in (Action.SKIP, Action.SHARE))

    @property
    def needs(self) -> tuple[Need, ...]:
        """The stages of other runs that this one shares, or shares already."""
        return tuple(
            Need(stage.name, source, stage.identity.product(stage.attempt))
            for stage in self.stages
            if (source := source_of(stage)) is not None
        )


def plan_study(
    resolved: Mapping[tuple[str, int], ResolvedRecipe],
    directory: Path,
    restart: Sequence[str] = (),
    others: Sequence[Path] = (),
) -> list[PlannedRun]:
    """Plan all runs of a study, in order, each as if those before it were done; nothing is written.

    The keys of a run's stages depend on no other run's results, only on whether they were made anew, so that what will
    be shared is known beforehand. A run shares with earlier ones alone, and with what is done in `others`, run
    directories that are not the study's: the first that is not done can always start.

    Raises RunError with every run that cannot be carried on as asked; DataError for data that is not there.
    """
    from reasonrl.recipe import expand_stages

    planned: list[PlannedRun] = []
    elsewhere = tuple(map(RunDirectory, others))
    refusals: list[str] = []
    for (arm, seed), one in resolved.items():
        run = RunDirectory(directory / f"{arm}-seed{seed}")
        try:
            run.check_ours()
            stages = plan_run(
                expand_stages(one.recipe),
                run,
                seed=one.recipe.seed,
                base_directory=one.path.parent.absolute(),
                restart=restart,
                peers=Foreseen(runs=elsewhere, planned=tuple(earlier.stages for earlier in planned)),
            )
            require_engines(stages)
        except RunError as error:
            refusals.append(f"run {run.path.name}: {error}")
            continue
        planned.append(PlannedRun(arm, seed, one, run.path, tuple(stages)))
    if refusals:
        raise RunError("\n".join(refusals))
    return planned
