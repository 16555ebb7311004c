"""What is to be done with each stage, decided for the whole run before any of it starts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import ReasonRLError, RunError
from reasonrl.pipeline.directory import DONE_BEFORE, DoneRecord, RunDirectory, StageDirectory, StageRecord
from reasonrl.pipeline.environment import changed_versions, versions
from reasonrl.pipeline.keys import Growth, StageIdentity, differences, growth, identify
from reasonrl.pipeline.stages import resume_point

if TYPE_CHECKING:
    from reasonrl.recipe import Reference, StageInstance


class Action(Enum):
    """What happens to a stage. Its folder is set aside first (never deleted) where it is made anew."""

    SKIP = "skip"
    SHARE = "share"
    START = "start"
    RESUME = "resume"
    EXTEND = "extend"
    REDO = "redo"
    RESTART = "restart"


ANEW = frozenset({Action.REDO, Action.RESTART})
CARRIED_ON = frozenset({Action.RESUME, Action.EXTEND})


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the plan.

    Attributes:
        instance: name, config and references.
        directory: its folder.
        identity: what its result depends on.
        action: what is to be done.
        attempt: how often it will have been made anew.
        notes: what to tell the user about it.
        done: its record where it is skipped or shared.
        source: the folder to share from.
        drop_link: the folder holds a link that no longer fits, to be dropped first.
    """

    instance: StageInstance
    directory: StageDirectory
    identity: StageIdentity
    action: Action
    attempt: int = 0
    notes: tuple[str, ...] = ()
    done: DoneRecord | None = None
    source: StageDirectory | None = None
    drop_link: bool = False

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def kind(self) -> str:
        return str(self.instance.config.kind)

    def product_for(self, reference: Reference) -> str:
        """The hash that stands for what `reference` takes from this stage."""
        return self.identity.product(self.attempt, whole=not isinstance(reference.step, int))


@dataclass(frozen=True)
class Peers:
    """Runs of the same recipe, whose finished stages may be shared.

    Attributes:
        runs: in order; the first that has a fitting stage is taken.
        sources: by stage name, the one folder it may be shared from or stay linked to, decided beforehand; stages that
            are not named share nothing. None: `runs` are looked through.
    """

    runs: tuple[RunDirectory, ...] = ()
    sources: Mapping[str, Path] | None = None

    def find(self, identity: StageIdentity) -> tuple[StageDirectory, DoneRecord] | None:
        """The first finished stage of equal key and extensible fields that holds its own result."""
        for directory in self._places(identity.name):
            done = done_or_none(directory)
            if done is None or done.shared_from is not None:
                continue
            made = done.stage.identity
            if made.key == identity.key and made.extensible == identity.extensible:
                return directory, done
        return None

    def linked_product(self, name: str, folder: Path) -> str | None:
        """The product in `folder`, which stage `name` is linked to; None if there is none, or it is not to be used."""
        if self.sources is not None and not (name in self.sources and same_path(self.sources[name], folder)):
            return None
        done = done_or_none(StageDirectory(folder))
        return None if done is None else done.product

    def _places(self, name: str) -> list[StageDirectory]:
        if self.sources is None:
            return [run.stage(name) for run in self.runs]
        return [StageDirectory(self.sources[name])] if name in self.sources else []


def same_path(one: Path, other: Path) -> bool:
    """Whether two absolute paths are the same but for `.` and `..` in them."""
    return os.path.normpath(one) == os.path.normpath(other)


def plan_run(
    instances: Sequence[StageInstance],
    run: RunDirectory,
    *,
    seed: int,
    base_directory: Path,
    restart: Collection[str] = (),
    peers: Peers | None = None,
) -> list[PlannedStage]:
    """Decide what to do with every stage, reading the run directory and writing nothing.

    Raises RunError with every stage that cannot be carried on as asked, and why; DataError for data that is not there.
    """
    check_restart_names(instances, restart)
    planned: dict[str, PlannedStage] = {}
    refusals: list[str] = []
    for instance in instances:
        inputs = {str(reference): planned[reference.stage].product_for(reference) for reference in instance.inputs}
        identity = identify(instance, seed, inputs, base_directory)
        stage = PlannedStage(instance, run.stage(instance.name), identity, Action.START)
        try:
            wanted = instance.name in restart or base_name(instance.name) in restart
            planned[instance.name] = _decide(stage, wanted, peers or Peers())
        except RunError as error:
            refusals.append(str(error))
            planned[instance.name] = stage
    if refusals:
        raise RunError("\n".join(refusals))
    return list(planned.values())


def base_name(instance_name: str) -> str:
    """`train` of `train.2`."""
    stem, dot, number = instance_name.rpartition(".")
    return stem if dot and number.isdigit() else instance_name


def check_restart_names(instances: Sequence[StageInstance], restart: Collection[str]) -> None:
    """Raises RunError for a `--restart-stage` that names no stage."""
    names = {instance.name for instance in instances}
    names |= {base_name(name) for name in names}
    for name in restart:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"stages: {', '.join(sorted(names))}"
            raise RunError(f"--restart-stage {name}: there is no such stage -> {hint}")


def _decide(stage: PlannedStage, restart: bool, peers: Peers) -> PlannedStage:
    directory = stage.directory
    if directory.is_empty():
        return _start_or_share(stage, peers)
    done, stage = _read_done(stage)
    if done is not None and done.shared_from is not None:
        return _decide_linked(stage, done, restart, peers)
    if restart:
        return _anew(stage, Action.RESTART, "")
    record = directory.read_stage()
    if record is None:
        raise RunError(
            f"stage {stage.name!r}: {directory.path} is not empty, but holds no stage.json of a run -> "
            f"--restart-stage {stage.name} moves it aside"
        )
    stage = replace(stage, attempt=record.attempt, notes=(*stage.notes, *_version_notes(record)))
    return _compare(stage, record, done)


def _compare(stage: PlannedStage, record: StageRecord, done: DoneRecord | None) -> PlannedStage:
    """Skip, resume, extend, redo or refuse a stage that was begun."""
    before, identity = record.identity, stage.identity
    if before.key != identity.key:
        changed = differences(before.identity, identity.identity)
        if changed and not _holds_work(stage, done):
            return _anew(
                stage, Action.REDO, f"was begun with other values, but had saved nothing yet: {'; '.join(changed)}"
            )
        if changed:
            raise RunError(_refusal(stage, "was begun with other values", changed))
        return _anew(
            stage, Action.REDO, f"made anew, because what it reads has changed: {_changed_inputs(before, identity)}"
        )
    if growth(before.extensible, identity.extensible) is Growth.SHRUNK:
        changed = differences(before.extensible, identity.extensible)
        if not _holds_work(stage, done):
            return _anew(stage, Action.REDO, f"was begun with more, but had saved nothing yet: {'; '.join(changed)}")
        raise RunError(_refusal(stage, "can grow but not shrink", changed))
    if done is None:
        return replace(stage, action=Action.RESUME)
    made = done.stage.identity.extensible
    if growth(made, identity.extensible) is Growth.EQUAL:
        return replace(stage, action=Action.SKIP, done=done)
    grew = "; ".join(differences(made, identity.extensible))
    return replace(stage, action=Action.EXTEND, notes=(*stage.notes, f"goes on from what is there: {grew}"))


def _holds_work(stage: PlannedStage, done: DoneRecord | None) -> bool:
    """Whether the stage's folder holds anything that a resumed stage would start from.

    A stage that failed before its first checkpoint (a slip in a reward function, say) holds nothing: mending the recipe
    must not need `--restart-stage`.
    """
    if done is not None or (stage.directory.path / DONE_BEFORE).exists():
        return True
    try:
        return resume_point(stage.kind, stage.directory.path) is not None
    except ReasonRLError:
        return True  # what is there cannot be read: not ours to call it nothing


def _decide_linked(stage: PlannedStage, done: DoneRecord, restart: bool, peers: Peers) -> PlannedStage:
    """A link is kept while it fits and its source is as it was; else it is dropped, which loses nothing."""
    assert done.shared_from is not None
    made = done.stage.identity
    product = peers.linked_product(stage.name, done.shared_from)
    fits = made.key == stage.identity.key and growth(made.extensible, stage.identity.extensible) is Growth.EQUAL
    if fits and not restart and product == done.product:
        return replace(stage, action=Action.SKIP, done=done, attempt=done.stage.attempt)
    return _start_or_share(replace(stage, attempt=done.stage.attempt + 1, drop_link=True), peers)


def done_or_none(directory: StageDirectory) -> DoneRecord | None:
    """The record of a finished stage; None if it is not finished, or torn."""
    try:
        return directory.read_done()
    except RunError:
        return None


def _read_done(stage: PlannedStage) -> tuple[DoneRecord | None, PlannedStage]:
    """The done record; a torn one counts as none, with a note: the stage is resumed and writes it again."""
    try:
        return stage.directory.read_done(), stage
    except RunError as error:
        return None, replace(stage, notes=(*stage.notes, f"{error}; the stage counts as half done and is resumed"))


def _start_or_share(stage: PlannedStage, peers: Peers) -> PlannedStage:
    found = peers.find(stage.identity)
    if found is None:
        # The number of the newest old folder: a run killed after that folder was set aside is still a new attempt.
        return replace(stage, action=Action.START, attempt=max(stage.attempt, stage.directory.times_set_aside()))
    source, done = found
    return replace(stage, action=Action.SHARE, source=source, done=done, attempt=done.stage.attempt)


def _anew(stage: PlannedStage, action: Action, why: str) -> PlannedStage:
    try:
        record = stage.directory.read_stage()
    except RunError:
        record = None
    before = max(record.attempt if record is not None else 0, stage.directory.times_set_aside())
    return replace(stage, action=action, attempt=before + 1, notes=(why,) if why else ())


def _changed_inputs(before: StageIdentity, now: StageIdentity) -> str:
    names = [*now.inputs, *(name for name in before.inputs if name not in now.inputs)]
    return ", ".join(name for name in names if before.inputs.get(name) != now.inputs.get(name))


def _version_notes(record: StageRecord) -> tuple[str, ...]:
    changed = changed_versions(dict(record.versions), versions())
    return (f"warning: versions changed since it began: {', '.join(changed)}",) if changed else ()


def _refusal(stage: PlannedStage, why: str, changed: list[str]) -> str:
    lines = "".join(f"\n  {line}" for line in changed)
    return (
        f"stage {stage.name!r} {why} (then -> now):{lines}\n"
        f"  -> set them back, choose another `output`, or start it anew with --restart-stage {stage.name} "
        f"(moves {stage.directory.path} aside; stages that read it are made anew too)"
    )
