"""`reasonrl plan RECIPE`: a recipe on given hardware, as text or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import RecipeError, RunError
from reasonrl.plan.hardware import STATED, Efficiency, parse_gpu
from reasonrl.plan.recipe_plan import Hardware, plan_recipe
from reasonrl.plan.report import draw_plan, plan_json, plan_text

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

ROUNDS = 4


def recipe_report(
    recipe: str,
    overrides: Sequence[str],
    *,
    gpus: int,
    gpu: str,
    arm: str | None = None,
    mean_length: float | None = None,
    longest: float | None = None,
    prompt_tokens: float = 256.0,
    efficiency: str | None = None,
    stand_in: str | None = None,
    plot: Path | None = None,
    lengths: Sequence[int] | None = None,
    as_json: bool = False,
) -> str:
    """Plan a recipe and say what came out.

    Args:
        recipe, overrides, arm: as `train` takes them.
        gpus, gpu: how many devices, of which kind.
        mean_length, longest, prompt_tokens: tokens; see `Hardware`.
        efficiency: `train=0.4,decode=0.6` changes the stated shares.
        stand_in: a model whose sizes stand in for unknown ones.
        plot: where a picture goes.
        lengths: response lengths of a log, from which mean and longest are taken.
        as_json: one JSON object instead of tables.

    Raises:
        RunError: an option that cannot be understood.
        RecipeError, ModelError: as `load_recipe`, `plan_recipe`.
    """
    resolved = load_without_data(recipe, overrides, arm)
    if lengths:
        mean_length, longest = sum(lengths) / len(lengths), float(max(lengths))
    shares = replace(STATED, **_shares(efficiency))
    hardware = Hardware(parse_gpu(gpu), gpus, shares, mean_length, longest, prompt_tokens)
    plans = plan_recipe(resolved, hardware, stand_in)
    if plot is not None:
        draw_plan(plans, plot)
    if as_json:
        return json.dumps(plan_json(plans, hardware), indent=2)
    return plan_text(resolved.recipe.recipe, plans, hardware)


def load_without_data(recipe: str, overrides: Sequence[str], arm: str | None = None) -> ResolvedRecipe:
    """A recipe whose data files (`path: ???`) need not be there yet: sizes are planned without them.

    Raises RecipeError for everything else that is wrong.
    """
    from reasonrl.recipe import load_recipe

    given = list(overrides)
    for _ in range(ROUNDS):  # what is missing deeper down shows once the rest is there
        try:
            return load_recipe(recipe, given, arm=arm)
        except RecipeError as error:
            missing = [problem.key for problem in error.problems if "has no value yet" in problem.message]
            if len(missing) != len(error.problems) or not all(key.endswith("path") for key in missing):
                raise
            given += [f"{key}={os.devnull}" for key in missing]
    return load_recipe(recipe, given, arm=arm)


def _shares(text: str | None) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            shares[name.strip()] = -1.0
        if name.strip() not in Efficiency.__dataclass_fields__ or not 0 < shares[name.strip()] <= 1:
            known = ", ".join(Efficiency.__dataclass_fields__)
            raise RunError(f"--efficiency {part!r} is no share -> NAME=0.4, with NAME one of {known}")
    return shares
