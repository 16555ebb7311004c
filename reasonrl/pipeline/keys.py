"""A stage's key: the hash of what its result depends on; and what a difference between two of them means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.pipeline.fingerprints import drawn_by_seed, fingerprints
from reasonrl.pipeline.stages import stage_module

if TYPE_CHECKING:
    from reasonrl.recipe import StageInstance


def digest(value: Any) -> str:
    """32 hexadecimal digits of the SHA-256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def plain(value: Any) -> Any:
    """The value as JSON gives it back (lists for tuples, strings for keys), so that it equals a stored one."""
    return json.loads(json.dumps(value, ensure_ascii=False))


@dataclass(frozen=True)
class StageIdentity:
    """What a stage's result depends on.

    Attributes:
        name: instance name; sampling seeds are drawn from it.
        identity: identity fields of the config, with the seed, local files and grader versions.
        extensible: fields that may grow and reuse what is there.
        inputs: product hash of each stage this one reads, by reference.
    """

    name: str
    identity: Mapping[str, Any]
    extensible: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """Hash of everything but the extensible fields."""
        return digest({"name": self.name, "identity": self.identity, "inputs": self.inputs})

    def product(self, attempt: int, whole: bool = True) -> str:
        """Hash that stands for what the stage made, in the keys of the stages that read it.

        Args:
            attempt: how often the stage was made anew; a restart invalidates what was built on the result before.
            whole: the final product, which also depends on the extensible fields; else a checkpoint of a given step.
        """
        return digest({"key": self.key, "attempt": attempt, "extensible": self.extensible if whole else None})


def identify(instance: StageInstance, seed: int, inputs: Mapping[str, str], base_directory: Path) -> StageIdentity:
    """The identity of a stage instance.

    Args:
        instance: from `expand_stages`.
        seed: the recipe's.
        inputs: product hashes of its inputs, by reference.
        base_directory: folder of the recipe file.

    Raises DataError if its data names no file.
    """
    from reasonrl.recipe import extensible_of, identity_of

    module = stage_module(instance.config.kind)
    extensible = dict(extensible_of(instance.config))
    identity = {"kind": instance.config.kind, **identity_of(instance.config)}
    if getattr(module, "DEPENDS_ON_SEED", True) or drawn_by_seed(instance.config):
        identity["seed"] = seed
    for key, files in fingerprints(instance.config, base_directory).items():
        home = extensible if key.partition(".")[0] in extensible else identity
        home[f"files of {key}"] = files
    if versions := module.identity_extra(instance.config) if hasattr(module, "identity_extra") else {}:
        identity["versions"] = versions
    if hasattr(module, "extensible_extra"):
        extensible |= module.extensible_extra(instance.config)
    return StageIdentity(instance.name, plain(identity), plain(extensible), dict(inputs))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`learning_rate: 1e-05 -> 0.0001` for each leaf that differs."""
    old, new = _flat(before), _flat(now)
    names = list(new) + [name for name in old if name not in new]
    return [
        f"{name}: {_show(old, name)} -> {_show(new, name)}" for name in names if _value(old, name) != _value(new, name)
    ]


_ABSENT = object()


def _value(flat: Mapping[str, Any], name: str) -> Any:
    return flat.get(name, _ABSENT)


def _show(flat: Mapping[str, Any], name: str) -> str:
    if name not in flat:
        return "absent"
    text = json.dumps(flat[name], ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            name: leaf
            for key, item in value.items()
            for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


FREE = frozenset({"keep"})
"""Extensible fields that choose among what is there."""


class Growth(Enum):
    """How extensible fields compare with those a stage was made with."""

    EQUAL = "equal"
    GROWN = "grown"
    SHRUNK = "shrunk"


def growth(before: Any, now: Any) -> Growth:
    """Whether `now` holds all of `before` and more.

    What stands at a key of `FREE` may change in any way: the result is made anew from what is there. Else numbers grow
    by getting larger, lists by going on, mappings by new keys and by values that grow. Anything else that
    differs, a change
    from or to null included, counts as shrunk: what is there cannot simply be carried on.
    """
    if before == now and isinstance(before, bool) == isinstance(now, bool):
        return Growth.EQUAL
    if _is_number(before) and _is_number(now):
        return Growth.GROWN if now > before else Growth.SHRUNK
    if isinstance(before, list) and isinstance(now, list):
        return Growth.GROWN if now[: len(before)] == before else Growth.SHRUNK
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.keys() <= now.keys():
        parts = [growth(before[key], now[key]) for key in before]
        parts = [
            Growth.GROWN if key in FREE and part is Growth.SHRUNK else part
            for key, part in zip(before, parts, strict=True)
        ]
        return Growth.SHRUNK if Growth.SHRUNK in parts else Growth.GROWN
    return Growth.SHRUNK


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
