"""Write `trl_fields.json`: the fields of TRL's configurations as plain types, so that a recipe can be checked without
importing TRL.

Run `python -m reasonrl.recipe.generate_trl_fields` after TRL or transformers changed; a test compares the file with
what is installed.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("trl_fields.json")
CONFIGS = ("SFTConfig", "GRPOConfig", "DPOConfig")


def build_table() -> dict[str, dict[str, dict[str, Any]]]:
    """Config name -> field name -> {types, choices?, default} of the installed TRL."""
    import trl

    return {name: _fields(getattr(trl, name)) for name in CONFIGS}


def _fields(config: Any) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(config)
    table: dict[str, dict[str, Any]] = {}
    for field in sorted(dataclasses.fields(config), key=lambda field: field.name):
        if not field.init:
            continue
        kinds: list[str] = []
        choices: list[Any] = []
        _collect(hints[field.name], kinds, choices)
        if "choices" in field.metadata:
            choices = list(field.metadata["choices"])
        entry: dict[str, Any] = {"types": sorted(set(kinds))}
        if choices:
            entry["choices"] = choices
        entry["default"] = _default(field)
        table[field.name] = entry
    return table


def _collect(hint: Any, kinds: list[str], choices: list[Any]) -> None:
    """Add the plain type names of one annotation; an enum is its values, whatever else may stand beside it."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        arms = typing.get_args(hint)
        has_enum = any(isinstance(arm, type) and issubclass(arm, enum.Enum) for arm in arms)
        for arm in arms:
            if not (has_enum and arm is str):
                _collect(arm, kinds, choices)
    elif origin is typing.Literal:
        for value in typing.get_args(hint):
            kinds.append(type(value).__name__)
    elif hint is type(None):
        kinds.append("null")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        kinds.append("str")
        choices += [member.value for member in hint]
    elif origin is list or hint is list:
        inner = [arg.__name__ for arg in typing.get_args(hint) if arg in (str, int, float, bool)]
        kinds.append(f"list[{inner[0]}]" if inner else "list")
    elif origin is dict or hint is dict:
        kinds.append("dict")
    elif hint in (str, int, float, bool):
        kinds.append(hint.__name__)
    else:
        kinds.append("object")


def _default(field: dataclasses.Field[Any]) -> Any:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    value = value.value if isinstance(value, enum.Enum) else value
    return value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else str(value)


def render(table: dict[str, Any]) -> str:
    """The file's text: one line a field, so that a change of TRL is a readable diff."""
    blocks = []
    for name, fields in table.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(entry, sort_keys=True)}" for key, entry in fields.items()]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    TABLE.write_text(render(build_table()), encoding="utf-8")
