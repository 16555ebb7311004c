"""Decontamination: rows that stand in a suite, word for word or in long runs of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.data_tools.curate.pictures import pixels_digest
from reasonrl.data_tools.curate.rules import Step
from reasonrl.data_tools.curate.spool import RowFile
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.overlap import OverlapIndex
from reasonrl.data_tools.pictures import pictures_of


def decontaminate(suites: Mapping[str, Sequence[Mapping[str, Any]]], words: int = 13, share: float = 0.5) -> Step:
    """A step that drops rows that stand in suites.

    A row of text goes if its words are those of a suite's problem, or if `share` of such a problem's n-grams stand in
    it. A row with pictures goes for its n-grams too, and for equal words only where a picture is equal as well: short
    questions are asked of many pictures.

    Args:
        suites: rows of each, by name.
        words: of an n-gram.
        share: of a suite's problem's n-grams.
    """
    named = [(name, row) for name, rows in suites.items() for row in rows]
    index = OverlapIndex([row for _, row in named], words=words)

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        tally.figures = {"suite_problems": len(named), "too_short_for_ngrams": index.short}
        for row in rows:
            tally.read += 1
            hit = _hit(row, rows)
            if hit is None:
                yield row
                continue
            kind, much, place = hit
            suite, theirs = named[place]
            what = "the same words" if kind == "text" else f"runs of {words} words"
            tally.drop(f"{what} as in {suite}", row, of=theirs.get("id"), share=round(much, 3))

    def _hit(row: Mapping[str, Any], rows: RowFile) -> tuple[str, float, int] | None:
        for kind, much, place in index.hits(row, share):
            if kind == "ngrams" or not row.get("images"):
                return kind, much, place
            theirs = pictures_of(named[place][1])
            if theirs and _colours(theirs, Path()) & _colours(row["images"], rows.home):
                return kind, much, place
        return None

    return step


def _colours(pictures: Sequence[Any], home: Path) -> set[str]:
    return {pixels_digest(one, home) for one in pictures}
