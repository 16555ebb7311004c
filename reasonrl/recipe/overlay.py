"""Layers of a recipe put on each other: base files < recipe < arm < command line, with the origin of every key."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.errors import Problem
from reasonrl.recipe.fields import near
from reasonrl.recipe.origins import Origin, file_label, find_origin
from reasonrl.recipe.yaml_files import Layer, parse_value, read_layer

# Mappings at the top whose keys are names that the recipe chooses.
NAMED = ("stages", "data", "arms", "studies")
# Keys at the top that an arm cannot set.
FIXED = frozenset({"base", "arms", "studies"})


@dataclass
class Overlaid:
    """A raw tree (interpolations still in place) under construction, with the origin of every key."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)

    def copy(self) -> Overlaid:
        """An independent copy, to lay an arm on."""
        return Overlaid(copy.deepcopy(self.tree), dict(self.origins), list(self.problems), list(self.bases))

    def lay(self, tree: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str = "") -> None:
        """Lay a tree on top: mappings merge, everything else replaces."""
        _lay(self, self.tree, tree, origins, prefix, "")


def _lay(
    target: Overlaid,
    below: dict[str, Any],
    above: Mapping[str, Any],
    origins: Mapping[str, Origin],
    prefix: str,
    key: str,
) -> None:
    for name, value in above.items():
        dotted = f"{key}.{name}" if key else name
        source = f"{prefix}.{dotted}" if prefix else dotted
        present = below.get(name)
        if isinstance(value, Mapping) and (isinstance(present, dict) or _interpolates(present)):
            if isinstance(present, dict):
                _lay(target, present, value, origins, prefix, dotted)
                continue
            # OmegaConf's rule: keys laid on `${data.train}` change a copy of what it stands for.
            below[name] = {INTERPOLATED: present}
            _lay(target, below[name], value, origins, prefix, dotted)
            continue
        for old in [old for old in target.origins if old.startswith(f"{dotted}.")]:
            del target.origins[old]
        below[name] = copy.deepcopy(dict(value)) if isinstance(value, Mapping) else copy.deepcopy(value)
        for found, origin in origins.items():
            if found == source or found.startswith(f"{source}."):
                target.origins[dotted + found[len(source) :]] = origin


# Key of a mapping that stands on an interpolation: its value is the interpolation that the other keys are laid on.
INTERPOLATED = "\ue001"


def _interpolates(value: object) -> bool:
    return isinstance(value, str) and value.startswith("${") and not value.startswith(("${stage:", "${previous:"))


def read_files(path: Path) -> tuple[Overlaid, str]:
    """Read a recipe and, below it, the files that its `base` names; returns the overlaid tree and the recipe's own
    text.
    """
    result = Overlaid()
    text = _read_onto(result, path, ())
    return result, text


def _read_onto(result: Overlaid, path: Path, above: tuple[Path, ...]) -> str:
    layer = read_layer(path)
    _normalise_arms(layer)
    result.problems += layer.problems
    bases = layer.tree.get("base", [])
    names = [bases] if isinstance(bases, str) else bases
    chain = (*above, path.resolve())
    if isinstance(names, list):
        for index, name in enumerate(names):
            origin = layer.origins.get(f"base.{index}") or layer.origins["base"]
            if isinstance(name, str):
                _read_base(result, path, name, str(origin), chain)
    result.lay(layer.tree, layer.origins)
    return layer.text


def _read_base(result: Overlaid, path: Path, name: str, place: str, chain: tuple[Path, ...]) -> None:
    base = path.parent / name
    if base.resolve() in chain:
        loop = " -> ".join(file_label(item) for item in (*chain[chain.index(base.resolve()) :], base.resolve()))
        result.problems.append(Problem("base", f"{name!r} is built on itself: {loop}", place, "remove one of the two"))
    elif not base.is_file():
        siblings = sorted(item.name for item in base.parent.glob("*.yaml")) if base.parent.is_dir() else []
        match = near(base.name, [item for item in siblings if item != path.name])
        hint = f"did you mean {match!r}?" if match else "a base is a file, named relative to the recipe's folder"
        result.problems.append(Problem("base", f"there is no file {name!r} in {file_label(path.parent)}", place, hint))
    else:
        result.bases.append(name)
        _read_onto(result, base, chain)


def _normalise_arms(layer: Layer) -> None:
    """Turn the dotted keys of arms into nested ones, in the tree and in the origins."""
    arms = layer.tree.get("arms")
    if not isinstance(arms, dict):
        return
    for name, arm in arms.items():
        if isinstance(arm, dict):
            arms[name] = _nest(arm, f"arms.{name}", layer)


def _nest(mapping: Mapping[str, Any], key: str, layer: Layer) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in mapping.items():
        value = _nest(value, f"{key}.{name}", layer) if isinstance(value, dict) else value
        *path, last = name.split(".")
        target: Any = nested
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                break
        if not isinstance(target, dict) or (
            last in target and not (isinstance(target[last], dict) and isinstance(value, dict))
        ):
            place = str(layer.origins[f"{key}.{name}"])
            layer.problems.append(
                Problem(f"{key}.{name}", "sets what another key of the same arm sets", place, "keep one")
            )
        elif last in target:
            _merge_plain(target[last], value)
        else:
            target[last] = value
    return nested


def _merge_plain(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            _merge_plain(below[name], value)
        else:
            below[name] = value


def lay_arm(result: Overlaid, name: str, label: str) -> None:
    """Lay the arm `name` of the tree on the tree; `default` changes nothing."""
    arms = result.tree.get("arms")
    known = ["default", *(arms if isinstance(arms, dict) else ())]
    if name == "default" and not (isinstance(arms, dict) and name in arms):
        return
    if name not in known:
        match = near(name, known)
        hint = f"did you mean {match!r}?" if match else ""
        result.problems.append(Problem("arms", f"there is no arm {name!r}; arms: {', '.join(known)}", label, hint))
        return
    arm = arms[name] if isinstance(arms, dict) else None
    if isinstance(arm, dict):
        arm = copy.deepcopy(arm)
        for fixed in sorted(FIXED & arm.keys()):
            result.problems.append(
                _fixed(fixed, f"arms.{name}.{fixed}", _place(result.origins, f"arms.{name}.{fixed}"))
            )
            del arm[fixed]
        for group, missed in _report_misses(result, arm, result.origins, f"arms.{name}"):
            del arm[group][missed]
        result.lay(arm, dict(result.origins), f"arms.{name}")


def lay_overrides(result: Overlaid, tokens: Sequence[str]) -> None:
    """Lay command-line tokens `a.b=c` on the tree, the later ones on top."""
    for token in tokens:
        key, equals, text = token.partition("=")
        place = f"'{token}'"
        parts = key.strip().split(".")
        if not equals or not all(parts):
            fix = "write an override as key=value, such as stages.rl.learning_rate=1e-6"
            message = (
                "has no '='"
                if not equals
                else "has no key before '='"
                if not key.strip()
                else "has an empty part in its key"
            )
            result.problems.append(Problem("", message, place, fix))
            continue
        try:
            value = parse_value(text)
        except ValueError as error:
            fix = "quote the value for the shell and for YAML"
            result.problems.append(Problem(key, f"the value {text!r} is not YAML: {error}", place, fix))
            continue
        if parts[0] == "base":
            result.problems.append(_fixed("base", key, place))
            continue
        if _blocked(result, parts, place):
            continue
        tree: Any = value
        for part in reversed(parts):
            tree = {part: tree}
        origin = Origin("command line", token=token)
        origins = {".".join(parts): origin}
        if not _report_misses(result, tree, origins, ""):
            result.lay(tree, origins)


def _fixed(name: str, key: str, place: str) -> Problem:
    message = "cannot be changed by an arm or on the command line: it says what the recipe is made of"
    return Problem(key, message, place, f"set {name} in the recipe file")


def _place(origins: Mapping[str, Origin], key: str) -> str:
    origin = find_origin(origins, key)
    return str(origin) if origin else ""


def _blocked(result: Overlaid, parts: Sequence[str], place: str) -> bool:
    """Whether a value that is no mapping stands where the override wants to reach into; then a problem is noted."""
    node: Any = result.tree
    for index, part in enumerate(parts[:-1]):
        node = node.get(part) if isinstance(node, dict) else None
        if node is None or _interpolates(node):
            return False
        if not isinstance(node, dict):
            above = ".".join(parts[: index + 1])
            what = "a list" if isinstance(node, list) else f"{node!r}"
            fix = f"give the whole value: '{above}=…'"
            message = f"reaches into {above}, which is {what} and not a mapping"
            result.problems.append(Problem(".".join(parts), message, place, fix))
            return True
    return False


def _report_misses(
    result: Overlaid, above: Mapping[str, Any], origins: Mapping[str, Origin], prefix: str
) -> list[tuple[str, str]]:
    """Note the stages, sources and so on that an arm or override changes though they do not exist.

    Returns:
        What was missed, as pairs of group and name.
    """
    missed = []
    for group in NAMED:
        names, present = above.get(group), result.tree.get(group)
        if not isinstance(names, Mapping):
            continue
        known = list(present) if isinstance(present, dict) else []
        for name, value in names.items():
            match = near(name, known)
            if name in known or _is_new(group, value, match):
                continue
            key = f"{group}.{name}"
            source = f"{prefix}.{key}" if prefix else key
            hint = f"did you mean {match!r}?" if match else f"{group}: {', '.join(known) or 'none'}"
            message = f"changes {key}, but there is no {name!r} under {group}: this hits nothing"
            result.problems.append(Problem(source, message, _place(origins, source), hint))
            missed.append((group, name))
    return missed


def _is_new(group: str, value: object, match: str | None) -> bool:
    """Whether a value is meant as a new member of a named group, not as a change of a member whose name is misspelt."""
    if not isinstance(value, Mapping):
        return False
    if group == "stages":
        return "kind" in value and (match is None or len(value) > 1)
    if group == "data":
        return bool(value.keys() & {"path", "hub", "world"}) and (match is None or len(value) > 1)
    return match is None
