"""From pydantic's errors to problems that name the key, the value, what was allowed, and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from reasonrl.recipe.fields import Config, near
from reasonrl.recipe.launching import LaunchConfig
from reasonrl.recipe.schema import Recipe
from reasonrl.recipe.sources import DataSource, Loop, RewardTerm, RolloutConfig, Study
from reasonrl.recipe.stage_base import Stage, TrainingStage
from reasonrl.recipe.stages import AVAILABLE, LATER, STAGES, SuiteConfig
from reasonrl.recipe.trl_args import owned_args, passing_args

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
}

_MEANT = {
    ("advantage", "grpo"): "write group",
    ("advantage", "ppo"): "write gae",
    ("advantage", "dr_grpo"): "write group, with scale_rewards: none and loss_type: dr_grpo",
    ("advantage", "reinforce++"): "write reinforce_pp",
    ("loss_type", "gspo"): "set importance_sampling_level: sequence; loss_type weighs tokens",
    ("loss_type", "ppo"): "write dapo: one mean over all tokens",
}
"""What values that are names elsewhere are written as here, by key."""


def explain(
    error: ValidationError, tree: Mapping[str, Any], root: type[BaseModel] | None = None
) -> list[tuple[str, str, str]]:
    """Every error as (dotted key, message, fix); `tree` is the plain tree that was validated, as a recipe or as
    `root`.
    """
    found = []
    details = error.errors(include_url=False)
    for detail in details:
        key, loc = dotted_key(detail["loc"]), detail["loc"]
        if detail["type"] == "too_short" and any(other["loc"][:-1][: len(loc)] == loc for other in details):
            continue  # pydantic does not count the items that are wrong by themselves
        if detail["type"] == "union_tag_invalid":
            key += ".kind"
        message, fix = _explain(detail, key, tree, root)
        found.append((key, message, fix))
    return found


def dotted_key(loc: tuple[int | str, ...]) -> str:
    """A location of pydantic's as a key of the recipe: tags of unions and our own `trl_args` left out."""
    parts = [str(part) for part in loc]
    if len(parts) > 2 and parts[0] == "stages" and parts[2] in STAGES:
        del parts[2]
    if len(parts) > 3 and parts[2] == "trl_args":
        del parts[2]
    return ".".join(part for part in parts if not part.startswith("@") and part != "[key]")


def _explain(detail: Any, key: str, tree: Mapping[str, Any], root: type[BaseModel] | None = None) -> tuple[str, str]:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    name, above = key.rsplit(".", 1)[-1], key.rpartition(".")[0]
    model = model_at(above, tree) if root is None else model_below(root, above)
    if kind == "reasonrl":
        return context["message"], context.get("fix", "")
    if kind == "missing":
        return _missing(key, name, tree)
    if kind == "extra_forbidden":
        return _unknown(name, model, key)
    if kind in ("union_tag_invalid", "union_tag_not_found", "literal_error"):
        return _choice(detail, key, name, model, tree)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"is {value!r}; allowed: {words.format(f'{context[bound]:g}')}", ""
    if kind == "string_pattern_mismatch":
        return f"is {value!r}; allowed: letters, digits, '_' and '-'" + (
            ", '.'" if key == "recipe" else ""
        ), "choose another name"
    if kind in ("too_short", "string_too_short"):
        return "is empty", "give at least one"
    if kind in _TYPES:
        if isinstance(value, str) and value.startswith(("${stage:", "${previous:")):
            return f"is {value!r}; a reference is not possible here, allowed: {_TYPES[kind]}", ""
        if name in ("lora", "critic_lora") and value is True:
            return f"is {_shown(value)}; allowed: {_TYPES[kind]}", f"write {name}: {{r: 16}}"
        return f"is {_shown(value)}; allowed: {_TYPES[kind]}", _type_fix(kind, value)
    return str(detail["msg"]), ""


def _missing(key: str, name: str, tree: Mapping[str, Any]) -> tuple[str, str]:
    if key == "stages":
        return "the recipe has no stages", "add stages: {NAME: {kind: …}}"
    if name == "data":
        data = tree.get("data")
        names = list(data) if isinstance(data, Mapping) else []
        return "is needed and not given", "add data: " + (f"${{data.{names[0]}}}" if names else "{path: FILE}")
    if name == "model":
        return "is needed and not given", "add model: at the top level or in the stage: a path, a hub id, or tiny:qwen2"
    return "is needed and not given", f"add {name}: …"


def _unknown(name: str, model: type[BaseModel] | None, key: str) -> tuple[str, str]:
    allowed = [field for field in model.model_fields if field != "trl_args"] if model else []
    config = model.trl_config if model is not None and issubclass(model, TrainingStage) else ""
    passing = passing_args(config) if config else []
    hints = model.hints if model is not None and issubclass(model, Config) else {}
    match = hints.get(name) or near(name, [*allowed, *passing])
    if match is None and config and near(name, owned_args(config)):
        owned = near(name, owned_args(config))
        return (
            f"unknown key {name!r}",
            f"did you mean {owned!r}? It is set by the library: {owned_args(config)[str(owned)]}",
        )
    if "." in name and not model:
        return f"unknown key {name!r}", "write it nested"
    if match:
        return f"unknown key {name!r}", f"did you mean {match!r}?"
    more = f", and the arguments of trl.{config}" if config else ""
    return f"unknown key {name!r}; allowed: {', '.join(allowed)}{more}", f"remove {name}"


def _choice(
    detail: Any, key: str, name: str, model: type[BaseModel] | None, tree: Mapping[str, Any]
) -> tuple[str, str]:
    context, value = detail.get("ctx", {}), detail["input"]
    if detail["type"] == "union_tag_invalid" and str(context["tag"]).startswith("@"):
        steps = [one.strip("'@ ") for one in str(context["expected_tags"]).split(",")]
        given = value.get("step") if isinstance(value, Mapping) else None
        match = near(str(given), steps)
        said = f"unknown step {given!r}" if given is not None else "has no step"
        return f"{said}; steps: {', '.join(steps)}", f"did you mean {match!r}?" if match else "write {step: rules, …}"
    if detail["type"] == "union_tag_not_found":
        if not isinstance(value, Mapping):
            return f"is {_shown(value)}; allowed: a mapping with a kind", "write {kind: sft, …}"
        match = near("kind", value)
        return (
            f"has no kind; available: {', '.join(AVAILABLE)}",
            f"did you mean kind instead of {match!r}?" if match else "add kind: …",
        )
    if detail["type"] == "union_tag_invalid":
        kind = context["tag"]
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            return f"is no text; available: {', '.join(AVAILABLE)}", "write kind: sft"
        if kind in LATER:
            return (
                f"kind {kind!r} is not available in this version; available: {', '.join(AVAILABLE)}",
                "use an available kind",
            )
        match = near(kind, (*AVAILABLE, *LATER))
        return f"unknown kind {kind!r}; available: {', '.join(AVAILABLE)}", f"did you mean {match!r}?" if match else ""
    field = model.model_fields.get(name) if model else None
    meant = _MEANT.get((name, str(value)))
    choices = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    match = near(str(value), choices)
    what = "is" if field is not None or key.startswith("report_to") else "has the name"
    fix = meant or (f"did you mean {match!r}?" if match else "")
    return f"{what} {_shown(value)}; allowed: {', '.join(choices)}", fix


def _type_fix(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind.startswith(("int", "float")):
        try:
            float(value)
        except ValueError:
            return ""
        return "remove the quotes"
    if isinstance(value, str) and kind.startswith("bool"):
        return "write true or false without quotes"
    if kind.startswith("int") and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if kind == "tuple_type":
        return f"write [{value}]"
    if kind == "string_type" and isinstance(value, (int, float, bool)):
        return f'put it in quotes: "{value}"'
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "empty (null)"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def model_at(key: str, tree: Mapping[str, Any]) -> type[BaseModel] | None:
    """The model that validates the mapping at a key of the tree, as far as it can be told."""
    parts = key.split(".") if key else []
    match parts:
        case []:
            return Recipe
        case ["rollout"]:
            return RolloutConfig
        case ["launch"]:
            return LaunchConfig
        case ["loop"]:
            return Loop
        case ["studies", _]:
            return Study
        case ["data", _]:
            return DataSource
        case ["stages", name]:
            stages = tree.get("stages")
            stage = stages.get(name) if isinstance(stages, Mapping) else None
            kind = stage.get("kind") if isinstance(stage, Mapping) else None
            return STAGES.get(kind) if isinstance(kind, str) else Stage
        case ["stages", _, "suites", _]:
            return SuiteConfig
        case ["stages", _, *_, "data" | "eval_data"]:
            return DataSource
        case ["stages", _, *_, "rollout"]:
            return RolloutConfig
        case ["stages", _, *_, "launch"]:
            return LaunchConfig
        case ["stages", _, *rest] if "reward" in rest:
            return RewardTerm
        case ["stages", name, *rest]:
            stage = model_at(f"stages.{name}", tree)
            return model_below(stage, ".".join(rest)) if stage is not None else None
    return None


def model_below(root: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model that validates the mapping at a key below `root`, by the types of the fields."""
    model: type[BaseModel] | None = root
    parts = key.split(".") if key else []
    while parts and model is not None:
        field = model.model_fields.get(parts.pop(0))
        inner = list(dict.fromkeys(_models_in(field.annotation))) if field is not None else []
        model = inner[0] if len(inner) == 1 else None
        if model is not None and field is not None and get_origin(field.annotation) is dict:
            parts = parts[1:]  # the entry's name in a mapping of models
        elif model is not None and field is not None and parts and parts[0] not in model.model_fields:
            parts = parts[1:] if _holds_mapping(field.annotation) else parts  # one, or several by name
    return model


def _holds_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_holds_mapping(argument) for argument in get_args(annotation))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
