"""Whether the packages of the rollout engines that a plan names are installed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from reasonrl.errors import RunError
from reasonrl.pipeline.planning import Action, PlannedStage

PACKAGES = {"vllm": "vllm", "servers": "vllm"}
INSTALL = {"vllm": "pip install 'reasonrl[vllm]' (on a machine without GPU: docs/rollout.md)"}


def require_engines(planned: Sequence[PlannedStage]) -> None:
    """Refuse a plan before anything is trained, not when the first sample is drawn hours later.

    Stages that are done already need no engine; a recipe for another machine is still a recipe.

    Raises:
        RunError: a stage to be run names an engine whose package is not installed.
    """
    for stage in planned:
        rollout = getattr(stage.instance.config, "rollout", None)
        if rollout is None or stage.action in (Action.SKIP, Action.SHARE):
            continue
        package = PACKAGES.get(rollout.engine) if rollout.urls is None else None
        if package is not None and importlib.util.find_spec(package) is None:
            raise RunError(
                f"stages.{stage.instance.name}.rollout.engine: is {rollout.engine!r}, but the package {package} is not"
                f" installed here -> {INSTALL[package]}, or use rollout.engine=transformers"
            )
