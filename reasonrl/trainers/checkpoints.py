"""Checkpoints that are whole or not there: a mark is written last, and only marked ones are resumed from.

A kill while a checkpoint is written leaves a folder without its mark; `latest_complete` passes over it and `prune`
removes it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from reasonrl.errors import ModelError

MARK = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path, step: int, **layout: int) -> None:
    """Declare a checkpoint whole; everything in it is on disk before the mark is. `layout` is kept in the mark."""
    for file in checkpoint.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    staging = checkpoint / f".{MARK}"
    with staging.open("w") as handle:
        json.dump({"step": step, **layout}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    staging.replace(checkpoint / MARK)


def require_layout(checkpoint: Path, *, processes: int, zero_stage: int, fsdp: int = 0) -> None:
    """Refuse a checkpoint whose parts do not fit these processes: under ZeRO each holds the share of one.

    Without ZeRO any number of processes goes on from it; FSDP's states are whole, but in files of its own.

    Raises:
        ModelError: it was written under another stage of ZeRO, under ZeRO by another number of processes, or with FSDP
            where this is without, or the other way about.
    """
    mark = json.loads((checkpoint / MARK).read_text()) if (checkpoint / MARK).is_file() else {}
    if "processes" not in mark:
        return
    there = int(mark["processes"]), int(mark["zero_stage"]), int(mark.get("fsdp", 0))
    here = processes, zero_stage, fsdp
    if there == here or (there[1:] == here[1:] and not zero_stage):
        return
    names = [f"{count} processes and {_split(stage, split)}" for count, stage, split in (there, here)]
    raise ModelError(
        f"{checkpoint}: written under {names[0]}, resumed under {names[1]}, and its parts are laid down"
        f" for the first -> go on with launch: {{num_processes: {there[0]}"
        + (f", deepspeed: zero{there[1]}" if there[1] else ", fsdp: full_shard" if there[2] else "")
        + "}, or start the stage anew (--restart-stage)"
    )


def _split(zero_stage: int, fsdp: int) -> str:
    return f"ZeRO-{zero_stage}" if zero_stage else "FSDP" if fsdp else "no ZeRO"


def complete_checkpoints(directory: Path) -> dict[int, Path]:
    """Step to folder of every whole checkpoint, in order of steps."""
    found = {}
    for path in directory.glob("checkpoint-*") if directory.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / MARK).is_file():
            found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def latest_complete(directory: Path) -> tuple[int, Path] | None:
    """The whole checkpoint of the highest step, or None."""
    found = complete_checkpoints(directory)
    return max(found.items()) if found else None


def to_resume(directory: Path, wanted: str | Path | bool | None) -> Path | None:
    """The checkpoint that a trainer's `resume_from_checkpoint` means: a folder, or True for the latest whole one of its
    own; None: to begin anew. Raises ModelError if there is no whole one.
    """
    if wanted is not True:
        return Path(wanted) if wanted else None
    found = latest_complete(directory)
    if found is None:
        raise ModelError(f"{directory}: there is no whole checkpoint to resume from -> train anew")
    return found[1]


def best_of(directory: Path) -> set[Path]:
    """The checkpoint that the latest whole one remembers as the best so far, if it is still there."""
    found = latest_complete(directory)
    state = found[1] / "trainer_state.json" if found else None
    if state is None or not state.is_file():
        return set()
    best = json.loads(state.read_text()).get("best_model_checkpoint")
    # The run may have been moved since: what counts is the folder's name.
    return {directory / Path(best).name} if best else set()


def prune(directory: Path, *, keep_last: int | None, keep: set[Path]) -> None:
    """Remove torn checkpoints, and whole ones beyond the last `keep_last` that are not in `keep`."""
    whole = complete_checkpoints(directory)
    protected = {path.resolve() for path in keep}
    recent = set(whole.values() if keep_last is None else list(whole.values())[-max(1, keep_last) :])
    for path in directory.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and path not in recent and path.resolve() not in protected:
            shutil.rmtree(path, ignore_errors=True)
