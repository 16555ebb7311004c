"""One stage's settings from a command line, without a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from reasonrl.errors import Problem, RecipeError
from reasonrl.recipe.messages import explain
from reasonrl.recipe.stage_base import Stage
from reasonrl.recipe.yaml_files import parse_value

S = TypeVar("S", bound=Stage)


def read_settings(tokens: Sequence[str], example: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """The settings among `KEY=VALUE` tokens as (dotted key, value), values read as in YAML.

    Args:
        tokens: as they stand on the command line.
        example: a token that would do, for the message.
        problems: takes what is wrong with the others.
    """
    for token in tokens:
        key, equals, text = token.partition("=")
        if not equals or not key:
            problems.append(Problem(token, "is no setting", fix=f"write KEY=VALUE, such as {example}"))
            continue
        try:
            yield key, parse_value(text)
        except ValueError as error:
            problems.append(Problem(key, f"its value {text!r} cannot be read: {error}", fix="quote it as in YAML"))


def stage_alone(kind: type[S], tree: Mapping[str, Any], command: str) -> S:
    """The stage that a plain tree says.

    Raises:
        RecipeError: every setting that does not fit; the command's name stands for what has no key.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        found = explain(error, tree, kind)
        raise RecipeError([Problem(key or command, message, fix=fix) for key, message, fix in found]) from error
