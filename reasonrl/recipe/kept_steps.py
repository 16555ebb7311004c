"""Whether a checkpoint that a reference names will still be there: known before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from reasonrl.recipe.stages import SFTStage


class Saving(NamedTuple):
    """How a training stage saves: every so many steps (None: as it sees fit), keeping the last so many."""

    every: int | None
    kept: int


def saving_of(stage: Mapping[str, Any]) -> Saving | None:
    """How a plain stage saves; None if it does not train, or its values are no counts (the schema says so)."""
    values = {name: SFTStage.model_fields[name].default for name in ("save_steps", "save_total_limit")}
    every, kept = ({**values, **stage}[name] for name in values)
    if (
        stage.get("kind") not in ("sft", "ppo", "prm", "bcpg", "dpo")
        or not _is_count(kept)
        or not (every is None or _is_count(every))
    ):
        return None
    return Saving(every, kept)


def not_kept(name: str, step: int, steps: int | None, saving: Saving | None) -> tuple[str, str] | None:
    """Why stage `name` will not hold its checkpoint of `step` when it is done, and the fix; None if it will.

    Args:
        name: of the stage.
        step: the step referred to.
        steps: steps of the stage in all; None if unknown.
        saving: how it saves; None if unknown. The last step is always kept.
    """
    if saving is None:
        return None
    every, kept = saving
    if step == steps:
        return None
    if every is None:
        fix = f"set stages.{name}.save_steps to {step}, or use ${{stage:{name}}}"
        return f"stage {name!r} does not say save_steps, so nobody can tell whether it keeps that one", fix
    if step % every:
        near_by = [at for at in (step // every * every, (step // every + 1) * every) if 0 < at <= (steps or at)]
        use = " or ".join(map(str, near_by)) or str(steps)
        fix = f"use step {use}, or change stages.{name}.save_steps"
        return f"stage {name!r} saves every {every} steps, and {step} is none of them", fix
    if steps is None:
        return None
    later = steps // every - step // every + (steps % every > 0)
    if later < kept:
        return None
    fix = f"set stages.{name}.save_total_limit to {later + 1} or more"
    return f"stage {name!r} keeps its last {kept} checkpoints, and saves {later} after step {step}", fix


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
