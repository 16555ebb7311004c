"""A study: every arm with every seed, one after the other or several at once, equal stages made once, and one table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import Problem, RecipeError, RunError
from reasonrl.pipeline.directory import RunDirectory
from reasonrl.pipeline.runner import RunSummary, Say, resume_command, train
from reasonrl.pipeline.signals import StopFlag, stop_on_signals

if TYPE_CHECKING:
    from reasonrl.recipe import Recipe, ResolvedRecipe

_log = logging.getLogger("reasonrl.pipeline")


@dataclass(frozen=True)
class StudySummary:
    """What became of a study.

    Attributes:
        directory: `<output>/<study>`; holds one run directory per arm and seed, and the comparison.
        runs: by (arm, seed), in the study's order.
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
    jobs: int = 1,
) -> StudySummary:
    """Run every arm with every seed of a study into `<output>/<study>/<arm>-seed<k>`, and compare them.

    All recipes are read and checked before the first run starts. A stage whose key equals that of a finished stage of
    an earlier run of the study, of another study of the recipe, or of its plain run is shared, not run again.

    Args:
        path: recipe file, or a shipped recipe's bare name.
        study: a key of the recipe's `studies`.
        overrides: `a.b=c` tokens; they win over the arms.
        dry_run, restart_stages, say, command: as for `train`, for each run.
        jobs: runs at a time. Above 1 each is a process of its own, with its share of the cores and GPUs, which starts
            once the stages it shares are done; its lines are led by its name. A dry run goes through them in turn.

    Raises RecipeError if the study is not there; otherwise what `train` raises, or of several at a time StageFailed
    naming the run.
    """
    from reasonrl.recipe import load_recipe, load_runs

    if jobs < 1:
        raise RunError(f"jobs: is {jobs}; allowed: 1 (one run after the other) or more")
    say = say or _log.info
    command = command or resume_command(sys.argv)
    recipe = load_recipe(path, overrides).recipe
    if study not in recipe.studies:
        raise RecipeError([_no_study(study, tuple(recipe.studies), path)])
    plan = recipe.studies[study]
    directory = Path(recipe.output).expanduser().absolute() / study
    overrides = [*plan.overrides, *overrides]
    resolved = load_runs(path, overrides, [(arm, seed) for arm in plan.arms for seed in plan.seeds])
    _say_arms(study, load_recipe(path, overrides).recipe, resolved, say)
    others = () if restart_stages else _runs_elsewhere(recipe, directory)  # what is made anew is made here
    if dry_run or min(jobs, len(resolved)) == 1:
        runs = _in_turn(resolved, directory, others, restart_stages, say, command, dry_run)
    else:
        from reasonrl.pipeline.study_jobs import run_side_by_side
        from reasonrl.pipeline.study_plan import plan_study

        planned = plan_study(resolved, directory, restart_stages, others)
        runs = run_side_by_side(
            planned, min(jobs, len(resolved)), study=study, restart_stages=restart_stages, say=say, command=command
        )
    return StudySummary(directory, runs, () if dry_run else _compare(directory, study, resolved, runs, say))


def _in_turn(
    resolved: Mapping[tuple[str, int], ResolvedRecipe],
    directory: Path,
    others: Sequence[Path],
    restart_stages: Sequence[str],
    say: Say,
    command: str,
    dry_run: bool,
) -> dict[tuple[str, int], RunSummary]:
    """All runs in this process, one after the other."""
    runs: dict[tuple[str, int], RunSummary] = {}
    shown: dict[str, str] = {}
    stop = StopFlag()
    with stop_on_signals(stop, say):
        for number, ((arm, seed), one) in enumerate(resolved.items(), start=1):
            if stop.is_set():
                raise stop.interrupted(f"before run {number} of study {directory.name!r}", command)
            say(f"study {directory.name}, run {number} of {len(resolved)}: arm {arm}, seed {seed}")
            runs[arm, seed] = train(
                one,
                dry_run=dry_run,
                restart_stages=restart_stages,
                run_directory=directory / f"{arm}-seed{seed}",
                peers=[*(done.directory for done in runs.values()), *others],
                say=say,
                command=command,
                stop=stop,
                shown=shown,
            )
    return runs


def _say_arms(study: str, main: Recipe, resolved: Mapping[tuple[str, int], ResolvedRecipe], say: Say) -> None:
    """What each arm of the study changes, before anything is run."""
    from reasonrl.pipeline.study_arms import arm_changes

    arms = {arm: one.recipe for (arm, _), one in resolved.items()}
    for arm, recipe in arms.items():
        for change in arm_changes(main, recipe):
            say(f"study {study}, arm {arm}: {change}")


def _runs_elsewhere(recipe: Recipe, directory: Path) -> tuple[Path, ...]:
    """Folders of the runs of this recipe that lie beside a study's: of its other studies, and the plain one."""
    output = directory.parent
    named = [
        output / study / f"{arm}-seed{seed}"
        for study, plan in recipe.studies.items()
        for arm in plan.arms
        for seed in plan.seeds
        if study != directory.name
    ]
    return tuple(run for run in (*named, output) if RunDirectory(run).exists())


def _no_study(study: str, known: tuple[str, ...], path: str | Path) -> Problem:
    near = get_close_matches(study, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else "add it under studies:, or name one that is there"
    return Problem(
        f"studies.{study}", f"there is no study {study!r}; allowed: {', '.join(known) or 'none'}", str(path), fix
    )


def _compare(
    directory: Path,
    study: str,
    resolved: Mapping[tuple[str, int], ResolvedRecipe],
    runs: Mapping[tuple[str, int], RunSummary],
    say: Say,
) -> tuple[Path, ...]:
    """One table over arms and seeds; nothing for a recipe that evaluates nothing."""
    from reasonrl.eval.study import compare_study, study_table, write_study

    _, baseline, confidence = _rows(next(iter(resolved.values())))
    if baseline is None:
        say(f"study {study}: no stage of kind eval or prm_eval, so there is nothing to compare")
        return ()
    evaluations: dict[str, dict[int, dict[str, Path]]] = {}
    for (arm, seed), run in runs.items():
        results = {stage.name: stage.result for stage in run.stages}
        own, _, _ = _rows(resolved[arm, seed])
        found = {label: results[stage].data for label, stage in own.items()}
        evaluations.setdefault(arm, {})[seed] = {
            label: data.parent for label, data in found.items() if data is not None
        }
    comparison = compare_study(evaluations, baseline=baseline, confidence=confidence)
    comparison = replace(comparison, notes=(*_failed_gates(runs), *comparison.notes))
    say(study_table(comparison))
    return tuple(write_study(comparison, directory))


def _failed_gates(runs: Mapping[tuple[str, int], RunSummary]) -> list[str]:
    """A note for every gate that failed, with the runs that it stands in."""
    from reasonrl.pipeline.stages.gate import failures

    found: dict[str, list[str]] = {}
    for (arm, seed), run in runs.items():
        gates = {one.name: one.result.data for one in run.stages if one.kind == "gate" and one.result.data is not None}
        for note in failures(gates):
            found.setdefault(note, []).append(f"{arm}-seed{seed}")
    return [f"{note} (in {', '.join(where)})" for note, where in found.items()]


def _rows(resolved: ResolvedRecipe) -> tuple[dict[str, str], str | None, float]:
    """Label -> evaluation stage, the baseline's label, and the confidence.

    They are those of the last compare stage; without one, every evaluation is a row and the first the baseline.
    """
    from reasonrl.recipe import CompareStage, expand_stages
    from reasonrl.recipe.stages import EVALUATIONS

    instances = expand_stages(resolved.recipe)
    for instance in reversed(instances):
        if isinstance(instance.config, CompareStage):
            config = instance.config
            return {label: row.stage for label, row in config.rows.items()}, config.baseline, config.confidence
    rows = {instance.name: instance.name for instance in instances if instance.config.kind in EVALUATIONS}
    return rows, next(iter(rows), None), 0.95
