"""The behaviours that are counted: pairs of one of language and its counterpart of vision, from a file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from reasonrl.errors import DataError
from reasonrl.plugins import near

Side = Literal["language", "vision"]
SIDES: tuple[Side, ...] = ("language", "vision")
_KEYS = ("name", "definition", "examples", "not_this", "needs", "patterns")
_NAME = re.compile(r"\w[\w.-]*")
_FORM = "a mapping of pairs, each {language: {definition, patterns, …}, vision: {…}}"


@dataclass(frozen=True)
class Behaviour:
    """One behaviour.

    Attributes:
        name: unique in its catalogue.
        definition: what the judge is to count; empty if no judge is to be asked about it.
        examples: how it may sound, for the judge.
        not_this: what is not to be counted, for the judge.
        patterns: regular expressions of the lexical baseline; none: the baseline does not count it.
        needs: a further one that must be found in the same sentence; empty for none.
    """

    name: str
    definition: str = ""
    examples: tuple[str, ...] = ()
    not_this: str = ""
    patterns: tuple[str, ...] = ()
    needs: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of all of it: counts made by another definition are not mixed with these."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Pair:
    """A behaviour of language and the one of vision that it may turn into."""

    name: str
    language: Behaviour
    vision: Behaviour

    def side(self, side: Side) -> Behaviour:
        """The behaviour of one side."""
        return self.language if side == "language" else self.vision


@dataclass(frozen=True)
class Catalogue:
    """Pairs of behaviours in the order of their file."""

    pairs: tuple[Pair, ...]

    def behaviours(self) -> Iterator[Behaviour]:
        """All behaviours, pair by pair."""
        for pair in self.pairs:
            yield from (pair.language, pair.vision)


def read_catalogue(path: str | Path | None = None) -> Catalogue:
    """The catalogue of a YAML file; None reads ours.

    Raises:
        DataError: no such file, no such form, an unknown key, a name used twice, a pattern that is no regular
            expression, or a behaviour with neither a definition nor patterns.
    """
    import yaml

    file = Path(path).expanduser() if path is not None else Path(__file__).with_name("behaviours.yaml")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"behaviours {file}: cannot be read: {problem} -> name a YAML file") from None
    except yaml.YAMLError as problem:
        raise DataError(f"behaviours {file}: no YAML: {problem}") from None
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"behaviours {file}: holds a {type(found).__name__} -> give {_FORM}")
    catalogue = Catalogue(tuple(_pair(str(name), value, str(file)) for name, value in found.items()))
    names = [behaviour.name for behaviour in catalogue.behaviours()]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"behaviours {file}: the name {name!r} is used twice -> give each behaviour its own name")
    return catalogue


def _pair(name: str, value: Any, file: str) -> Pair:
    where = f"behaviours {file}: pair {name!r}"
    if not isinstance(value, Mapping) or set(value) != set(SIDES):
        keys = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
        raise DataError(f"{where} has {keys or 'nothing'} -> give it language and vision, both and no more")
    defaults = {"language": name, "vision": f"visual_{name}"}
    language, vision = (_behaviour(value[side], defaults[side], f"{where}, {side}") for side in SIDES)
    return Pair(name, language, vision)


def _behaviour(value: Any, default: str, where: str) -> Behaviour:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is {value!r:.80} -> give a mapping of {', '.join(_KEYS)}")
    unknown = [str(key) for key in value if key not in _KEYS]
    if unknown:
        raise DataError(f"{where}: {unknown[0]!r} is no key of a behaviour{near(unknown[0], _KEYS)}")
    texts = {key: value.get(key) or "" for key in ("definition", "not_this", "needs")}
    texts["name"] = value.get("name") or default
    for key, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"{where}: {key} is {text!r:.80} -> give a text")
    if not _NAME.fullmatch(texts["name"]):
        raise DataError(f"{where}: the name {texts['name']!r} -> use letters, digits, _ . -")
    lists = {key: _texts(value.get(key), f"{where}: {key}") for key in ("examples", "patterns")}
    for pattern in (*lists["patterns"], *filter(None, [texts["needs"]])):
        try:
            empty = re.compile(pattern, re.IGNORECASE).search("") is not None
        except re.error as problem:
            raise DataError(f"{where}: pattern {pattern!r} is no regular expression: {problem}") from None
        if empty:
            raise DataError(f"{where}: pattern {pattern!r} is found in an empty text, and so everywhere -> narrow it")
    if not texts["definition"].strip() and not lists["patterns"]:
        raise DataError(f"{where} has neither a definition for a judge nor patterns -> give one of them")
    definition, not_this = texts["definition"].strip(), texts["not_this"].strip().rstrip(".")
    return Behaviour(texts["name"], definition, lists["examples"], not_this, lists["patterns"], texts["needs"])


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise DataError(f"{where} is {value!r:.80} -> give a list of texts")
    return tuple(value)
