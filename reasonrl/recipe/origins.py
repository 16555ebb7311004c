"""Where a value of a recipe came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: `file`, `command line`, `default`, `inherited` (from a key at a higher level) or `argument` (of
            `load_recipe`).
        file, line: the place in a file.
        token: the command-line token, such as `stages.rl.lr=1`.
        source: the key that an inherited value was taken from.
    """

    kind: Literal["file", "command line", "default", "inherited", "argument"]
    file: str = ""
    line: int = 0
    token: str = ""
    source: str = ""

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.file}:{self.line}" if self.line else self.file
        if self.kind == "command line":
            return f"'{self.token}'"
        return self.source if self.kind == "argument" else self.kind

    def describe(self) -> str:
        """The origin with its kind spelled out, for `--print-config`."""
        if self.kind == "command line":
            return f"command line '{self.token}'"
        if self.kind == "inherited":
            place = (
                f" ({self.file}:{self.line})" if self.file else f" (command line '{self.token}')" if self.token else ""
            )
            return f"inherited from {self.source}{place}"
        return str(self)


def inherited(origin: Origin, source: str) -> Origin:
    """The origin of a value that was copied from the key `source`, where it had `origin`."""
    return Origin("inherited", origin.file, origin.line, origin.token, source)


def place_of(origin: Origin) -> str:
    """The file and line, or the command-line token, where the value is written; empty for a default."""
    if origin.kind == "inherited":
        return f"{origin.file}:{origin.line}" if origin.file else f"'{origin.token}'" if origin.token else ""
    return "" if origin.kind == "default" else str(origin)


def file_label(path: Path) -> str:
    """A file's name for messages: relative to the working directory where that is shorter."""
    try:
        relative = path.resolve().relative_to(Path.cwd().resolve())
    except (ValueError, OSError):
        return str(path)
    return str(relative)


def find_origin(origins: Mapping[str, Origin], key: str) -> Origin | None:
    """The origin of a key; of a key below it, if only those have one; else of the nearest key above it."""
    below = next((origin for found, origin in origins.items() if found.startswith(f"{key}.")), None)
    if key not in origins and below is not None:
        return below
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        found = origins.get(".".join(parts[:length]))
        if found is not None:
            return found
    return None
