"""Near-duplicates: MinHash says who may be alike, the exact share of common word runs decides, the first one stays.

In memory are a few 64-bit keys a row, in arrays; texts are read again from the file where two share a key.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy

from reasonrl.data_tools.curate.pictures import pixels_digest
from reasonrl.data_tools.curate.rules import Step, text_in
from reasonrl.data_tools.curate.spool import RowFile
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.near import Bands, jaccard, shingles
from reasonrl.data_tools.overlap import words_of

MOST = 16
"""Kept rows with one key that a row is compared with, at most: where thousands share a phrase, not all are read."""
_REMEMBERED = 4096


def deduplicate(share: float = 0.8, column: str = "problem") -> Step:
    """A step that drops rows alike to one before them.

    Two rows are alike if `share` of all their runs of five words are common to both. Rows with different pictures
    never are: one question may be asked of many.

    Args:
        share: above 0 to 1.
        column: whose text is compared.
    """
    bands = Bands(share)

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        keys = _all_keys(rows, bands, column)
        tally.figures = {"missed_at_share": bands.missed, "bands": bands.bands}
        gone = _alike(rows, keys, share, column)
        for number, row in enumerate(rows):
            tally.read += 1
            if number in gone:
                other, alike = gone[number]
                reason = "duplicate" if alike == 1 else "near-duplicate"
                tally.drop(reason, row, of=rows.row(other)["id"], share=round(alike, 3))
            else:
                yield row
        rows.close()

    return step


def _pictures_of(row: dict[str, Any], rows: RowFile) -> bytes:
    """What tells a row's pictures from others': their colours; empty for a row of text."""
    given = row.get("images") or ()
    return hashlib.blake2b("".join(pixels_digest(one, rows.home) for one in given).encode()).digest() if given else b""


def _all_keys(rows: RowFile, bands: Bands, column: str) -> numpy.ndarray:
    """[N, bands] keys; 0 where a row has no words. Pictures are part of them."""
    blocks, block = [], numpy.zeros((8192, bands.bands), dtype=numpy.uint64)
    place = 0
    for row in rows:
        keys = bands.keys(shingles(text_in(row, column)))
        if keys:
            found = numpy.frombuffer(b"".join(sorted(keys)), dtype=numpy.uint64)
            if row.get("images"):
                mark = numpy.frombuffer(_pictures_of(row, rows)[:8], dtype=numpy.uint64)
                found = found ^ mark
            block[place, : len(found)] = found
        place += 1
        if place == len(block):
            blocks.append(block)
            block, place = numpy.zeros_like(block), 0
    return numpy.concatenate([*blocks, block[:place]])


def _alike(rows: RowFile, keys: numpy.ndarray, share: float, column: str) -> dict[int, tuple[int, float]]:
    """Number of a row that goes -> number of the one that stays, and their share."""
    flat = keys.ravel()
    order = numpy.argsort(flat, kind="stable")
    ordered = flat[order]
    same = numpy.zeros(len(flat), dtype=bool)
    if len(flat) > 1:
        equal = (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)
        same[1:] |= equal
        same[:-1] |= equal
    # Group number of every key that several rows have; -1 elsewhere.
    groups = numpy.full(len(flat), -1, dtype=numpy.int32)
    starts = numpy.ones(len(flat), dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    number = numpy.cumsum(starts, dtype=numpy.int64)
    _, dense = numpy.unique(number[same], return_inverse=True)
    groups[order[same]] = dense.astype(numpy.int32)
    del order, ordered, starts, number, dense
    by_row = groups.reshape(keys.shape)
    candidates = numpy.flatnonzero((by_row >= 0).any(axis=1))
    members: dict[int, list[int]] = {}
    gone: dict[int, tuple[int, float]] = {}
    texts = _Texts(rows, column)
    for place in candidates.tolist():
        mine = [group for group in by_row[place].tolist() if group >= 0]
        others = dict.fromkeys(other for group in mine for other in members.get(group, ()))
        best = texts.most_alike(place, others, share)
        if best is not None:
            gone[place] = best
            continue
        for group in mine:
            kept = members.setdefault(group, [])
            if len(kept) < MOST:
                kept.append(place)
    return gone


class _Texts:
    """Word runs of rows, read again from the file; the last few thousand are remembered."""

    def __init__(self, rows: RowFile, column: str) -> None:
        self.rows, self.column = rows, column
        self._known: OrderedDict[int, tuple[str, numpy.ndarray]] = OrderedDict()

    def of(self, number: int) -> tuple[str, numpy.ndarray]:
        """The words of a row and its runs."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        text = text_in(self.rows.row(number), self.column)
        found = self._known[number] = (" ".join(words_of(text)), shingles(text))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def most_alike(self, number: int, others: dict[int, None], share: float) -> tuple[int, float] | None:
        """The most similar of some rows, if it is as similar as that; 1 stands for the same words."""
        if not others:
            return None
        words, runs = self.of(number)
        best: tuple[int, float] | None = None
        for other in others:
            theirs, their_runs = self.of(other)
            if theirs == words:
                return other, 1.0
            alike = min(jaccard(runs, their_runs), 0.999)
            if alike >= share and (best is None or alike > best[1]):
                best = other, alike
        return best
