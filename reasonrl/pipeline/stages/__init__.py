"""Stage kinds: which module runs which `kind:`; modules are imported only when a stage of that kind is run.

A stage module offers `run(config, context) -> StageResult` and `dry_run(config, context) -> list[str]`, and may offer

* `identity_extra(config) -> dict`: versions of graders, segmenters and the like that change the result; part of the
  stage's key,
* `extensible_extra(config) -> dict`: versions that may grow: the stage then goes on from what it has made,
* `resume_point(directory) -> str | None`: words for where a half-done stage will carry on (`step 40`),
* `DEPENDS_ON_SEED = False`: the recipe's seed is no part of its key, unless rows that it reads are drawn by it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageContext, StageResult


class StageModule(Protocol):
    """What a stage module offers."""

    def run(self, config: Any, context: StageContext) -> StageResult: ...

    def dry_run(self, config: Any, context: StageContext) -> list[str]: ...


@dataclass(frozen=True)
class StageKind:
    """The module that runs a kind, and whether it trains (under `accelerate launch` for several processes)."""

    module: str
    launched: bool


_KINDS: dict[str, StageKind] = {
    "sft": StageKind("reasonrl.pipeline.stages.sft", launched=True),
    "ppo": StageKind("reasonrl.pipeline.stages.ppo", launched=True),
    "rollout": StageKind("reasonrl.pipeline.stages.rollout", launched=False),
    "episodes": StageKind("reasonrl.pipeline.stages.episodes", launched=False),
    "segment": StageKind("reasonrl.pipeline.stages.segment", launched=False),
    "annotate": StageKind("reasonrl.pipeline.stages.annotate", launched=False),
    "prm": StageKind("reasonrl.pipeline.stages.prm", launched=True),
    "bcpg": StageKind("reasonrl.pipeline.stages.bcpg", launched=True),
    "dpo": StageKind("reasonrl.pipeline.stages.dpo", launched=True),
    "curate": StageKind("reasonrl.pipeline.stages.curate", launched=False),
    "average": StageKind("reasonrl.pipeline.stages.average", launched=False),
    "prm_eval": StageKind("reasonrl.pipeline.stages.prm_eval", launched=False),
    "pacore_eval": StageKind("reasonrl.pipeline.stages.pacore_eval", launched=False),
    "eval": StageKind("reasonrl.pipeline.stages.eval", launched=False),
    "gate": StageKind("reasonrl.pipeline.stages.gate", launched=False),
    "compare": StageKind("reasonrl.pipeline.stages.compare", launched=False),
}


def register_stage(kind: str, module: str, *, launched: bool = False) -> None:
    """Run stages of `kind` by the module of this dotted name, which launched worker processes must be able to import
    too.

    A kind that is there already is replaced.
    """
    _KINDS[kind] = StageKind(module, launched)


def stage_kind(kind: str) -> StageKind:
    """The registered kind. Raises RunError naming the kinds there are."""
    from reasonrl.recipe.stages import PLUGINS

    if kind not in _KINDS and kind in PLUGINS:
        register_stage(kind, PLUGINS[kind].module, launched=PLUGINS[kind].launched)
    if kind not in _KINDS:
        near = get_close_matches(kind, _KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "register it with reasonrl.pipeline.stages.register_stage"
        raise RunError(f"stage kind {kind!r} is not available; available: {', '.join(_KINDS)} -> {hint}")
    return _KINDS[kind]


def stage_module(kind: str) -> ModuleType:
    """Import the module of a kind. Raises RunError for an unknown kind."""
    return importlib.import_module(stage_kind(kind).module)


def resume_point(kind: str, directory: Path) -> str | None:
    """Words for where a half-done stage in `directory` will carry on, such as `step 40`; None if nothing was saved.

    A module that does not tell has the newest of its `checkpoint-N` folders, as transformers names them.
    """
    module = stage_module(kind)
    if hasattr(module, "resume_point"):
        return cast("str | None", module.resume_point(directory))
    folders = directory.glob("checkpoint-*")
    steps = [int(number) for folder in folders if (number := folder.name.removeprefix("checkpoint-")).isdigit()]
    return f"step {max(steps)}" if steps else None


def as_stage(module: ModuleType) -> StageModule:
    """The module seen as what runs a stage."""
    return cast(StageModule, module)
