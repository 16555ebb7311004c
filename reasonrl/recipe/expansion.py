"""Which stage instance a reference means, and the unrolled list of stage instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.fields import near
from reasonrl.recipe.kept_steps import Saving, not_kept, saving_of
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.references import Reference, is_reference
from reasonrl.recipe.schema import Recipe
from reasonrl.recipe.sources import Loop
from reasonrl.recipe.stage_base import Stage
from reasonrl.recipe.stages import EVALUATIONS, STAGES
from reasonrl.recipe.training_fields import DataTraining


class ReferenceProblem(Exception):
    """A reference that means nothing; carries the message and the fix."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


@dataclass(frozen=True)
class StageInstance:
    """One run of a stage.

    Attributes:
        name: the stage's name, or `train.2` for pass 2 of a loop.
        config: the stage with every reference resolved to instance names.
        inputs: the references among its values, each once.
    """

    name: str
    config: Stage
    inputs: tuple[Reference, ...]


@dataclass(frozen=True)
class StageGraph:
    """Names, kinds, order and loop of a recipe's stages; enough to resolve references.

    Attributes:
        kinds: stage -> kind, in order; an unknown kind is allowed and makes anything.
        looped, times: the stages of the loop and its passes (0 without a loop).
        max_steps: stage -> steps, where known.
        saves: stage -> how it saves checkpoints, where known.
    """

    kinds: Mapping[str, str]
    looped: tuple[str, ...] = ()
    times: int = 0
    max_steps: Mapping[str, int] | None = None
    saves: Mapping[str, Saving] | None = None

    def resolve(self, reference: Reference, key: str, stage: str, turn: int) -> Reference | str | None:
        """What a reference at `stage` (pass `turn`, 0 outside the loop) and `key` means.

        Returns:
            A reference to an instance; or, for the first pass of `${previous:…}`, the fallback's text (None if there
            is none).

        Raises:
            ReferenceProblem: unknown stage, a later stage, itself, a part the stage does not make.
        """
        name, _, number = reference.stage.partition(".")
        if name not in self.kinds:
            match = near(name, self.kinds)
            fix = f"did you mean {match!r}?" if match else f"stages: {', '.join(self.kinds)}"
            raise ReferenceProblem(f"{str(reference)!r}: there is no stage {name!r}", fix)
        self._check_part(reference, key, name)
        if reference.previous:
            return self._previous(reference, name, turn)
        if number:
            return self._pass(reference, name, int(number), turn)
        if name == stage:
            fix = f"use ${{previous:{name}}}" if turn else "name an earlier stage, or a model"
            raise ReferenceProblem(f"{str(reference)!r} refers to its own stage", fix)
        order = list(self.kinds)
        if order.index(name) > order.index(stage):
            fix = (
                f"use ${{previous:{name}}} for the pass before"
                if turn and name in self.looped
                else f"move {name!r} before {stage!r}"
            )
            raise ReferenceProblem(f"{str(reference)!r}: stage {name!r} stands after {stage!r}", fix)
        if name not in self.looped:
            return reference
        return _at(reference, f"{name}.{turn or self.times}")

    def _previous(self, reference: Reference, name: str, turn: int) -> Reference | str | None:
        if not turn or name not in self.looped:
            missing = "this stage" if not turn else f"stage {name!r}"
            fix = (
                f"use ${{stage:{name}}}, or add a loop"
                if not self.times
                else f"stages of the loop: {', '.join(self.looped)}"
            )
            raise ReferenceProblem(f"{str(reference)!r}: {missing} is not in a loop, so there is no previous pass", fix)
        return reference.fallback if turn == 1 else _at(reference, f"{name}.{turn - 1}")

    def _pass(self, reference: Reference, name: str, number: int, turn: int) -> Reference:
        if name not in self.looped or not 1 <= number <= self.times:
            passes = f"passes: 1 to {self.times}" if name in self.looped else f"stage {name!r} is not in a loop"
            raise ReferenceProblem(f"{str(reference)!r}: there is no pass {number} of stage {name!r}", passes)
        if turn:
            raise ReferenceProblem(
                f"{str(reference)!r} names a pass from inside the loop",
                f"use ${{stage:{name}}} or ${{previous:{name}}}",
            )
        return reference

    def _check_part(self, reference: Reference, key: str, name: str) -> None:
        """Whether stage `name` makes what the key takes."""
        kind, field = self.kinds[name], key.split(".")[0]
        if kind not in STAGES or field == "max_cpu_seconds":
            return
        if field in ("results", "gates"):
            if field == "gates" and kind != "gate":
                gates = [other for other, its in self.kinds.items() if its == "gate"]
                raise ReferenceProblem(
                    f"{str(reference)!r}: {name!r} is of kind {kind}, no gate", f"gates: {', '.join(gates) or 'none'}"
                )
            return
        if field == "rows":
            if kind not in EVALUATIONS:
                evals = [other for other, its in self.kinds.items() if its in EVALUATIONS]
                raise ReferenceProblem(
                    f"{str(reference)!r}: a row is a stage of kind eval, and {name!r} is of kind {kind}",
                    f"eval stages: {', '.join(evals) or 'none'}",
                )
            return
        keys = key.split(".")
        rows = "data" in keys[-1] or keys[-1] == "path" or bool({"sources", "against"} & set(keys[:-1]))
        part = reference.part or ("data" if rows else "model")
        makes = STAGES[kind].makes
        if part not in makes:
            able = [other for other, its in self.kinds.items() if its in STAGES and part in STAGES[its].makes]
            raise ReferenceProblem(
                f"{str(reference)!r}: stage {name!r} (kind {kind}) makes no {part}"
                + (f"; it makes {' and '.join(makes)}" if makes else ""),
                f"stages that make {part}: {', '.join(able) or 'none'}",
            )
        if reference.step == "all" and field != "models":
            raise ReferenceProblem(
                f"{str(reference)!r} means several models, and {field} takes one", f"use ${{stage:{name}}} or @step=N"
            )
        if field == "models" and part == "critic":
            text = f"{str(reference)!r}: critics are not averaged"
            raise ReferenceProblem(text, f"use {str(reference).replace('.critic', '')}")
        steps = (self.max_steps or {}).get(name)
        if isinstance(reference.step, int) and steps is not None and not 0 < reference.step <= steps:
            raise ReferenceProblem(
                f"{str(reference)!r}: stage {name!r} has the steps 1 to {steps}", f"use a step of at most {steps}"
            )
        if isinstance(reference.step, int):
            problem = not_kept(name, reference.step, steps, (self.saves or {}).get(name))
            if problem is not None:
                raise ReferenceProblem(f"{str(reference)!r}: {problem[0]}", problem[1])


def _at(reference: Reference, instance: str) -> Reference:
    return Reference(instance, reference.part, reference.step)


def graph_of(tree: Mapping[str, Any]) -> StageGraph:
    """The graph of a plain tree that may hold mistakes; what is malformed is left out."""
    stages = tree.get("stages")
    kinds = {
        name: str(stage.get("kind")) if isinstance(stage, Mapping) else ""
        for name, stage in (stages.items() if isinstance(stages, Mapping) else ())
    }
    steps = {
        name: stage["max_steps"]
        for name, stage in (stages.items() if isinstance(stages, Mapping) else ())
        if isinstance(stage, Mapping) and isinstance(stage.get("max_steps"), int)
    }
    saves = {
        name: found
        for name, stage in (stages.items() if isinstance(stages, Mapping) else ())
        if isinstance(stage, Mapping) and (found := saving_of(stage)) is not None
    }
    loop = tree.get("loop")
    looped = loop.get("stages") if isinstance(loop, Mapping) else None
    times = loop.get("times") if isinstance(loop, Mapping) else None
    if not isinstance(looped, list) or not isinstance(times, int) or times < 1:
        return StageGraph(kinds, max_steps=steps, saves=saves)
    return StageGraph(kinds, tuple(name for name in looped if name in kinds), times, steps, saves)


def reference_problems(tree: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every wrong reference of a plain tree and every mistake of its loop, as (key, message, fix)."""
    graph, found = graph_of(tree), list(_loop_problems(tree))
    stages = tree.get("stages")
    data = tree.get("data")
    cycles = _cycles(tree)
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        for key, text in _texts(stage):
            try:
                reference = Reference.parse(text)
            except ValueError:
                continue  # the schema reports it where a reference is allowed
            for turn in range(1, min(graph.times, 2) + 1) if name in graph.looped else (0,):
                try:
                    _follow(
                        graph, reference, key, name, turn, tree.get("model"), data if isinstance(data, Mapping) else {}
                    )
                except ReferenceProblem as problem:
                    cycle = cycles.get(name) if not reference.previous else None
                    message = problem.message + (
                        f" (cyclic: {cycle})" if cycle and reference.stage in cycle.split(" -> ") else ""
                    )
                    found.append((f"stages.{name}.{key}", message, problem.fix))
                    break
    return found


def _loop_problems(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    loop, stages = tree.get("loop"), tree.get("stages")
    names = loop.get("stages") if isinstance(loop, Mapping) else None
    if not isinstance(names, list) or not isinstance(stages, Mapping):
        return
    known = list(stages)
    for index, name in enumerate(names):
        if isinstance(name, str) and name not in known:
            match = near(name, known)
            yield (
                f"loop.stages.{index}",
                f"there is no stage {name!r}",
                f"did you mean {match!r}?" if match else f"stages: {', '.join(known)}",
            )
    inside = [name for name in names if name in known]
    if len(inside) == len(names) and inside:
        start = known.index(inside[0])
        if known[start : start + len(inside)] != inside:
            fix = f"order of the stages: {', '.join(known)}"
            yield "loop.stages", f"{', '.join(inside)} do not stand next to each other in this order under stages", fix


def _cycles(tree: Mapping[str, Any]) -> dict[str, str]:
    """Stage -> a circle of references that it is in, written out."""
    stages = tree.get("stages")
    edges: dict[str, list[str]] = {}
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        edges[name] = []
        for _, text in _texts(stage):
            try:
                reference = Reference.parse(text)
            except ValueError:
                continue
            if not reference.previous and reference.stage != name:
                edges[name].append(reference.stage)
    found = {}
    for name in edges:
        paths = [[name]]
        seen = {name}
        while paths:
            path = paths.pop(0)
            for after in edges.get(path[-1], ()):
                if after == name:
                    found[name] = " -> ".join([*path, name])
                    paths.clear()
                    break
                if after not in seen:
                    seen.add(after)
                    paths.append([*path, after])
    return found


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every reference text under a plain value, with its key."""
    if isinstance(value, str):
        if is_reference(value):
            yield key, value
    elif isinstance(value, (Mapping, list)):
        for name, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(child, f"{key}.{name}" if key else str(name))


def _follow(
    graph: StageGraph, reference: Reference, key: str, stage: str, turn: int, model: Any, data: Mapping[str, Any]
) -> Any:
    """What stands in the reference's place: a reference to an instance, a model's name, or a data source."""
    target = graph.resolve(reference, key, stage, turn)
    is_model = key.split(".")[-1] in ("model", "critic_model")
    if isinstance(target, Reference):
        return target
    if target is None and is_model and model is not None:
        return model
    if target is None:
        fix = f"give a second argument: ${{previous:{reference.stage},FALLBACK}}" + (
            ", or a model at the top level" if is_model else ""
        )
        raise ReferenceProblem(f"{str(reference)!r}: pass 1 of the loop has no previous pass", fix)
    if is_reference(target):
        try:
            inner = Reference.parse(target)
        except ValueError as error:
            raise ReferenceProblem(str(error), "check the second argument") from error
        return _follow(graph, inner, key, stage, turn, model, data)
    if target == "${model}":
        if model is None:
            raise ReferenceProblem(
                f"{str(reference)!r}: there is no model at the top level", "add model: at the top level"
            )
        return model
    if target.startswith("${data."):
        name = target[len("${data.") : -1]
        if name not in data or is_model:
            match = near(name, data)
            hint = f"did you mean {match!r}?" if match else f"data sources: {', '.join(data) or 'none'}"
            message = f"{key} takes a model" if is_model else f"there is no data source {name!r}"
            raise ReferenceProblem(f"{str(reference)!r}: {message}", hint)
        return data[name]
    if not is_model:
        raise ReferenceProblem(f"{str(reference)!r}: {target!r} is no data source", "use ${previous:NAME,${data.NAME}}")
    return target


def expand_stages(recipe: Recipe) -> list[StageInstance]:
    """The stage instances in the order they run, loops unrolled and references resolved.

    Raises:
        RecipeError: a reference means nothing; every such problem is in it.
    """
    trained = {name: stage for name, stage in recipe.stages.items() if isinstance(stage, (PPOStage, DataTraining))}
    steps = {name: stage.max_steps for name, stage in trained.items() if stage.max_steps is not None}
    loop = recipe.loop or Loop(stages=(next(iter(recipe.stages)),), times=1)
    looped = loop.stages if recipe.loop else ()
    graph = StageGraph(
        {name: stage.kind for name, stage in recipe.stages.items()},
        looped,
        loop.times if looped else 0,
        steps,
        {name: Saving(stage.save_steps, stage.save_total_limit) for name, stage in trained.items()},
    )
    problems: list[Problem] = []
    instances: list[StageInstance] = []
    for name, turn in _order(list(recipe.stages), looped, graph.times):
        inputs: dict[Reference, None] = {}

        def settle(
            value: Any, key: str, name: str = name, turn: int = turn, inputs: dict[Reference, None] = inputs
        ) -> Any:
            if not isinstance(value, Reference):
                return value
            try:
                target = _follow(graph, value, key, name, turn, recipe.model, recipe.data)
            except ReferenceProblem as problem:
                problems.append(Problem(f"stages.{name}.{key}", problem.message, "", problem.fix))
                return value
            if isinstance(target, Reference):
                inputs[target] = None
            return target

        config = _replace(recipe.stages[name], settle, "")
        instances.append(StageInstance(f"{name}.{turn}" if turn else name, config, tuple(inputs)))
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return instances


def _order(names: Sequence[str], looped: Sequence[str], times: int) -> Iterator[tuple[str, int]]:
    done = False
    for name in names:
        if name not in looped:
            yield name, 0
        elif not done:
            done = True
            for turn in range(1, times + 1):
                for inner in looped:
                    yield inner, turn


def _replace(value: Any, settle: Any, key: str) -> Any:
    """A copy of a model with `settle(value, key)` applied to everything in it."""
    if isinstance(value, BaseModel):
        changes = {}
        for name in type(value).model_fields:
            before = getattr(value, name)
            after = _replace(before, settle, f"{key}.{name}" if key else name)
            if after is not before:
                changes[name] = after
        return value.model_copy(update=changes) if changes else value
    if isinstance(value, dict):
        replaced = {name: _replace(child, settle, f"{key}.{name}") for name, child in value.items()}
        return replaced if any(replaced[name] is not value[name] for name in value) else value
    if isinstance(value, (list, tuple)):
        items = [_replace(child, settle, f"{key}.{place}") for place, child in enumerate(value)]
        same = all(after is before for after, before in zip(items, value, strict=True))
        return value if same else type(value)(items)
    return settle(value, key)
