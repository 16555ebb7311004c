"""The reference of all keys of a recipe, as Markdown, made from the schema: what it says is what is checked."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from reasonrl.recipe.fields import FieldClass, field_class
from reasonrl.recipe.launching import LaunchConfig, LaunchLimits
from reasonrl.recipe.lora import LoraSettings
from reasonrl.recipe.schema import Recipe
from reasonrl.recipe.sources import DataSource, Loop, RolloutConfig, Study
from reasonrl.recipe.stages import STAGES, SuiteConfig

#: What stages share, in the order of the page.
PARTS: dict[str, type[BaseModel]] = {
    "data source": DataSource,
    "rollout": RolloutConfig,
    "launch": LaunchConfig,
    "launch.limits": LaunchLimits,
    "lora, critic_lora": LoraSettings,
    "suites": SuiteConfig,
    "loop": Loop,
    "studies": Study,
}


def recipe_reference() -> str:
    """Every key of every model of a recipe: its type, default, class of change, and what it is."""
    intro = "Made from the schema. A change of a key changes the stage's result, unless it is **operational**, or"
    intro += " **extensible**: then it may grow ([run_directory.md](run_directory.md))."
    parts = ["# Recipe reference", "", intro, ""]
    parts += ["## Top level", "", *_model(Recipe)]
    for name, model in PARTS.items():
        parts += ["", f"## `{name}`", "", *_model(model)]
    for kind, stage in STAGES.items():
        parts += ["", f"## Stage kind `{kind}`", "", *_model(stage)]
    return "\n".join(parts) + "\n"


def _model(model: type[BaseModel]) -> Iterator[str]:
    document = inspect.getdoc(model) or ""
    head, _, attributes = document.partition("Attributes:")
    yield from (head.strip(), "")
    told = _told(attributes)
    yield "| key | type | default | class | what |"
    yield "|---|---|---|---|---|"
    for name, field in model.model_fields.items():
        kind = field_class(model, name)
        mark = "" if kind is FieldClass.IDENTITY else kind.value
        default = field.get_default() if field.default_factory is None else None
        empty = default is None or default is PydanticUndefined
        shown = "required" if field.is_required() else "" if empty else f"`{_plain(default)}`"
        cells = (f"`{name}`", _type(field.annotation), shown, mark, told.get(name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _told(attributes: str) -> dict[str, str]:
    """Key -> text, of a docstring's `a, b: text; c: text` paragraphs."""
    told: dict[str, str] = {}
    for paragraph in re.split(r"\n(?=\S)", inspect.cleandoc(attributes)):
        for part in re.split(r"; (?=[\w, ]+: )", " ".join(paragraph.split())):
            names, colon, text = part.partition(": ")
            if colon and re.fullmatch(r"[\w, ]+", names):
                told.update(dict.fromkeys((name.strip() for name in names.split(",")), text))
    return told


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _type(annotation: Any) -> str:
    """A type in a word or two, as YAML has it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in arguments if one is not type(None)))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}" if arguments else "list"
    if origin is dict or annotation is dict:
        return "mapping"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "mapping" if name.endswith(("Config", "Settings", "Limits", "Source")) else name)
