"""Which fields of a stage make its identity, which may grow, and the key that both runs of an equal stage share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from reasonrl.recipe.fields import FieldClass, field_class
from reasonrl.recipe.names import REWARDS
from reasonrl.recipe.references import Reference
from reasonrl.recipe.stage_base import Stage
from reasonrl.recipe.trl_args import OPERATIONAL_ARGS

_OF_THE_JUDGE = ("model", "extra_body")
"""Of an endpoint's settings, those that its answers hang on."""
_OF_THE_RUN: dict[str, tuple[str, ...]] = {"prm": ("tokens_per_microbatch", "at_once")}
"""Of a judge in this process, by its name: what changes time and memory only."""


def identity_of(stage: Stage) -> dict[str, Any]:
    """The identity fields of a stage as plain JSON values; references as texts, operational and extensible fields left
    out.
    """
    return {**_identity(stage), **stage.derived_identity()}


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        kept = {}
        for name in type(value).model_fields:
            if field_class(type(value), name) is not FieldClass.IDENTITY or name in _repeated(value):
                continue
            child = getattr(value, name)
            if name == "trl_args":
                kept.update({key: _identity(item) for key, item in child.items() if key not in OPERATIONAL_ARGS})
            else:
                plain = _without_operation(_identity(child)) if name in ("reward", "judges") else _identity(child)
                if not (isinstance(child, BaseModel) and plain == {}):
                    kept[name] = plain
        return kept
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    return str(value) if isinstance(value, Reference) else value


def _without_operation(reward: Any) -> Any:
    """A reward or judge without what changes no score: our own rewards' processes, where and how fast a judge is
    asked.
    """
    if isinstance(reward, list):
        return [_without_operation(part) for part in reward]
    if not isinstance(reward, dict):
        return reward
    kept = {name: _without_operation(part) for name, part in reward.items()}
    args = kept.get("args")
    if (kept.get("name") in REWARDS or kept.get("name") == "endpoint") and isinstance(args, dict):
        args = {name: value for name, value in args.items() if name != "workers"}
        if isinstance(args.get("endpoint"), dict):
            args["endpoint"] = {name: value for name, value in args["endpoint"].items() if name in _OF_THE_JUDGE}
        kept["args"] = args
    elif kept.get("name") in _OF_THE_RUN and isinstance(args, dict):
        kept["args"] = {name: value for name, value in args.items() if name not in _OF_THE_RUN[kept["name"]]}
    return kept


def _repeated(value: BaseModel) -> tuple[str, ...]:
    return value.repeated_fields() if isinstance(value, Stage) else ()


def extensible_of(stage: Stage) -> dict[str, Any]:
    """The fields of a stage that may grow, by dotted key: `{"max_steps": 100}`, `{"suites.aime24.n": 16}`."""
    return dict(_extensible(stage, ""))


def _extensible(value: Any, key: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            dotted = f"{key}.{name}" if key else name
            if name in _repeated(value):
                continue
            if field_class(type(value), name) is FieldClass.EXTENSIBLE:
                found.append((dotted, getattr(value, name)))
            else:
                found += _extensible(getattr(value, name), dotted)
    elif isinstance(value, Mapping):
        for name, child in value.items():
            found += _extensible(child, f"{key}.{name}")
    return found


def identity_key(config_identity: Mapping[str, Any], input_keys: Sequence[str]) -> str:
    """Hash of a stage's identity and of the keys of its inputs: 64 hexadecimal digits, the same on every machine.

    Raises:
        ValueError: a value is no JSON (nan, infinity, an object).
    """
    record = {"config": config_identity, "inputs": list(input_keys)}
    try:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the identity holds a value that is no JSON: {error}") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()
