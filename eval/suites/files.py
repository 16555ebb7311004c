"""Suites and protocols in YAML files: a mapping of names to entries, every mistake reported with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.fields import Config
from reasonrl.recipe.messages import explain
from reasonrl.recipe.yaml_files import read_layer

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
M = TypeVar("M", bound=Config)


def read_models(path: Path, model: type[M]) -> dict[str, M]:
    """The entries of a file by name.

    Args:
        path: a YAML file: a mapping of names to mappings.
        model: what each of them is.

    Raises:
        RecipeError: no such file, no YAML, or entries that are wrong; all problems at once.
    """
    layer = read_layer(path)
    problems, found = list(layer.problems), {}
    for name, raw in ({} if problems else layer.tree).items():
        if not _NAME.fullmatch(str(name)):
            place = str(layer.origins.get(str(name), path))
            problems.append(
                Problem(str(name), "is a name with other signs than letters, digits, _ and -", place, "rename it")
            )
            continue
        try:
            found[str(name)] = model.model_validate(raw)
        except ValidationError as error:
            for key, message, fix in explain(error, raw if isinstance(raw, dict) else {}, model):
                whole = f"{name}.{key}" if key else str(name)
                origin = layer.origins.get(whole) or layer.origins.get(str(name))
                problems.append(Problem(whole, message, str(origin) if origin else str(path), fix))
    if not problems and not found:
        problems = [Problem("", "holds no entry", str(path), "write NAME: {about: …, …}")]
    if problems:
        raise RecipeError(problems)
    return found
