"""The identity of the local files a stage reads: data, reward functions, models. Big files are never read for it."""

from __future__ import annotations

import functools
import glob
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reasonrl.errors import DataError

HASHED_UP_TO = 64 * 2**20
_FUNCTION = re.compile(r"(?P<file>.+\.py):[A-Za-z_]\w*")
_MODEL_FIELDS = frozenset({"model", "critic_model", "policy", "base"})


def file_identity(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file below 64 MiB; size and modification time (ns) of a bigger one."""
    status = path.stat()
    if status.st_size >= HASHED_UP_TO:
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    return {"bytes": status.st_size, "sha256": _digest(str(path), status.st_size, status.st_mtime_ns)}


@functools.lru_cache(maxsize=4096)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    """Content hash; size and time are arguments so that a file changed in between is read again."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fingerprints(config: BaseModel, base_directory: Path) -> dict[str, dict[str, Any]]:
    """Identities of all local files that a stage's config names, by dotted field and then by path as written.

    Data paths are relative to the working directory and then to `base_directory`, `file.py:function` the other way.

    Raises DataError if a data path matches no file.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in _leaves(config, ""):
        if isinstance(value, str):
            files = _named_files(key, value, base_directory)
        else:
            files = {name: path for source in value for name, path in _data_files(key, source, base_directory)}
        if files:
            found[key] = {name: file_identity(path) for name, path in sorted(files.items())}
    return found


def drawn_by_seed(config: BaseModel) -> bool:
    """Whether rows that a stage reads hang on the recipe's seed: a world's, shuffled ones, several problems in one."""
    fields = {name: getattr(config, name) for name in type(config).model_fields}
    if _is_source(fields):
        return fields["world"] is not None or fields["shuffle"] or fields["compound"] is not None
    return any(drawn_by_seed(part) for value in fields.values() for part in _models_in(value))


def _models_in(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _models_in(item)


def _is_source(fields: Mapping[str, Any]) -> bool:
    """Whether these are the fields of a data source, known by its shape: its schema is another room's."""
    return fields.keys() >= {"path", "hub", "world"}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Strings of the config by dotted key, and the paths of its data sources as tuples."""
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        if _is_source(fields):
            paths = fields["path"]
            if isinstance(paths, (str, tuple)):
                yield key, (paths,) if isinstance(paths, str) else tuple(paths)
            return
        yield from _leaves(fields, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}.{number}")
    elif isinstance(value, str):
        yield key, value


def _named_files(key: str, value: str, base_directory: Path) -> dict[str, Path]:
    """The Python file of `file.py:function`, the files at the top of a local model folder, or a judge's prompt; else
    nothing.
    """
    function = _FUNCTION.fullmatch(value)
    if function:
        for folder in (base_directory, Path.cwd()):
            if (folder / function["file"]).is_file():
                return {function["file"]: folder / function["file"]}
    elif (key.rpartition(".")[2] in _MODEL_FIELDS or key.startswith("models.")) and Path(value).is_dir():
        return {f"{value}/{path.name}": path for path in Path(value).iterdir() if path.is_file()}
    elif key.endswith("args.prompt") and Path(value).is_file():
        return {value: Path(value)}
    return {}


def _data_files(key: str, source: str, base_directory: Path) -> list[tuple[str, Path]]:
    """The files of a file, a folder (all below it) or a glob, by their path as written."""
    written = Path(source).expanduser()
    for start in (Path.cwd(), base_directory):
        path = start / written
        if path.is_dir():
            files = [item for item in path.rglob("*") if item.is_file()]
        elif path.exists():
            files = [path]
        else:
            files = [Path(item) for item in glob.glob(str(path), recursive=True) if Path(item).is_file()]
        if files:
            return [(str(file if written.is_absolute() else file.relative_to(start)), file) for file in files]
    raise DataError(
        f"{key}: no file at {source!r} (looked in {Path.cwd()} and {base_directory}) "
        "-> give a file, a folder or a glob that is there"
    )
