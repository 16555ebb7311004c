"""Synthetic worlds: seeded, unlimited problems whose truth is known exactly.

A world is anything with `rows(n, *, split, seed, **args) -> list[dict]`; a recipe names it as `data: {world:
arithmetic, n: 4096, args: {...}}`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Protocol

from reasonrl.data_tools.worlds.arithmetic import ArithmeticWorld
from reasonrl.data_tools.worlds.big_integers import BigIntegerWorld
from reasonrl.data_tools.worlds.compound_chain import CompoundChainWorld
from reasonrl.data_tools.worlds.compound_reader import measure as measure_compound_chain
from reasonrl.data_tools.worlds.grid import GridWorld
from reasonrl.data_tools.worlds.grid_figures import measure as measure_grid
from reasonrl.data_tools.worlds.reflective import ReflectiveWorld
from reasonrl.data_tools.worlds.reflective_figures import measure as measure_reflective
from reasonrl.data_tools.worlds.visual import VisualWorld
from reasonrl.data_tools.worlds.worksheet import WorksheetWorld
from reasonrl.data_tools.worlds.worksheet_figures import measure as measure_worksheet
from reasonrl.errors import DataError


class World(Protocol):
    """Writes problems with exact answers."""

    def rows(self, n: int, *, split: str = "train", seed: int = 0, **args: Any) -> list[dict[str, Any]]:
        """`n` rows with the keys `id`, `problem`, `answer` and `solution`; equal arguments give equal rows."""
        ...


BUILT_IN: dict[str, Callable[[], Any]] = {
    "arithmetic": ArithmeticWorld,
    "big_integers": BigIntegerWorld,
    "compound_chain": CompoundChainWorld,
    "grid": GridWorld,
    "reflective": ReflectiveWorld,
    "visual": VisualWorld,
    "worksheet": WorksheetWorld,
}

Measure = Callable[..., Any]
"""From rows to figures by name; or to a pair, the figures and what they would be if all were as the world has it."""
MEASURES: dict[str, Measure] = {
    "compound_chain": measure_compound_chain,
    "grid": measure_grid,
    "reflective": measure_reflective,
    "worksheet": measure_worksheet,
}
"""Measures of rows by name, for stages of kind `gate`."""


def get_world(name: str) -> World:
    """The world of this name; raises DataError with the near match if there is none."""
    if name not in BUILT_IN:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known worlds: {', '.join(sorted(BUILT_IN))}"
        raise DataError(f"data.world: there is no world {name!r} -> {hint}")
    world: World = BUILT_IN[name]()
    return world


__all__ = [
    "BUILT_IN",
    "MEASURES",
    "ArithmeticWorld",
    "BigIntegerWorld",
    "CompoundChainWorld",
    "GridWorld",
    "ReflectiveWorld",
    "VisualWorld",
    "WorksheetWorld",
    "World",
    "get_world",
]
