"""Near-duplicate solutions of one problem are dropped but for the first; memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.data_tools.near import Bands, jaccard, shingles
from reasonrl.data_tools.overlap import problem_text, words_of
from reasonrl.errors import DataError
from reasonrl.prm.quality.partitions import Partitions
from reasonrl.prm.quality.sources import Aside, files_of
from reasonrl.prm.quality.writing import Output, line_of

TEXT = ("text", "response", "solution")
PART_BYTES = 24_000_000
"""Of the input that are in memory at once, about."""

SMALL = 64
"""Up to so many kept solutions of a problem all are compared with; above, those that MinHash puts beside."""


@dataclass
class Thinned:
    """What a filter did.

    Attributes:
        rows: kept, dropped, and of them word for word.
        problems: different ones.
        with_duplicates: problems that had a duplicate.
        missed: chance of missing a pair at the threshold, where a problem has more than 64 kept solutions.
        aside: rows that could not be read.
    """

    kept: int = 0
    dropped: int = 0
    same: int = 0
    problems: int = 0
    with_duplicates: int = 0
    missed: float = 0.0
    aside: Aside = field(default_factory=Aside)


def drop_near_duplicates(
    source: str | Path,
    out: Path,
    *,
    dropped: Path | None = None,
    share: float = 0.8,
    verdicts_apart: bool = True,
    columns: Mapping[str, str] | None = None,
) -> Thinned:
    """Write the rows of a file without near-duplicate solutions, in their order.

    Two solutions of one problem (the same words but for case, LaTeX dressing and punctuation) are near-duplicates if
    `share` of all their runs of five words are common to both. The first stays. What is dropped was compared with
    solutions that stay, not with others that were dropped.

    Args:
        source: an annotation's folder, or a file of rows with a problem and a solution (`text`, `response` or
            `solution`).
        out: JSONL file for what is kept; written anew.
        dropped: JSONL file for what is dropped: `id`, `of` (id of the one that stays), `share`, and the row.
        share: of common runs, above 0 to 1.
        verdicts_apart: never drop a solution for one with another verdict (`correct`): one wrong digit matters here.
        columns: `problem` and `solution` by other names.

    Raises:
        DataError: nothing usable, or an output that is the input.
    """
    bands = Bands(share)
    found = Thinned(missed=bands.missed)
    inputs = files_of(source)
    for path in (out, dropped):
        if path is not None and path.resolve() in {one.resolve() for one in inputs}:
            raise DataError(f"{path} is the input -> name another file")
    gone = _duplicates(inputs, bands, share, verdicts_apart, columns or {}, found)
    if not found.kept:
        raise DataError(f"{source}: no usable row: {'; '.join(found.aside.lines()) or 'it holds no rows'}")
    _write(inputs, gone, out, dropped, columns or {}, found.aside)
    return found


def solution_of(raw: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, str]:
    """(problem, solution) of a row. Raises DataError if one is missing."""
    named = columns.get("problem")
    problem = raw.get(named) if named else problem_text(raw) or raw.get("question")
    names = (columns["solution"],) if "solution" in columns else TEXT
    text = next((raw[name] for name in names if isinstance(raw.get(name), str) and raw[name]), None)
    if not isinstance(problem, str) or not problem.strip():
        raise DataError("there is no problem")
    if text is None:
        raise DataError(f"there is no solution (columns looked at: {', '.join(names)})")
    return problem, text


def problem_key(problem: str) -> str:
    """The same for problems of the same words."""
    return " ".join(words_of(problem)) or problem.strip()


def _duplicates(
    inputs: Sequence[Path],
    bands: Bands,
    share: float,
    apart: bool,
    columns: Mapping[str, str],
    found: Thinned,
) -> dict[int, tuple[int, float]]:
    """Row number -> (row number of the one that stays, share). Only what is dropped is remembered."""
    gone: dict[int, tuple[int, float]] = {}
    size = sum(path.stat().st_size for path in inputs)
    with Partitions(min(512, max(16, size // PART_BYTES))) as spread:
        for number, (place, raw) in enumerate(read_paths([str(path) for path in inputs], None, None, None)):
            found.aside.rows += 1
            try:
                if isinstance(raw, BadRow):
                    raise DataError(raw.reason)
                problem, text = solution_of(raw, columns)
            except DataError as problem_found:
                found.aside.add(str(problem_found), place)
                continue
            verdict = raw.get("correct") if apart else None
            spread.add(problem_key(problem), [number, None if verdict is None else bool(verdict), text])
        for part in spread.parts():
            groups: dict[str, dict[bool | None, list[tuple[int, str]]]] = {}
            for key, (number, verdict, text) in part:
                groups.setdefault(key, {}).setdefault(verdict, []).append((number, text))
            for by_verdict in groups.values():
                before = len(gone)
                for group in by_verdict.values():
                    _thin(group, bands, share, gone, found)
                found.problems += 1
                found.with_duplicates += len(gone) > before
    found.dropped = len(gone)
    return gone


def _thin(
    group: Sequence[tuple[int, str]],
    bands: Bands,
    share: float,
    gone: dict[int, tuple[int, float]],
    found: Thinned,
) -> None:
    """The near-duplicates within solutions of one problem."""
    kept: list[tuple[int, numpy.ndarray]] = []
    index: dict[bytes, list[int]] = {}
    for number, text in group:
        runs = shingles(text)
        if len(group) > SMALL:
            keys = bands.keys(runs)
            near = sorted({place for key in keys for place in index.get(key, ())})
            candidates = range(len(kept)) if len(kept) <= SMALL else near
        else:
            keys, candidates = set(), range(len(kept))
        best, of = 0.0, -1
        for place in candidates:
            other, theirs = kept[place]
            small, large = sorted((len(runs), len(theirs)))
            if small < share * large:
                continue  # they cannot have so many in common
            alike = jaccard(runs, theirs)
            if alike >= share and alike > best:
                best, of = alike, other
        if of >= 0:
            gone[number] = (of, best)
            found.same += best == 1
            continue
        for key in keys:
            index.setdefault(key, []).append(len(kept))
        kept.append((number, runs))
    found.kept += len(kept)


def _write(
    inputs: Sequence[Path],
    gone: Mapping[int, tuple[int, float]],
    out: Path,
    dropped: Path | None,
    columns: Mapping[str, str],
    aside: Aside,
) -> None:
    """The second reading: rows go where the first has decided."""
    stays = {of for of, _ in gone.values()}
    names: dict[int, str] = {}
    written = 0
    with Output(out) as output:
        other = Output(dropped) if dropped is not None else None
        try:
            for number, (place, raw) in enumerate(read_paths([str(path) for path in inputs], None, None, None)):
                if isinstance(raw, BadRow):
                    continue
                try:
                    solution_of(raw, columns)
                    line = line_of(raw)
                except DataError as problem:
                    if "JSON cannot hold" in str(problem):
                        aside.add(str(problem), place)
                    continue
                if number in stays:
                    names[number] = str(raw.get("id", place))
                if number not in gone:
                    output.file.write(line)
                    written += 1
                elif other is not None:
                    of, alike = gone[number]
                    # The one that stays stands before it, so its name is known.
                    head = {"id": raw.get("id", place), "of": names[of], "share": round(alike, 4)}
                    other.file.write(line_of({**head, "row": dict(raw)}))
            if not written:
                raise DataError(f"{inputs[0]}: no row can be written: {'; '.join(aside.lines())}")
            output.keep()
            if other is not None:
                other.keep()
        finally:
            if other is not None:
                other.close()
