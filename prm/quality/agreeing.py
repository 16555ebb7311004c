"""How far sets of labels agree: overall, by the step's position, by the solution's length; memory stays flat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.prm.label_agreement import Agreement, Cells, agreement_of_tables, cells_of
from reasonrl.prm.labels import Label
from reasonrl.prm.quality.intervals import Share, share_of
from reasonrl.prm.quality.partitions import Partitions
from reasonrl.prm.quality.sources import Aside, Labelled, read_labels

POSITIONS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (9, 12), (13, 20), (21, 10**9))
"""Bands of step numbers in tables."""

LENGTH_BANDS = 5
"""Bands of lengths, with about as many solutions each."""

LENGTHS = ("steps", "characters")


@dataclass
class Tally:
    """The tables of two sets on the same steps, added up solution by solution.

    Attributes:
        tables: of whole solutions.
        positions: of single steps, by number from 1.
        last, before: of last steps, whose label mostly is the verdict on the answer, and of all others.
        lengths: of whole solutions, by (rounded) length.
        other_steps: solutions that the two cut differently, or whose text differs.
    """

    tables: Counter[Cells] = field(default_factory=Counter)
    positions: dict[int, Counter[Cells]] = field(default_factory=dict)
    last: Counter[Cells] = field(default_factory=Counter)
    before: Counter[Cells] = field(default_factory=Counter)
    lengths: dict[float, Counter[Cells]] = field(default_factory=dict)
    other_steps: int = 0

    def add(self, first: Sequence[Label], second: Sequence[Label], length: float | None) -> None:
        """Count one solution."""
        cells = cells_of(first, second)
        self.tables[cells] += 1
        self.last[cells_of(first[-1:], second[-1:])] += 1
        self.before[cells_of(first[:-1], second[:-1])] += 1
        for place, (one, other) in enumerate(zip(first, second, strict=True), start=1):
            self.positions.setdefault(place, Counter())[cells_of((one,), (other,))] += 1
        if length is not None:
            self.lengths.setdefault(rounded(length), Counter())[cells] += 1


@dataclass(frozen=True)
class Figures:
    """Two sets compared on some of their steps.

    Attributes:
        name: of those steps: `all`, `step 3`, `steps 6 to 8`, `12 to 17 steps`.
        agreement: counts, kappa and its interval (`labels.agreement`).
        share: of steps on which they agree, with its interval; against a gold set this is the accuracy.
    """

    name: str
    agreement: Agreement
    share: Share

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {"steps": self.name, "share": self.share.as_dict(), "agreement": self.agreement.as_dict()}


@dataclass(frozen=True)
class Compared:
    """Two sets of labels compared.

    Attributes:
        first, second: their names; the second is the gold set, where there is one.
        whole: all steps that both label.
        parts: last steps and the others.
        positions, lengths: by step number, and by length of the solution.
        missing: solutions of one that the other has not.
        other_steps: solutions of both with another text or other steps.
    """

    first: str
    second: str
    whole: Figures
    parts: tuple[Figures, ...]
    positions: tuple[Figures, ...]
    lengths: tuple[Figures, ...]
    missing: int
    other_steps: int

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "all": self.whole.as_dict(),
            **{name: [one.as_dict() for one in getattr(self, name)] for name in ("parts", "positions", "lengths")},
            "missing": self.missing,
            "other_steps": self.other_steps,
        }


@dataclass(frozen=True)
class Agreeing:
    """What `compare_sets` found: every pair, and what was set aside of each source."""

    pairs: tuple[Compared, ...]
    aside: Mapping[str, Aside]
    repeated: Mapping[str, int]


def compare_sets(
    sources: Mapping[str, str | Path],
    *,
    gold: str | None = None,
    votes: bool = True,
    length: str = "steps",
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Agreeing:
    """Compare every two sets of labels; or, with a gold set, every set with that one.

    Solutions meet by id, in whatever order they stand; the files are read once and spread over temporary ones, so that
    memory does not grow with them.

    Args:
        sources: name -> an annotation's folder or a file (`sources.read_labels`).
        gold: the name of the source whose labels are taken for the truth.
        votes: take the votes that records keep for sets of their own, named `source:judge#vote`; with a gold set, so
            that each judge gets its figures, or where there is one source alone.
        length: by what solutions are told apart in length: `steps`, `characters`, or a column of numbers, such as
            `length` (tokens).
        confidence: coverage of all intervals.
        resamples: draws of the bootstrap behind kappa's interval.
    """
    aside = {name: Aside() for name in sources}
    repeated: Counter[str] = Counter()
    tallies: dict[tuple[str, str], Tally] = {}
    missing: Counter[tuple[str, str]] = Counter()
    with Partitions() as spread:
        for name, source in sources.items():
            for found in read_labels(source, aside[name]):
                own = {name: found.labels}
                if votes and (gold is None or name != gold):
                    own |= {f"{name}:{vote}": labels for vote, labels in found.votes.items()}
                spread.add(found.id, [name, found.mark(), _length(found, length), own])
        for part in spread.parts():
            by_id: dict[str, dict[str, Any]] = {}
            for key, (name, mark, size, own) in part:
                if name in by_id.setdefault(key, {}):
                    repeated[name] += 1
                else:
                    by_id[key][name] = (mark, size, own)
            for sets in by_id.values():
                _add_all(sets, tuple(sources), gold, tallies, missing)
    pairs = tuple(
        _compared(first, second, tally, missing[_bare(first), _bare(second)], confidence, resamples)
        for (first, second), tally in tallies.items()
    )
    return Agreeing(pairs, aside, repeated)


def _bare(name: str) -> str:
    return name.partition(":")[0]


def _add_all(
    sets: Mapping[str, Any],
    names: Sequence[str],
    gold: str | None,
    tallies: dict[tuple[str, str], Tally],
    missing: Counter[tuple[str, str]],
) -> None:
    """Count one solution for every pair of sets that are to be compared."""
    for one, other in _source_pairs(names, gold):
        if one not in sets or other not in sets:
            missing[one, other] += one in sets or other in sets
            continue
        (mark, size, labels), (other_mark, _, other_labels) = sets[one], sets[other]
        for first, second in _label_pairs(one, other, labels, other_labels, gold):
            tally = tallies.setdefault((first, second), Tally())
            if mark != other_mark:
                tally.other_steps += 1
            else:
                tally.add(labels[first], other_labels[second], size)


def _source_pairs(names: Sequence[str], gold: str | None) -> Iterator[tuple[str, str]]:
    if gold is not None:
        yield from ((name, gold) for name in names if name != gold)
    elif len(names) == 1:
        yield names[0], names[0]
    else:
        yield from ((one, other) for place, one in enumerate(names) for other in names[place + 1 :])


def _label_pairs(
    one: str, other: str, labels: Mapping[str, Any], other_labels: Mapping[str, Any], gold: str | None
) -> Iterator[tuple[str, str]]:
    if gold is not None:
        yield from ((name, other) for name in labels)
    elif one == other:  # a single source: its judges and their votes with each other
        votes = [name for name in labels if name != one]
        yield from ((name, second) for place, name in enumerate(votes) for second in votes[place + 1 :])
    else:
        yield one, other


def _length(found: Labelled, by: str) -> float | None:
    if by == "steps":
        return len(found.labels)
    if by == "characters":
        return len(found.record["text"])
    value = found.record.get(by)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


def rounded(length: float) -> float:
    """A length as it is up to 64, then down to the next of 32 steps an octave, so that few different ones are kept."""
    if length <= 64:
        return float(math.floor(length))
    octave = 2 ** math.floor(math.log2(length))
    return octave + math.floor((length - octave) / octave * 32) * octave / 32


def figures_of(name: str, tables: Counter[Cells], confidence: float = 0.95, resamples: int = 2_000) -> Figures:
    """The figures of solutions counted by their tables."""
    hits: Counter[tuple[int, int]] = Counter()
    for cells, count in tables.items():
        hits[cells[0] + cells[3], sum(cells)] += count
    return Figures(name, agreement_of_tables(tables, confidence, resamples=resamples), share_of(hits, confidence))


def _compared(first: str, second: str, tally: Tally, missing: int, confidence: float, resamples: int) -> Compared:
    def figures(name: str, tables: Counter[Cells]) -> Figures:
        return figures_of(name, tables, confidence, resamples)

    positions = [
        figures(f"step {low}" if low == high else f"steps {low} to {high}" if high < 10**9 else f"steps {low} on", own)
        for low, high in POSITIONS
        if (own := _merged(tally.positions[place] for place in tally.positions if low <= place <= high))
    ]
    return Compared(
        first,
        second,
        figures("all", tally.tables),
        (figures("last steps", tally.last), figures("other steps", tally.before)),
        tuple(positions),
        tuple(
            figures(f"{low:g}" if low == high else f"{low:g} to {high:g}", own)
            for low, high, own in length_bands(tally.lengths)
        ),
        missing,
        tally.other_steps,
    )


def length_bands(
    lengths: Mapping[float, Counter[Cells]], bands: int = LENGTH_BANDS
) -> list[tuple[float, float, Counter[Cells]]]:
    """Lengths put together into at most so many bands with about as many solutions each: (least, most, tables)."""
    left = sum(own.total() for own in lengths.values())
    found: list[tuple[float, float, Counter[Cells]]] = []
    low: float | None = None
    own: Counter[Cells] = Counter()
    for length in sorted(lengths):
        low = length if low is None else low
        own += lengths[length]
        if own.total() * (bands - len(found)) >= left:
            found.append((low, length, own))
            left -= own.total()
            low, own = None, Counter()
    if low is not None:
        found.append((low, max(lengths), own))
    return found


def _merged(tables: Iterator[Counter[Cells]]) -> Counter[Cells]:
    whole: Counter[Cells] = Counter()
    for one in tables:
        whole += one
    return whole
