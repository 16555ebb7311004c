"""Rules for a PPO stage that adds gradients up while its samples are still being drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reasonrl.recipe.advantage_rules import GROUPED
from reasonrl.recipe.fields import Issue


def streaming_problems(given: Mapping[str, Any]) -> Iterator[Issue]:
    """What `train_while_generating` could not do exactly, of a PPO stage's raw values (`max_staleness` and what makes
    advantages have rules of their own).
    """
    if not given.get("train_while_generating"):
        return
    never = "or train_while_generating: false"
    for key in ("actor_steps", "num_iterations"):
        if isinstance(given.get(key), int) and given[key] > 1:
            message = f"is {given[key]}, but train_while_generating makes one policy step of all samples, once"
            yield Issue(key, message, f"use {key}: 1, {never}")
    launch, prompts = given.get("launch"), given.get("prompts_per_step")
    processes = launch.get("num_processes") if isinstance(launch, Mapping) else getattr(launch, "num_processes", None)
    grouped = given.get("advantage") in GROUPED
    if grouped and isinstance(processes, int) and isinstance(prompts, int) and processes > 0 and prompts % processes:
        message = (
            f"is {processes}, which does not divide prompts_per_step {prompts}: a prompt's group would lie on two"
            " processes, and train_while_generating lets each work by itself"
        )
        yield Issue("launch.num_processes", message, f"use a divisor of {prompts}, {never}")
