"""A study: every arm with every seed, one after the other, equal stages made once, and one table over all of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import Problem, RecipeError
from reasonrl.pipeline.context import StageResult
from reasonrl.pipeline.runner import RunSummary, Say, train

if TYPE_CHECKING:
    pass

_log = logging.getLogger("reasonrl.pipeline")


@dataclass(frozen=True)
class StudySummary:
    """What became of a study.

    Attributes:
        directory: `<output>/<study>`; holds one run directory per arm and seed, and the comparison.
        runs: by (arm, seed), in the order they ran.
        tables: files of the comparison; empty if the recipe evaluates nothing.
    """

    directory: Path
    runs: dict[tuple[str, int], RunSummary]
    tables: tuple[Path, ...] = ()


def run_study(
    path: str | Path,
    study: str,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    restart_stages: Sequence[str] = (),
    say: Say | None = None,
    command: str | None = None,
) -> StudySummary:
    """Run every arm with every seed of a study into `<output>/<study>/<arm>-seed<k>`, and compare them.

    All recipes are read and checked before the first run starts. A stage whose key equals that of a finished stage of
    an earlier run of the study is shared, not run again.

    Args:
        path: recipe file, or a shipped recipe's bare name.
        study: a key of the recipe's `studies`.
        overrides: `a.b=c` tokens; they win over the arms.
        dry_run, restart_stages, say, command: as for `train`, for each run.

    Raises RecipeError if the study is not there; otherwise what `train` raises.
    """
    from reasonrl.recipe import load_recipe

    say = say or _log.info
    recipe = load_recipe(path, overrides).recipe
    if study not in recipe.studies:
        raise RecipeError([_no_study(study, tuple(recipe.studies), path)])
    plan = recipe.studies[study]
    directory = Path(recipe.output).expanduser().absolute() / study
    resolved = {
        (arm, seed): load_recipe(path, overrides, arm=arm, seed=seed) for arm in plan.arms for seed in plan.seeds
    }
    runs: dict[tuple[str, int], RunSummary] = {}
    for number, ((arm, seed), one) in enumerate(resolved.items(), start=1):
        say(f"study {study}, run {number} of {len(resolved)}: arm {arm}, seed {seed}")
        runs[arm, seed] = train(
            one,
            dry_run=dry_run,
            restart_stages=restart_stages,
            run_directory=directory / f"{arm}-seed{seed}",
            peers=[done.directory for done in runs.values()],
            say=say,
            command=command,
        )
    return StudySummary(directory, runs, () if dry_run else _compare(directory, study, resolved, runs, say))


def _no_study(study: str, known: tuple[str, ...], path: str | Path) -> Problem:
    near = get_close_matches(study, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else "add it under studies:, or name one that is there"
    return Problem(
        f"studies.{study}", f"there is no study {study!r}; allowed: {', '.join(known) or 'none'}", str(path), fix
    )


def evaluations(runs: dict[tuple[str, int], RunSummary]) -> dict[str, dict[str, dict[int, StageResult]]]:
    """Results of evaluation stages as stage -> arm -> seed, in the order they ran."""
    found: dict[str, dict[str, dict[int, StageResult]]] = {}
    for (arm, seed), run in runs.items():
        for stage in run.stages:
            if stage.kind == "eval":
                found.setdefault(stage.name, {}).setdefault(arm, {})[seed] = stage.result
    return found
