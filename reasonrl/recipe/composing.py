"""From a recipe file to a checked recipe: files, arm and command line composed, interpolated, inherited, validated."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.checks import world_problems
from reasonrl.recipe.expansion import reference_problems
from reasonrl.recipe.interpolation import resolve
from reasonrl.recipe.messages import explain
from reasonrl.recipe.origins import Origin, find_origin, inherited, place_of
from reasonrl.recipe.overlay import Overlaid, lay_arm, lay_overrides, read_files
from reasonrl.recipe.schema import Recipe
from reasonrl.recipe.shipped import find_recipe
from reasonrl.recipe.sources import TRAINING_OPTIONS
from reasonrl.recipe.stages import EVALUATIONS, STAGES, SUITE_DEFAULTS

_NAME_THEIR_MODEL = ("prm_eval", "pacore_eval")
"""Kinds that do not take the recipe's model: theirs is no policy, or none at all."""


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe that has passed every check.

    Attributes:
        recipe: the frozen model.
        tree: the composed plain tree after interpolation and inheritance, without schema defaults; references are
            texts.
        origins: dotted key -> where its value came from; a key without an entry is a default of the schema.
        path, source_text: the recipe's own file and its text.
        overrides, arm, seed: what it was loaded with.
    """

    recipe: Recipe
    tree: dict[str, Any]
    origins: Mapping[str, Origin]
    path: Path
    source_text: str
    overrides: tuple[str, ...] = ()
    arm: str | None = None
    seed: int | None = None


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    arm: str | None = None,
    seed: int | None = None,
    base_directory: str | Path | None = None,
) -> ResolvedRecipe:
    """Compose and check a recipe; nothing is written and torch is not imported.

    Args:
        path: a recipe file, or the bare name of a shipped recipe (`quickstart`).
        overrides: command-line tokens such as `stages.rl.learning_rate=1e-6`, the later ones on top.
        arm: an overlay of the recipe's `arms`, under the overrides; `default` or None is the recipe as it is.
        seed: takes the place of the recipe's seed, over the overrides.
        base_directory: where relative `file.py:function` names start; the recipe's folder if None. For a composed
            recipe that was written into a run directory.

    Raises:
        RecipeError: with every problem of the file, its bases, its arms and the overrides.
    """
    file, base, text = _read(path)
    folder = file.parent if base_directory is None else Path(base_directory)
    chosen = _composed(base, arm, overrides, seed)
    recipe, tree, origins, problems = _checked(chosen, file, folder)
    for name in _arms(base):
        if name != arm:
            problems += _checked(_composed(base, name, overrides, seed), file, folder)[3]
    for tokens in _study_overrides(base):
        problems += _checked(_composed(base, None, [*tokens, *overrides], seed), file, folder)[3]
    if problems or recipe is None:
        raise RecipeError(_ordered(problems))
    return ResolvedRecipe(recipe, tree, origins, file, text, tuple(overrides), arm, seed)


def load_runs(
    path: str | Path, overrides: Sequence[str], runs: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], ResolvedRecipe]:
    """The recipe of each (arm, seed) of `runs`, as `load_recipe` gives it.

    The file is read once and each run is checked once, and no other arm: with many arms that is the difference between
    a moment and minutes. Arms outside `runs` are `load_recipe`'s to check.

    Raises:
        RecipeError: with every problem of these runs.
    """
    file, base, text = _read(path)
    loaded: dict[tuple[str, int], ResolvedRecipe] = {}
    found: list[Problem] = []
    for arm, seed in runs:
        recipe, tree, origins, problems = _checked(_composed(base, arm, overrides, seed), file, file.parent)
        found += problems
        if recipe is not None:
            loaded[arm, seed] = ResolvedRecipe(recipe, tree, origins, file, text, tuple(overrides), arm, seed)
    if found or len(loaded) != len(runs):
        raise RecipeError(_ordered(found))
    return loaded


def _read(path: str | Path) -> tuple[Path, Overlaid, str]:
    """A recipe's file, what it and its bases say, and its text."""
    file = find_recipe(path)
    base, text = read_files(file)
    if base.problems:
        raise RecipeError(_ordered(base.problems))
    _give_defaults(base, file)
    return file, base, text


def _arms(base: Overlaid) -> list[str]:
    arms = base.tree.get("arms")
    return [name for name, overlay in arms.items() if isinstance(overlay, dict)] if isinstance(arms, dict) else []


def _study_overrides(base: Overlaid) -> list[list[str]]:
    studies = base.tree.get("studies")
    given = studies.values() if isinstance(studies, dict) else ()
    found = [study.get("overrides") for study in given if isinstance(study, dict)]
    return [tokens for tokens in found if isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)]


def _give_defaults(base: Overlaid, file: Path) -> None:
    """The keys that interpolation may need even if the recipe does not give them."""
    stem = file.parent.name if file.stem == "recipe" else file.stem
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", stem).lstrip("_.-") or "recipe"
    for key, value in (("recipe", name), ("seed", 0), ("output", "runs/${recipe}")):
        if key not in base.tree:
            base.tree[key] = value
            base.origins[key] = Origin("default")


def _composed(base: Overlaid, arm: str | None, overrides: Sequence[str], seed: int | None) -> Overlaid:
    result = base.copy()
    if arm is not None:
        lay_arm(result, arm, f"'--arm {arm}'")
    lay_overrides(result, overrides)
    if seed is not None:
        result.tree["seed"] = seed
        result.origins["seed"] = Origin("argument", source="seed")
    return result


def _checked(
    composed: Overlaid, file: Path, folder: Path
) -> tuple[Recipe | None, dict[str, Any], dict[str, Origin], list[Problem]]:
    resolved = resolve(composed.tree, composed.origins)
    tree, origins = copy.deepcopy(resolved.tree), dict(resolved.origins)
    _inherit(tree, origins)
    findings: list[tuple[str, str, str]] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        findings += explain(error, tree)
    findings += reference_problems(tree)
    findings += world_problems(tree, folder)
    problems = [*composed.problems, *resolved.problems]
    others = {(key, message) for key, message, _ in findings}
    for key, message, fix in findings:
        if not (_is_consequence(key, resolved.broken) or resolved.is_repeated(key, message, others)):
            origin = find_origin(origins, key)
            problems.append(Problem(_written_key(key, origin), message, place_of(origin) if origin else str(file), fix))
    return recipe, tree, origins, problems


def _written_key(key: str, origin: Origin | None) -> str:
    """The key to name in a message: where an inherited value is written, not where it was copied to."""
    return origin.source if origin is not None and origin.kind == "inherited" else key


def _is_consequence(key: str, broken: set[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in broken)


def _inherit(tree: dict[str, Any], origins: dict[str, Origin]) -> None:
    """Give stages what they do not say from the top level: model, rollout, launch, and `data.train` as their data."""
    stages = tree.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        kind = stage.get("kind") if isinstance(stage, dict) else None
        if not isinstance(kind, str) or kind not in STAGES:
            continue
        fields = STAGES[kind].model_fields
        for field in ("rollout", "launch"):
            if field in fields and isinstance(tree.get(field), dict):
                left_out = TRAINING_OPTIONS if field == "rollout" and kind in (*EVALUATIONS, "rollout") else ()
                value = {key: item for key, item in tree[field].items() if key not in left_out}
                _fill(stage, field, value, origins, f"stages.{name}", field)
        if "model" in fields and tree.get("model") is not None and kind not in _NAME_THEIR_MODEL:
            _fill(stage, "model", tree["model"], origins, f"stages.{name}", "model")
        data = tree.get("data")
        wants = "data" in fields and "data" not in stage and not ("results" in fields and "results" in stage)
        if wants and isinstance(data, dict) and "train" in data:
            _fill(stage, "data", data["train"], origins, f"stages.{name}", "data.train")
        suites = stage["suites"] if kind == "eval" and isinstance(stage.get("suites"), dict) else {}
        for suite in suites:
            for field in SUITE_DEFAULTS:
                if stage.get(field) is not None and isinstance(suites[suite], dict):
                    above = f"stages.{name}.suites.{suite}"
                    _fill(suites[suite], field, stage[field], origins, above, f"stages.{name}.{field}")


def _fill(target: dict[str, Any], name: str, value: Any, origins: dict[str, Origin], above: str, source: str) -> None:
    """Give `target[name]` the value, or the parts of it that are missing there."""
    key = f"{above}.{name}"
    present = target.get(name)
    if isinstance(value, dict) and isinstance(present, dict):
        for child, item in value.items():
            _fill(present, child, item, origins, key, f"{source}.{child}")
    elif name not in target:
        target[name] = copy.deepcopy(value)
        for found in [found for found in origins if found == source or found.startswith(f"{source}.")]:
            origins[key + found[len(source) :]] = inherited(origins[found], found)


def _ordered(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once (an interpolated copy or another arm repeats it), by file and line, the command line last."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.origin, problem.message), problem)

    def place(problem: Problem) -> tuple[int, str, int]:
        file, _, line = problem.origin.rpartition(":")
        return (
            (0, file, int(line)) if line.isdigit() else (1 if problem.origin.startswith("'") else 0, problem.origin, 0)
        )

    return sorted(seen.values(), key=place)
