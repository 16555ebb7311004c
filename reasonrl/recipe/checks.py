"""Checks of a recipe against the world around it: files, custom functions, names of rewards, worlds, suites and
models.
"""

from __future__ import annotations

import ast
import csv
import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.recipe.fields import near
from reasonrl.recipe.names import (
    ARG_CHOICES,
    NESTED_REWARDS,
    PROTOCOLS,
    REQUIRED_ARGS,
    REWARDS,
    TINY_MODELS,
    WORLDS,
    known_names,
)
from reasonrl.recipe.references import is_reference
from reasonrl.recipe.sources import COLUMNS

Finding = tuple[str, str, str]  # key, message, fix
# A file of suites, and one of them: my.yaml, my.yaml:name
_COMPOUND = re.compile(r"-cb[1-9][0-9]?(?:-framed)?$")
"""Behind a suite's name: several of its problems in one prompt."""
_SUITE_FILE = re.compile(r"(.+\.ya?ml)(?::[^:/]+)?")
_PEEK_ROWS = 50
_PEEK_BYTES = 4_000_000


def world_problems(tree: Mapping[str, Any], folder: Path) -> list[Finding]:
    """Everything that a recipe names and that is not there.

    Args:
        tree: the plain composed tree; what is malformed is passed over (the schema reports it).
        folder: where relative `file.py:function` names start: the recipe's folder. Relative data and model paths start
            at the working directory, as on every command line.
    """
    found: list[Finding] = []
    if isinstance(tree.get("model"), str):
        found += _model("model", tree["model"])
    for name, source in _items(tree.get("data")):
        found += _source(f"data.{name}", source, folder)
    for name, stage in _items(tree.get("stages")):
        if isinstance(stage, Mapping):
            found += _stage(f"stages.{name}", stage, folder)
    found += _studies(tree)
    return found


def _stage(key: str, stage: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    for field in ("model", "critic_model"):
        if isinstance(stage.get(field), str):
            yield from _model(f"{key}.{field}", stage[field])
    for field in ("data", "eval_data", "logs"):
        yield from _source(f"{key}.{field}", stage.get(field), folder)
    yield from _reward(f"{key}.reward", stage.get("reward"), folder)
    suites = stage.get("suites")
    if isinstance(suites, list):
        known = known_names("suites")
        for index, name in enumerate(suites):
            if isinstance(name, str) and (file := _SUITE_FILE.fullmatch(name)):
                if not Path(file[1]).expanduser().is_file():
                    fix = f"relative paths start at the working directory, {Path.cwd()}"
                    yield f"{key}.suites.{index}", f"there is no file {file[1]!r}", fix
            elif isinstance(name, str) and _COMPOUND.sub("", name) not in known:
                fix = _hint(name, known, "suites") + "; or write suites as a mapping {NAME: {data: …}}"
                yield f"{key}.suites.{index}", f"there is no suite {name!r}", fix
    protocol = stage.get("protocol")
    if isinstance(protocol, str) and protocol not in PROTOCOLS:
        yield f"{key}.protocol", f"there is no protocol {protocol!r}", _hint(protocol, PROTOCOLS, "protocols")
    for name, suite in _items(suites):
        if isinstance(suite, Mapping):
            yield from _source(f"{key}.suites.{name}.data", suite.get("data"), folder)
            yield from _reward(f"{key}.suites.{name}.reward", suite.get("reward"), folder)


def _model(key: str, name: str) -> Iterator[Finding]:
    if "${" in name and not is_reference(name):
        yield key, f"is {name!r}; a reference has to be the whole value", "write it alone, such as ${stage:sft}"
    elif is_reference(name):
        if "." not in key:
            yield key, f"is {name!r}; a reference is only possible inside a stage", "name a path or a hub id"
    elif name.startswith("tiny:"):
        base, _, options = name.partition(":")[2].partition(":")
        if f"tiny:{base}" not in TINY_MODELS:
            yield key, f"there is no built-in model {name!r}", _hint(name, TINY_MODELS, "built-in models")
            return
        for option in filter(None, options.split(",")):
            size, _, value = option.partition("=")
            if size not in TINY_MODELS[f"tiny:{base}"]:
                fix = _hint(size, TINY_MODELS[f"tiny:{base}"], "sizes")
                yield key, f"{name!r} sets the unknown size {size!r}", fix
            elif not value.isdigit():
                yield key, f"{name!r} sets {size} to {value!r}; allowed: a whole number", ""
    elif name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        yield key, f"there is no folder {name!r}", "check the path, or name a hub id such as Qwen/Qwen2.5-0.5B"
    elif not re.fullmatch(r"[\w.~/-][\w./~-]*", name) or (name.count("/") > 1 and not Path(name).is_dir()):
        yield key, f"{name!r} is neither a folder nor a hub id", "name a folder, OWNER/NAME on the hub, or tiny:qwen2"


def _source(key: str, source: Any, folder: Path) -> Iterator[Finding]:
    if not isinstance(source, Mapping):
        return
    world = source.get("world")
    if isinstance(world, str):
        if world not in known_names("worlds"):
            yield f"{key}.world", f"there is no world {world!r}", _hint(world, known_names("worlds"), "worlds")
        elif world in WORLDS:
            yield from _args(f"{key}.args", source.get("args"), WORLDS[world], f"the world {world!r}")
    form = source.get("format")
    if isinstance(form, str):
        if _is_file_name(form):
            yield from _function(f"{key}.format", form, folder)
        elif form not in known_names("readers"):
            fix = _hint(form, known_names("readers"), "formats") + ", or file.py:function"
            yield f"{key}.format", f"there is no reader for the format {form!r}", fix
    paths = source.get("path")
    files: list[Path] = []
    many = isinstance(paths, list)
    for index, path in enumerate(paths if isinstance(paths, list) else [paths]):
        if isinstance(path, str) and is_reference(path) and not many:
            if not key.startswith("stages."):
                yield f"{key}.path", f"is {path!r}; a reference is only possible inside a stage", "name a file"
        elif isinstance(path, str) and path:
            here = _files(path)
            if not here:
                yield f"{key}.path" + (f".{index}" if many else ""), *_no_file(path)
            files += here
    if files:
        yield from _columns(key, source, files[0])


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    return [place] if place.exists() else [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]


def _no_file(path: str) -> tuple[str, str]:
    place = Path(path).expanduser()
    siblings = [item.name for item in place.parent.iterdir()] if place.parent.is_dir() else []
    match = near(place.name, siblings)
    start = "" if place.is_absolute() else f" (relative paths start at the working directory, {Path.cwd()})"
    what = "no file matches" if glob.has_magic(path) else "there is no file or folder"
    return f"{what} {path!r}{start}", f"did you mean {str(place.parent / match)!r}?" if match else "check the path"


def _columns(key: str, source: Mapping[str, Any], file: Path) -> Iterator[Finding]:
    """Whether the columns that `columns` and `keep` name are in the first rows of a file that can be read at once."""
    there = peek_columns(file)
    if there is None:
        return
    for ours, theirs in _items(source.get("columns")):
        if isinstance(theirs, str) and theirs not in there and theirs.split(".")[0] not in there:
            message = f"there is no column {theirs!r} in {file.name}"
            yield f"{key}.columns.{ours}", message, _hint(theirs, there, "columns")
    keep = source.get("keep")
    if isinstance(keep, str):
        try:
            unknown = sorted(Expression(keep).variables - there - set(COLUMNS))
        except ExpressionError:
            return  # the schema reports it
        for name in unknown:
            yield f"{key}.keep", f"{keep!r}: there is no column {name!r} in {file.name}", _hint(name, there, "columns")


def peek_columns(file: Path) -> frozenset[str] | None:
    """The columns in the first rows of a JSONL or CSV file; None where they cannot be told cheaply."""
    suffix = file.suffix.lower()
    if not file.is_file() or suffix not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return None
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if suffix in (".csv", ".tsv"):
                header = next(csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","), [])
                return frozenset(header) or None
            names: set[str] = set()
            for _, line in zip(range(_PEEK_ROWS), iter(lambda: lines.readline(_PEEK_BYTES), ""), strict=False):
                row = json.loads(line) if line.strip() else {}
                if not isinstance(row, dict):
                    return None
                names.update(map(str, row))
            return frozenset(names) or None
    except (OSError, ValueError, csv.Error):
        return None  # reading the data reports bad rows with their place


def _reward(key: str, reward: Any, folder: Path) -> Iterator[Finding]:
    if isinstance(reward, list):
        for index, term in enumerate(reward):
            yield from _reward(f"{key}.{index}", term, folder)
    elif isinstance(reward, Mapping):
        name = reward.get("name")
        if isinstance(name, str):
            yield from _reward(f"{key}.name", name, folder)
            if name in REWARDS:
                yield from _reward_args(f"{key}.args", reward.get("args"), name, folder)
    elif isinstance(reward, str) and reward:
        if _is_file_name(reward):
            yield from _function(key, reward, folder)
        elif reward not in known_names("rewards"):
            fix = _hint(reward, known_names("rewards"), "rewards") + ", or file.py:function"
            yield key, f"there is no reward {reward!r}", fix
        elif reward in REQUIRED_ARGS and not key.endswith(".name"):
            yield from _reward_args(f"{key}.args", None, reward, folder)


def _reward_args(key: str, args: Any, name: str, folder: Path) -> Iterator[Finding]:
    """The arguments of one of our rewards: their names, those it needs, words to choose from, rewards inside it."""
    yield from _args(key, args, REWARDS[name], f"the reward {name!r}")
    given = dict(_items(args))
    for needed in sorted(REQUIRED_ARGS.get(name, frozenset()) - set(given)):
        yield f"{key}.{needed}", f"is needed by the reward {name!r}", f"write {{name: {name}, args: {{{needed}: …}}}}"
    for (owner, argument), words in ARG_CHOICES.items():
        value = given.get(argument)
        if owner == name and isinstance(value, str) and value not in words:
            yield (
                f"{key}.{argument}",
                f"is {value!r}, which the reward {name!r} does not know",
                _hint(value, words, "allowed"),
            )
    inside = given.get(NESTED_REWARDS.get(name, ""))
    if name == "route":
        for label, part in _items(inside):
            yield from _reward(f"{key}.rewards.{label}", part, folder)
        default = given.get("default")
        if isinstance(default, str) and isinstance(inside, Mapping) and default not in inside:
            yield f"{key}.default", f"{default!r} is none of the rewards", _hint(default, inside, "rewards")
    elif inside is not None:
        yield from _reward(f"{key}.{NESTED_REWARDS[name]}", inside, folder)


def _args(key: str, args: Any, known: frozenset[str], owner: str) -> Iterator[Finding]:
    for name, _ in _items(args):
        if name not in known:
            yield f"{key}.{name}", f"{owner} has no argument {name!r}", _hint(str(name), known, "arguments")


def _is_file_name(text: str) -> bool:
    return ".py:" in text or text.endswith(".py")


def _function(key: str, text: str, folder: Path) -> Iterator[Finding]:
    """Whether `file.py:function` is there; the file is read, never imported."""
    name, colon, function = text.rpartition(":")
    if not colon or not function:
        yield key, f"{text!r} names no function", f"write {text.rstrip(':')}:FUNCTION"
        return
    path = folder / Path(name).expanduser()
    if not path.is_file():
        match = near(path.name, [item.name for item in path.parent.glob("*.py")] if path.parent.is_dir() else [])
        fix = f"did you mean {match}:{function}?" if match else f"put it into {folder}, or give an absolute path"
        yield key, f"there is no file {str(path)!r}", fix
        return
    try:
        module = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        place = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else str(path)
        yield key, f"{place} is not Python: {getattr(error, 'msg', error)}", "correct the file"
        return
    defined = list(_defined(module))
    if function not in defined:
        yield key, f"{path.name} defines no {function!r}", _hint(function, defined, "defined there")


def _defined(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node in module.body:
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _studies(tree: Mapping[str, Any]) -> Iterator[Finding]:
    arms = ["default", *(name for name, _ in _items(tree.get("arms")))]
    if arms.count("default") > 1:
        arms.remove("default")
        yield "arms.default", "the name stands for the recipe as it is", "choose another name"
    for name, study in _items(tree.get("studies")):
        named = study.get("arms") if isinstance(study, Mapping) else None
        for index, arm in enumerate(named if isinstance(named, list) else ()):
            if isinstance(arm, str) and arm not in arms:
                yield f"studies.{name}.arms.{index}", f"there is no arm {arm!r}", _hint(arm, arms, "arms")


def _hint(word: str, known: Any, what: str) -> str:
    match = near(word, known)
    return f"did you mean {match!r}?" if match else f"{what}: {', '.join(sorted(known)) or 'none'}"


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []
