"""`--dry-run`: go through every stage without training. Reads what is there, writes nothing to the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ReasonRLError, RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.directory import RunDirectory
from reasonrl.pipeline.inspection import Inspection
from reasonrl.pipeline.planning import Action, PlannedStage, plan_run
from reasonrl.pipeline.requirements import installed
from reasonrl.pipeline.stages import as_stage, stage_kind, stage_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from reasonrl.recipe import ResolvedRecipe, StageInstance


def rehearse(
    resolved: ResolvedRecipe,
    instances: Sequence[StageInstance],
    run: RunDirectory,
    say: Callable[[str], None],
    restart: Sequence[str] = (),
    shown: dict[str, str] | None = None,
) -> None:
    """Say what a run would do: versions; for each stage its plan, batch arithmetic, tokenizer, first rows, memory.

    Args:
        resolved: the recipe.
        instances: its stages, expanded.
        run: the run directory; it may hold an earlier run, and need not exist.
        say: takes each line.
        restart: stages that would be made anew.
        shown: of a study, product of each stage that an earlier run has shown -> that run's name; this run's are added.
            Such a stage is named only.

    Raises the first error that the run itself would meet (a changed stage, data that cannot be read, a version out
    of range), after all stages were gone through.
    """
    recipe = resolved.recipe
    say(f"dry run of {recipe.recipe} (seed {recipe.seed}): nothing is trained, {run.path} is not written to")
    errors: list[ReasonRLError] = []
    for line in version_lines(errors):
        say(f"  {line}")
    planned = _plan(resolved, instances, run, restart, errors)
    finished = {stage.name: stage.done.result for stage in planned.values() if stage.done is not None}
    inspection = Inspection(instances, finished, resolved.recipe.seed)
    shown = {} if shown is None else shown
    for number, instance in enumerate(instances, start=1):
        label = f"[{number}/{len(instances)}] {instance.name} ({instance.config.kind})"
        stage = planned.get(instance.name)
        earlier = shown.setdefault(stage.identity.product(stage.attempt), run.path.name) if stage else run.path.name
        if earlier != run.path.name:
            say(f"{label}: as in {earlier}")
            continue
        say(f"{label}: {_ACTIONS[stage.action] if stage else 'cannot be planned, see the end'}")
        context = _context(resolved, instance, run, finished)
        for line in _lines(instance, context, inspection, errors):
            say(f"  {line}")
    for item in inspection.unchecked:
        say(f"unchecked, needs the hub: {item}")
    if errors:
        for error in errors[1:]:
            say(f"also: {error}")
        raise errors[0]
    say("dry run: nothing wrong was found")


_ACTIONS = {
    Action.SKIP: "would be skipped (done)",
    Action.SHARE: "would be shared",
    Action.START: "would be started",
    Action.RESUME: "would be resumed",
    Action.EXTEND: "would be extended",
    Action.REDO: "would be made anew (what it reads has changed)",
    Action.RESTART: "would be made anew",
}


def _plan(
    resolved: ResolvedRecipe,
    instances: Sequence[StageInstance],
    run: RunDirectory,
    restart: Sequence[str],
    errors: list[ReasonRLError],
) -> dict[str, PlannedStage]:
    home = resolved.path.parent.absolute()
    try:
        run.check_ours()
        plan = plan_run(instances, run, seed=resolved.recipe.seed, base_directory=home, restart=restart)
    except ReasonRLError as error:
        errors.append(error)
        return {}
    return {stage.name: stage for stage in plan}


def _context(
    resolved: ResolvedRecipe, instance: StageInstance, run: RunDirectory, finished: Mapping[str, StageResult]
) -> StageContext:
    recipe = resolved.recipe
    return StageContext(
        name=instance.name,
        directory=run.stage(instance.name).path,
        recipe_name=recipe.recipe,
        seed=recipe.seed,
        run_directory=run.path,
        launch=instance.config.launch,
        base_directory=resolved.path.parent.absolute(),
        report_to=tuple(recipe.report_to),
        results=finished,
        dry=True,
    )


def _lines(
    instance: StageInstance, context: StageContext, inspection: Inspection, errors: list[ReasonRLError]
) -> list[str]:
    """What there is to say about one stage; an error becomes a line, and is kept."""
    config: Any = instance.config
    lines: list[str] = []
    steps: list[Callable[[], list[str]]] = [
        lambda: batch_lines(config),
        lambda: inspection.plan_lines(config),
        lambda: inspection.model_lines(config),
    ]
    if inspection.needs_hub(config):
        steps += [
            lambda: inspection.data_lines(config),
            lambda: ["not rehearsed further: what is missing is on the hub"],
        ]
    else:
        # A training stage tells of its rows itself: what a row becomes is its own affair.
        steps += [] if stage_kind(config.kind).launched else [lambda: inspection.data_lines(config)]
        steps += [lambda: as_stage(stage_module(config.kind)).dry_run(config, context)]
    for step in steps:
        try:
            lines += step()
        except ReasonRLError as error:
            errors.append(error)
            lines.append(f"wrong: {error}")
    return lines


def batch_lines(config: Any) -> list[str]:
    """The batch arithmetic of a training stage in one line; nothing for other kinds."""
    if config.kind == "ppo":
        from reasonrl.recipe.batch import plan_batch
        from reasonrl.recipe.run_plan import run_lines

        plan = plan_batch(
            config.prompts_per_step,
            config.num_generations,
            num_processes=config.launch.num_processes,
            critic_steps=config.critic_steps,
            actor_steps=config.actor_steps,
            num_iterations=config.num_iterations,
            has_critic=config.advantage == "gae",
        )
        return [f"batch: {plan}", *run_lines(config)]
    if config.kind == "sft":
        processes = config.launch.num_processes
        total = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
        packed = f" of {config.max_length:,} packed tokens: {total * config.max_length:,}" if config.packing else ""
        return [
            f"batch: {config.per_device_train_batch_size} rows x {config.gradient_accumulation_steps} accumulation "
            f"steps x {processes} process{'es' if processes > 1 else ''} = {total} rows{packed} an optimizer step"
        ]
    return []


def version_lines(errors: list[ReasonRLError], package: str = "reasonrl") -> list[str]:
    """Installed versions of what this package requires, against its ranges; what does not fit goes into `errors`."""
    found = installed(package)
    errors += [RunError(item.fault) for item in found if item.fault]
    fitting = [f"{item.name} {item.found}" for item in found if item.fits]
    return [f"versions: {', '.join(fitting)}"] + [f"wrong: {error}" for error in errors]
