"""Objects named in a recipe: from a user's own file (`path/to/file.py:name`) or from an installed plugin (an entry
point).

Rewards, readers, judges and suites all resolve their names here, after their own built-in names. Standard library only.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from reasonrl.errors import ReasonRLError


def is_file_reference(spec: str) -> bool:
    """True for `file.py:name`; a Windows drive letter is not mistaken for it."""
    path, colon, _ = spec.rpartition(":")
    return bool(colon) and path.endswith(".py")


def load_from_file(spec: str, base_dir: str | Path | None = None, *, error: type[ReasonRLError]) -> Any:
    """The object that `file.py:name` names.

    Args:
        spec: the path of a Python file, a colon, and the name of something defined in it.
        base_dir: where a relative path starts; the working directory if None.
        error: the error class to raise.

    Raises:
        error: no such file, the file raises while it is imported, or it does not define the name.
    """
    path_text, _, name = spec.rpartition(":")
    path = (Path(base_dir or ".") / Path(path_text).expanduser()).resolve()
    if not path.is_file():
        raise error(
            f"{spec!r}: there is no file {path} -> give a path relative to {Path(base_dir or '.').resolve()}, or an"
            " absolute one"
        )
    module = _module_at(path, spec, error)
    try:
        return getattr(module, name)
    except AttributeError:
        defined = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise error(f"{spec!r}: {path.name} does not define {name!r}{near(name, defined)}") from None


def load_entry_point(name: str, group: str, *, error: type[ReasonRLError]) -> Any | None:
    """The object that an installed package registers as `name` in the entry-point group `group`; None if there is none.

    Raises:
        error: two packages claim the name, or the object cannot be imported.
    """
    found = {point.value: point for point in importlib.metadata.entry_points(group=group, name=name)}
    if not found:
        return None
    if len(found) > 1:
        raise error(
            f"{name!r}: several installed packages register this name in {group}: {', '.join(sorted(found))} ->"
            " uninstall all but one"
        )
    (point,) = found.values()
    try:
        return point.load()
    except (ImportError, AttributeError) as problem:
        raise error(f"{name!r}: the plugin {point.value} of the group {group} cannot be loaded: {problem}") from problem


def entry_point_names(group: str) -> tuple[str, ...]:
    """The names that installed packages register in `group`, sorted."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=group)}))


def near(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: `-> did you mean 'x'? allowed: a, b, x`; empty when nothing is allowed."""
    names = sorted(set(allowed))
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" -> did you mean {close[0]!r}?" if close else " ->"
    return f"{hint} allowed: {', '.join(names)}"


def _module_at(path: Path, spec: str, error: type[ReasonRLError]) -> ModuleType:
    # The name carries the path's hash: two users' files of one name must not shadow each other, nor an installed
    # module.
    module_name = f"reasonrl_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    import_spec = importlib.util.spec_from_file_location(module_name, path)
    if import_spec is None or import_spec.loader is None:
        raise error(f"{spec!r}: {path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(import_spec)
    sys.modules[module_name] = module  # before running it: dataclasses and pickle look the module up by name
    try:
        import_spec.loader.exec_module(module)
    except Exception as problem:  # the user's code may raise anything; it is named and shown, not swallowed
        del sys.modules[module_name]
        raise error(f"{spec!r}: {path} raised {type(problem).__name__} while it was imported: {problem}") from problem
    return module
