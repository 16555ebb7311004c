"""The work of `reasonrl labels probe`: the judges of a recipe's annotation, on a frozen set of gold labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import Interrupted

if TYPE_CHECKING:
    from reasonrl.pipeline.context import StageContext
    from reasonrl.prm.quality.probe import Drift, Frozen
    from reasonrl.recipe import AnnotateStage, ResolvedRecipe

Say = Callable[[str], None]


def probe_judges(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path,
    freeze: str | None = None,
    stage: str | None = None,
    against: int | None = None,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    as_json: bool = False,
    say: Say,
) -> bool:
    """Judge a probe set anew and hold the labels against an earlier run's. Killed, the same call goes on.

    Args:
        recipe, overrides, stage: whose judges, as `annotate_recipe`.
        folder: the probe set.
        freeze: make it of these gold labels first.
        against: number of the run to compare with; None is the first.
        tolerance: fall of accuracy that is borne.
        confidence: of the intervals.
        as_json: say JSON.
        say: takes lines for the user.

    Returns:
        Whether accuracy held: False if the interval of its change lies below `-tolerance` as a whole.

    Raises:
        RecipeError, RunError, DataError: what is asked for cannot be.
        StageFailed, EndpointError, Interrupted: as of an annotation.
    """
    from reasonrl.pipeline.annotate_command import annotation_of, up_to
    from reasonrl.prm.quality import probe
    from reasonrl.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    name = annotation_of(resolved, stage)
    frozen = probe.freeze(freeze, folder) if freeze is not None else probe.open_probe(folder)
    tell: Say = (lambda line: None) if as_json else say
    for line in frozen.aside.lines():
        tell(f"{freeze}: {line}")
    number, path = probe.next_run(folder)
    tell(f"{folder}: {frozen.solutions:,} solutions, {frozen.steps:,} gold labels, {frozen.sha256[:12]}; run {number}")
    _judge(up_to(resolved, name), name, frozen, path, tell)
    drift = probe.drift_of(folder, number, against, confidence)
    if as_json:
        say(json.dumps(drift.as_dict(), indent=1))
    for line in _told(drift, tolerance):
        tell(line)
    return not drift.fell(tolerance)


def _judge(resolved: ResolvedRecipe, name: str, frozen: Frozen, path: Path, say: Say) -> None:
    """Let the recipe's judges label the probe set into a folder."""
    from reasonrl.observe import Progress
    from reasonrl.pipeline.runner import resume_command
    from reasonrl.pipeline.signals import StopFlag, stop_on_signals
    from reasonrl.pipeline.stages.annotate import annotate_stage
    from reasonrl.prm.quality.probe import RECORDS
    from reasonrl.recipe import DataSource, SegmentConfig

    config, context = _stage(resolved, name, path, say)
    # The gold labels are of these steps, and the verdicts are theirs too.
    source = DataSource(path=str((frozen.path / RECORDS).absolute()))
    config = config.model_copy(update={"data": source, "segment": SegmentConfig(method="given"), "verify": None})
    stop, bar = StopFlag(), Progress(description="probe", unit="solution")
    with stop_on_signals(stop, bar.line), bar:
        try:
            annotate_stage(config, replace(context, stop=stop, progress=bar if bar.live else context.progress))
        except Interrupted:
            raise stop.interrupted(f"in {path}", resume_command(sys.argv)) from None


def _stage(resolved: ResolvedRecipe, name: str, path: Path, say: Say) -> tuple[AnnotateStage, StageContext]:
    """The annotation's settings, and a context in which what earlier stages made is found."""
    from reasonrl.pipeline.context import StageContext
    from reasonrl.pipeline.directory import RunDirectory
    from reasonrl.pipeline.planning import plan_run
    from reasonrl.recipe import expand_stages

    recipe, home = resolved.recipe, resolved.path.parent.absolute()
    run = RunDirectory(Path(recipe.output).expanduser().absolute())
    *before, stage = plan_run(expand_stages(recipe), run, seed=recipe.seed, base_directory=home)
    config: Any = stage.instance.config
    return config, StageContext(
        name=name,
        directory=path,
        recipe_name=recipe.recipe,
        seed=recipe.seed,
        run_directory=run.path,
        launch=config.launch,
        base_directory=home,
        results={one.name: one.done.result for one in before if one.done is not None},
        say=say,
    )


def _told(drift: Drift, tolerance: float) -> list[str]:
    from reasonrl.prm.quality.telling import change_text, share_text

    lines = [f"run {drift.run}: accuracy {share_text(drift.accuracy)} % over {drift.accuracy.steps:,} steps"]
    if drift.unlabelled:
        lines.append(f"  {drift.unlabelled:,} solutions have no labels in it")
    if drift.run == drift.against:
        return [*lines, "  the first run: later ones are held against it"]
    lines += [
        f"run {drift.against}: accuracy {share_text(drift.before)} %",
        f"change: {change_text(drift.change)} points over {drift.change.steps:,} steps; {drift.flipped:,} labels"
        " changed",
        *(
            f"  {name} differs: was {json.dumps(old)[:200]}, is {json.dumps(new)[:200]}"
            for name, (old, new) in drift.settings.items()
        ),
    ]
    if drift.fell(tolerance):
        lines.append(f"accuracy FELL by more than {100 * tolerance:g} points: look at the judge before labelling on")
    return lines
