"""What an arm changes, told from what its stages come to: mappings merge, so an arm can keep more than it seems to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasonrl.recipe import Recipe

WIDEST = 160
"""Characters of a mapping or list that is still shown whole."""

_ABSENT = object()


def arm_changes(main: Recipe, arm: Recipe) -> list[str]:
    """`stages.train.learning_rate: 1e-05 -> 0.0001` for each value of the stages that an arm changes.

    A short mapping that gains or loses keys is shown whole, with what it keeps; so is a short list. A change that
    several stages share, as of data that they read, is told once: `stages.{exam,trial}.data.n: 800 -> 100`.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name in [*arm.stages, *(name for name in main.stages if name not in arm.stages)]:
        sides = [one.stages[name].model_dump(mode="json") if name in one.stages else _ABSENT for one in (main, arm)]
        for path, before, after in _changes("", *sides):
            found.setdefault((path, f"{_show(before)} -> {_show(after)}"), []).append(name)
    return [f"stages.{_braced(names)}{path}: {change}" for (path, change), names in found.items()]


def _changes(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if before == after:
        return
    wide = _ABSENT not in (before, after) and max(len(_text(before)), len(_text(after))) > WIDEST
    if isinstance(before, Mapping) and isinstance(after, Mapping) and (wide or before.keys() == after.keys()):
        for key in [*after, *(key for key in before if key not in after)]:
            yield from _changes(f"{path}.{key}", before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list) and wide and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(f"{path}[{number}]", old, new)
    else:
        yield path, before, after


def _braced(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{','.join(names)}}}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = _text(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
