"""Near-duplicate texts: shares of common word runs, exactly, and MinHash to find who is worth comparing.

    first, second = shingles(text), shingles(other)     # hashes of all runs of five words
    jaccard(first, second)                              # common runs over all runs
    bands = Bands(0.8)
    bands.keys(first) & bands.keys(second)              # not empty for nearly all pairs from 0.8 on

The hashes are the same in every process and on every machine.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy

from reasonrl.data_tools.overlap import words_of
from reasonrl.errors import DataError

WORDS = 5
"""Words of a run: short enough that a changed number costs five runs and not the whole text."""

PERMUTATIONS = 64
MISSED = 0.001
"""Pairs at the threshold that MinHash may miss at most."""

_ODD = numpy.uint64(0x9E3779B97F4A7C15)


def shingles(text: str, words: int = WORDS) -> numpy.ndarray:
    """[S] sorted 64-bit hashes of the different runs of so many words (`overlap.words_of`: words, numbers, operators).

    A text with fewer words is one run; one without any has none.
    """
    tokens = words_of(text)
    if not tokens:
        return numpy.empty(0, dtype=numpy.uint64)
    hashes = numpy.array([_word(token) for token in tokens], dtype=numpy.uint64)
    runs = hashes[: max(1, len(hashes) - words + 1)].copy()
    for place in range(1, min(words, len(hashes))):
        # A polynomial over the words, so that their order counts.
        runs = _mixed(runs * _ODD + hashes[place : place + len(runs)])
    return numpy.unique(runs)


@lru_cache(maxsize=1 << 17)
def _word(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _mixed(values: numpy.ndarray) -> numpy.ndarray:
    """A bijection of 64 bits that spreads every bit (the finaliser of SplitMix64)."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def jaccard(first: numpy.ndarray, second: numpy.ndarray) -> float:
    """Common runs over all runs of two texts, 0 to 1; 0 where one has none."""
    if not len(first) or not len(second):
        return 0.0
    common = len(numpy.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


class Bands:
    """MinHash (Broder 1997) in bands: texts alike by `share` or more nearly always have a key in common.

    Args:
        share: the Jaccard similarity that is looked for.

    Attributes:
        rows: of a band; the most for which at most 1 in 1,000 pairs of exactly this similarity is missed.
        bands: keys of a text.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise DataError(f"share = {share:g} -> above 0, at most 1")
        fitting = [rows for rows in range(1, PERMUTATIONS + 1) if self._missed(share, rows) <= MISSED]
        self.rows = max(fitting, default=1)
        self.bands = PERMUTATIONS // self.rows
        self.missed = self._missed(share, self.rows)
        seeds = numpy.random.default_rng(0).integers(1 << 63, size=PERMUTATIONS, dtype=numpy.uint64)
        self._seeds = seeds[: self.rows * self.bands]

    @staticmethod
    def _missed(share: float, rows: int) -> float:
        return float((1 - share**rows) ** (PERMUTATIONS // rows))

    def keys(self, runs: numpy.ndarray) -> set[bytes]:
        """The keys of a text's runs (`shingles`); none where it has none."""
        if not len(runs):
            return set()
        step = max(1, (1 << 20) // len(runs))  # few at a time of a long text
        least = numpy.concatenate(
            [
                _mixed(runs ^ self._seeds[place : place + step, None]).min(axis=1)
                for place in range(0, len(self._seeds), step)
            ]
        )
        table = least.reshape(self.bands, self.rows)
        return {
            hashlib.blake2b(bytes([place % 256]) + row.tobytes(), digest_size=8).digest()
            for place, row in enumerate(table)
        }
