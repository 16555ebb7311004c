"""Resolving the `${…}` of a recipe with OmegaConf, every failure reported with its place; stage references are left in
place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from reasonrl.errors import Problem
from reasonrl.recipe.fields import near
from reasonrl.recipe.origins import Origin, find_origin, place_of
from reasonrl.recipe.overlay import INTERPOLATED

# OmegaConf's grammar has no '=' or '@' in a resolver: references stand behind this mark while it works.
_MARK = "\ue000"
_REFERENCE = re.compile(r"\$\{(?=(?:stage|previous):)")
_WHOLE = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")


@dataclass
class Resolved:
    """A plain tree without interpolations (but for references), the origin of every key, and what failed.

    `broken` holds the keys whose value could not be resolved: further problems there are consequences. `aliases` maps a
    key that was written as `${a.b}` to `a.b`.
    """

    tree: dict[str, Any]
    origins: dict[str, Origin]
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)

    def is_repeated(self, key: str, message: str, others: Collection[tuple[str, str]]) -> bool:
        """Whether a problem at a key is among `others` (key, message) at the key that this one is a copy of."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            alias = self.aliases.get(".".join(parts[:length]))
            if alias is not None and (".".join([alias, *parts[length:]]), message) in others:
                return True
        return False


class _Resolver:
    def __init__(self, tree: Mapping[str, Any], origins: Mapping[str, Origin]) -> None:
        self.problems: list[Problem] = []
        self.broken: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.origins = origins
        self.root = DictConfig({})
        self.root = self._load(tree)

    def _load(self, tree: Mapping[str, Any]) -> DictConfig:
        """Into OmegaConf, with texts that it cannot parse taken out and reported."""
        return OmegaConf.create(self._parsable(tree, ""))

    def _parsable(self, value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: self._parsable(child, _join(key, name)) for name, child in value.items()}
        if isinstance(value, list):
            return [self._parsable(child, _join(key, index)) for index, child in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            text = protect(value)
            try:
                OmegaConf.create({"value": text})
            except OmegaConfBaseException:
                fix = "close the braces; write \\${ for a literal ${"
                self._fail(key, f"{value!r} is no well-formed interpolation", fix)
                return None
            return text
        return value

    def plain(self, node: Any, key: str) -> Any:
        """The plain value of an OmegaConf node or of what it stands for."""
        if isinstance(node, DictConfig):
            if INTERPOLATED in node:
                return self._copied(node, key)
            return {str(name): self._child(node, name, raw, _join(key, name)) for name, raw in _raw(node).items()}
        if isinstance(node, ListConfig):
            return [self._child(node, index, raw, _join(key, index)) for index, raw in enumerate(_raw(node))]
        return node.replace(_MARK, "${") if isinstance(node, str) else node

    def _child(self, parent: DictConfig | ListConfig, name: Any, text: Any, key: str) -> Any:
        """The plain value of `parent[name]`, whose unresolved value is `text`."""
        if _is_settled(text):
            return self.plain(text, key)
        whole = _WHOLE.fullmatch(text) if isinstance(text, str) else None
        try:
            value = parent[name]
        except OmegaConfBaseException as error:
            self._report(error, text, key)
            return text
        if whole:
            self.aliases[key] = whole[1]
        return self.plain(value, key)

    def _copied(self, node: DictConfig, key: str) -> Any:
        """A copy of what an interpolation stands for, with the keys that were laid on it."""
        raw = _raw(node)
        base = self._child(node, INTERPOLATED, raw.pop(INTERPOLATED), key)
        if key in self.broken:
            return base
        own = {str(name): self._child(node, name, text, _join(key, name)) for name, text in raw.items()}
        if not isinstance(base, dict):
            self._fail(
                key, f"is {base!r}, no mapping, and {', '.join(own)} cannot be set in it", "give the whole value"
            )
            return base
        return _merged(base, own)

    def _report(self, error: OmegaConfBaseException, text: Any, key: str) -> None:
        first = str(error).splitlines()[0]
        if isinstance(error, InterpolationKeyError):
            wanted = re.search(r"'(.*)' not found", first)
            name = wanted[1] if wanted else str(text)
            match = near(name, _keys(self.root))
            fix = (
                f"did you mean ${{{match}}}?"
                if match
                else "name a key of the recipe by its full path, such as ${data.train}"
            )
            self._fail(key, f"{text!r} stands for {name!r}, and there is no such key", fix)
        elif isinstance(error, InterpolationToMissingValueError):
            self.broken.add(key)  # the key that it stands for is told where it is written
        elif isinstance(error, MissingMandatoryValue) or text == "???":
            self._fail(key, "has no value yet (???)", f"set it, for example on the command line: {key}=…")
        elif "Unsupported interpolation type" in first:
            fix = "allowed: a key of the recipe, stage:, previous:, and OmegaConf's resolvers such as oc.env"
            self._fail(key, f"{text!r}: there is no resolver {first.split()[-1]!r}", fix)
        elif "Environment variable" in first:
            fix = "set the variable, or give a default: ${oc.env:NAME,default}"
            self._fail(key, f"{text!r}: {first.split('interpolation: ')[-1].strip(chr(34))}", fix)
        else:
            self._fail(key, f"{text!r} cannot be resolved: {first}", "write the value out")

    def _fail(self, key: str, message: str, fix: str) -> None:
        self.broken.add(key)
        origin = find_origin(self.origins, key)
        self.problems.append(Problem(key, message, place_of(origin) if origin else "", fix))

    def origin(self, key: str, depth: int = 0) -> Origin | None:
        """The origin of a key of the resolved tree: its own, or that of what it is a copy of."""
        if key in self.origins:
            return self.origins[key]
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            alias = self.aliases.get(".".join(parts[:length]))
            if alias is not None and depth < 20:
                return self.origin(".".join([alias, *parts[length:]]), depth + 1)
        return None


def resolve(tree: Mapping[str, Any], origins: Mapping[str, Origin]) -> Resolved:
    """Resolve every interpolation of a raw tree; `arms` stay as they are, since they are laid on before resolving."""
    raw = {name: value for name, value in tree.items() if name != "arms"}
    resolver = _Resolver(raw, origins)
    plain: dict[str, Any] = resolver.plain(resolver.root, "")
    if "arms" in tree:
        plain["arms"] = tree["arms"]
    found: dict[str, Origin] = {key: origin for key, origin in origins.items() if key.startswith("arms")}
    for key in _plain_keys(plain):
        origin = resolver.origin(key)
        if origin is not None:
            found[key] = origin
    result = Resolved(plain, found, [], resolver.broken, resolver.aliases)
    others = {(problem.key, problem.message) for problem in resolver.problems}
    result.problems += [one for one in resolver.problems if not result.is_repeated(one.key, one.message, others)]
    return result


def protect(text: str) -> str:
    """Hide references from OmegaConf: `${stage:…}` whole, and in `${previous:NAME,${model}}` the fallback too."""
    result, start = "", 0
    for match in _REFERENCE.finditer(text):
        if match.start() < start:
            continue
        end = _closing(text, match.end())
        body = text[match.end() : end]
        keep = re.sub(r"\$\{(?=(?:stage|previous):|model\}|data\.)", _MARK, body)
        result += text[start : match.start()] + _MARK + keep
        start = end
    return result + text[start:]


def _closing(text: str, start: int) -> int:
    """Index after the brace that closes the one before `start`; the text's end if none does."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index + 1
    return len(text)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        present = result.get(name)
        result[name] = _merged(present, value) if isinstance(present, dict) and isinstance(value, dict) else value
    return result


def _raw(node: DictConfig | ListConfig) -> Any:
    """A container as it is written, nothing resolved."""
    return OmegaConf.to_container(node, resolve=False)


def _is_settled(value: Any) -> bool:
    """Whether a written value stands for itself: a scalar without an interpolation that is not missing."""
    return not isinstance(value, (dict, list)) and not (isinstance(value, str) and ("${" in value or value == "???"))


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _keys(node: DictConfig) -> list[str]:
    return list(_plain_keys(OmegaConf.to_container(node, resolve=False)))


def _plain_keys(value: Any, key: str = "") -> list[str]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [found for name, child in items for found in (_join(key, name), *_plain_keys(child, _join(key, name)))]
