"""Steps of a guided search that a synthetic world writes: what a search finds then hangs on the scores alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.search import Grown, SearchSettings, StepWriter, Wanted

WRITING_WORLDS = ("reflective",)


class LawWriter:
    """Lines by the law of the reflective world, as `Law.next_line`.

    Args:
        problems: rows with `problem`, and an `id` if they have one.
        settings: of the search; its separator must be the line break.
        seed: of all draws.
        args: of `law_of`: `preset`, `shares`, `teacher_seed`, `operators`.

    Raises:
        DataError: another separator, or arguments that the law does not know.
    """

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any]],
        settings: SearchSettings,
        seed: int = 0,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        from reasonrl.data_tools.worlds.reflective import law_of
        from reasonrl.data_tools.worlds.reflective_figures import chain_of

        if settings.separator != "\n":
            raise DataError(
                f'search: step_end = {settings.separator!r}, but a step of the reflective world is a line -> "\\n"'
            )
        try:
            self.law = law_of(**(args or {}))
        except TypeError:
            allowed = "preset, shares, teacher_seed, operators"
            raise DataError(f"search: policy.args = {dict(args or {})}, allowed are {allowed}") from None
        self.problems = [chain_of(str(problem["problem"])) for problem in problems]
        self.names = [str(problem.get("id", number)) for number, problem in enumerate(problems)]
        self.seed = seed

    def write(self, wanted: Sequence[Wanted]) -> list[Grown]:
        """A line each; its characters count as tokens."""
        return [self._one(one) for one in wanted]

    def _one(self, one: Wanted) -> Grown:
        draw = random.Random(f"search/{self.seed}/{self.names[one.problem]}/{one.step}/{one.place}/{one.turn}")
        line = self.law.next_line(self.problems[one.problem], one.chain.text, draw).removeprefix("\n")
        ended = line.startswith("#")
        piece = line if ended else f"{line}\n"
        return Grown(replace(one.chain, pieces=(*one.chain.pieces, piece), finished=ended), len(piece))


def world_writer(
    world: str, problems: Sequence[Mapping[str, Any]], settings: SearchSettings, seed: int, args: Mapping[str, Any]
) -> StepWriter:
    """The writer of a world's steps.

    Raises:
        DataError: the world writes no steps, or its arguments are wrong.
    """
    if world not in WRITING_WORLDS:
        raise DataError(f"search: policy.world = {world!r}, allowed are {', '.join(WRITING_WORLDS)}")
    return LawWriter(problems, settings, seed, args)


__all__ = ["WRITING_WORLDS", "LawWriter", "world_writer"]
