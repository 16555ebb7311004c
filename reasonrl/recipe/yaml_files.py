"""YAML with the line of every value: plain trees and origins, every problem of the text reported with its line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reasonrl.errors import Problem
from reasonrl.recipe.fields import near
from reasonrl.recipe.origins import Origin, file_label


class RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 without its traps: 1e-4 is a number, 12:30 and 2024-01-01 are texts, as in OmegaConf."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.own: dict[int, list[tuple[yaml.Node, yaml.Node]]] = {}
        """Keys of a mapping's own, by `id` of the node, once those of its `<<` keys were laid in, which changes it."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay in the mappings of `<<` keys, once."""
        if id(node) not in self.own:
            self.own[id(node)] = [child for child in node.value if child[0].tag != "tag:yaml.org,2002:merge"]
            super().flatten_mapping(node)


RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in ("timestamp", "float", "int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


_MAP, _SEQ = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


@dataclass
class Layer:
    """One layer of a recipe: a file, an arm or a command-line token.

    Attributes:
        tree: the plain mapping.
        origins: dotted key -> origin, for every mapping, list and leaf.
        problems: what is wrong with the text.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    text: str = ""


def read_layer(path: Path) -> Layer:
    """Read a YAML file; problems are collected in the layer, never raised."""
    label = file_label(path)
    if path.is_dir():
        return _failed(f"{label}", "is a folder, not a recipe file", "name a .yaml file in it")
    if not path.exists():
        siblings = [item.name for item in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        match = near(path.name, siblings)
        return _failed(
            label, "there is no such file", f"did you mean {path.parent / match}?" if match else "check the path"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        return _failed(label, f"cannot be read: {error.strerror}", "check the file's permissions")
    if b"\x00" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _failed(label, "is a binary file, not YAML", "name a recipe, such as my_recipe.yaml")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}"
        return _failed(f"{label}:{line}", message, "save the file as UTF-8")
    layer = parse_yaml(text, label)
    layer.text = text
    return layer


def parse_yaml(text: str, label: str) -> Layer:
    """Parse the text of a recipe file that is called `label` in messages."""
    layer = Layer()
    try:
        loader = RecipeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return _failed(
            f"{label}:{line}",
            f"holds the control character {_code(error.character)}",
            "remove it: recipes are plain text",
        )
    try:
        node = loader.get_single_node()
        if node is None:
            return _failed(label, "is empty", "a recipe needs at least stages; see `reasonrl recipes show quickstart`")
        if not isinstance(node, yaml.MappingNode):
            what = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            place = f"{label}:{node.start_mark.line + 1}"
            return _failed(
                place, f"has {what} at the top, not a mapping", "begin with keys such as recipe: and stages:"
            )
        layer.tree = _build(loader, node, "", label, layer)
    except yaml.MarkedYAMLError as error:
        layer = _failed(*_syntax(error, text, label))
    except RecursionError:
        layer = _failed(label, "is nested too deeply to be read", "flatten it")
    finally:
        loader.dispose()
    return layer


def parse_value(text: str) -> Any:
    """The value of a command-line override, read like a value in a file.

    Raises:
        ValueError: the text is not YAML.
    """
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        layer = Layer()
        value = _build(loader, node, "", "", layer)
    except yaml.MarkedYAMLError as error:
        raise ValueError(error.problem or "not YAML") from error
    finally:
        loader.dispose()
    if layer.problems:
        raise ValueError(layer.problems[0].message)
    return value


def _build(
    loader: RecipeLoader, node: yaml.Node, key: str, label: str, layer: Layer, active: tuple[int, ...] = ()
) -> Any:
    """The plain value of a node; origins and problems go into the layer."""
    place = f"{label}:{node.start_mark.line + 1}"
    if id(node) in active:
        layer.problems.append(Problem(key, "contains itself through a YAML anchor", place, "write it out"))
        return None
    active = (*active, id(node))
    if key and key not in layer.origins:
        layer.origins[key] = Origin("file", label, node.start_mark.line + 1)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in (_MAP, _SEQ):
        layer.problems.append(Problem(key, f"has the tag {node.tag!r}", place, "use plain YAML values, without tags"))
        return None
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        _report_duplicates(loader.own[id(node)], key, label, layer)
        loader.own[id(node)] = []  # said once, however many aliases name it
        mapping = {}
        for name_node, child in node.value:
            name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else None
            if name is None or name_node.tag.endswith((":null", ":bool", ":float")):
                spot = f"{label}:{name_node.start_mark.line + 1}"
                layer.problems.append(
                    Problem(
                        key,
                        f"has the key {name or 'that is no text'!r}, which YAML reads as no text",
                        spot,
                        "put it in quotes",
                    )
                )
                continue
            dotted = f"{key}.{name}" if key else name
            layer.origins[dotted] = Origin("file", label, name_node.start_mark.line + 1)
            mapping[name] = _build(loader, child, dotted, label, layer, active)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, f"{key}.{index}", label, layer, active) for index, child in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.constructor.ConstructorError, ValueError) as error:
        detail = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        layer.problems.append(Problem(key, f"cannot be read: {detail}", place, "use plain YAML values, without tags"))
        return None


def _report_duplicates(children: list[tuple[yaml.Node, yaml.Node]], key: str, label: str, layer: Layer) -> None:
    first: dict[str, int] = {}
    for name_node, _ in children:
        line = name_node.start_mark.line + 1
        name = str(name_node.value)
        if name in first:
            dotted = f"{key}.{name}" if key else name
            layer.problems.append(
                Problem(dotted, f"is given twice: here and on line {first[name]}", f"{label}:{line}", "keep one")
            )
        else:
            first[name] = line


def _syntax(error: yaml.MarkedYAMLError, text: str, label: str) -> tuple[str, str, str]:
    ended = "<stream end>" in str(error.problem)
    mark = (error.context_mark if ended else None) or error.problem_mark or error.context_mark
    if mark is None:
        return label, f"is not YAML: {error.problem}", "check the syntax"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    place = f"{label}:{mark.line + 1}"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return place, "is indented with a tab, which YAML does not allow", "indent with spaces"
    context = ""
    if error.context:
        start = f" that begins on line {error.context_mark.line + 1}" if error.context_mark else ""
        context = f" {error.context}{start}"
    message = f"is not YAML: {error.problem}{context}, at column {mark.column + 1}: {line.strip()[:60]!r}"
    return place, message, "check brackets, quotes, colons and indentation there"


def _code(character: object) -> str:
    return f"0x{character:02x}" if isinstance(character, int) else repr(character)


def _failed(place: str, message: str, fix: str) -> Layer:
    return Layer(problems=[Problem("", message, place, fix)])
