"""Folders that are named on a command line, each with the label that tables show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reasonrl.errors import RunError


def labelled_folders(entries: Sequence[str]) -> dict[str, Path]:
    """Folders by label, in order.

    An entry is `label=folder` or a folder, whose label is its name; where names are equal (each run has its `exam`),
    the shortest part of the path that tells them apart. An entry that is a folder as it stands is not cut at its `=`.

    Raises:
        RunError: two entries have one label.
    """
    given = [_label_and_path(entry) for entry in entries]
    bare = [path for label, path in given if label is None]
    names = dict(zip(bare, _short_names(bare), strict=True))
    found: dict[str, Path] = {}
    for label, path in given:
        label = names[path] if label is None else label
        if label in found:
            raise RunError(
                f"two evaluations are called {label!r}: {found[label]} and {path} -> give each a name of its own,"
                f" such as first={found[label]} second={path}"
            )
        found[label] = path
    return found


def _label_and_path(entry: str) -> tuple[str | None, Path]:
    label, equals, path = entry.partition("=")
    if equals and label and path and not Path(entry).is_dir():
        return label, Path(path)
    return None, Path(entry)


def _short_names(paths: Sequence[Path]) -> list[str]:
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    names = [own[-1] for own in parts]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [place for place, other in enumerate(names) if other == name]
        for place, told in zip(alike, _telling_parts([parts[place] for place in alike]), strict=True):
            names[place] = told
    return names


def _telling_parts(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """The last part that all differ in; where there is none, all from the first to the last one that differ."""
    most = min(map(len, parts))
    for depth in range(1, most + 1):
        if len({own[-depth] for own in parts}) == len(parts):
            return [own[-depth] for own in parts]
    begin = next((at for at in range(most) if len({own[at] for own in parts}) > 1), most)
    same = next((at for at in range(most) if len({own[-1 - at] for own in parts}) > 1), most)
    return ["/".join(own[begin : len(own) - same]) or own[-1] for own in parts]
