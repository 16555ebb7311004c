"""Problems asked together against the same problems asked alone: ratios of sums over blocks, and their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy

from reasonrl.errors import RunError
from reasonrl.eval.metrics import Interval

RESAMPLES = 2_000


@dataclass(frozen=True)
class Block:
    """What the problems of one block add to a ratio.

    Attributes:
        members: ids of all problems that count in the block.
        parts: (numerator, denominator) by problem, of those of its problems that have both; of the gap one part, under
            the block's own name.
    """

    members: frozenset[str]
    parts: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Against:
    """A ratio of sums over blocks, as comparisons want it: `retention` or `independence_gap`.

    Attributes:
        blocks: by name, those with a value; the order plays no part.
    """

    blocks: Mapping[str, Block]

    @property
    def sums(self) -> numpy.ndarray:
        """[blocks, 2]: numerators and denominators, blocks in the order of their names."""
        return _sums([block.parts.values() for _, block in sorted(self.blocks.items())])

    @property
    def value(self) -> float:
        """The ratio; 0 where nothing stands below the line."""
        return _ratio(self.sums)

    def estimate(self, confidence: float = 0.95, seed: int = 0) -> Interval:
        """With a bootstrap over blocks."""
        sums = self.sums
        return _interval(_ratio(sums), _drawn(sums, _draws(len(sums), seed)), len(sums), confidence)

    def difference(self, other: Against, place: str, confidence: float = 0.95, seed: int = 0) -> Interval:
        """Paired: both sides draw the same blocks, those that both have, with the problems that both have in them.

        Raises:
            RunError: a block holds other problems on the other side, no block has a value on both sides, or one side
                has nothing right alone among them.
        """
        ours, theirs = self._paired(other, place)
        draws = _draws(len(ours), seed)
        apart = _drawn(ours, draws) - _drawn(theirs, draws)
        return _interval(_ratio(ours) - _ratio(theirs), apart, len(ours), confidence)

    def p_value(self, other: Against, place: str, seed: int = 0) -> float:
        """By the paired sign-flip test of the blocks' shares in the difference (linearised at both ratios); pairs and
        errors as in `difference`.
        """
        from reasonrl.eval.paired import sign_flip_test

        ours, theirs = self._paired(other, place)
        return sign_flip_test([float(value) for value in _shares(ours) - _shares(theirs)], seed=seed)

    def _paired(self, other: Against, place: str) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Sums of both sides over the same blocks and problems."""
        pairs: tuple[list[list[tuple[float, float]]], list[list[tuple[float, float]]]] = ([], [])
        for name in sorted(self.blocks.keys() & other.blocks.keys()):
            mine, its = self.blocks[name], other.blocks[name]
            if mine.members != its.members:
                raise RunError(
                    f"{place}: {name!r} holds other problems on each side ({_some(mine.members - its.members)} and"
                    f" {_some(its.members - mine.members)} on one alone) -> compare evaluations with the same data,"
                    " limit, k and seed of the blocks"
                )
            if shared := sorted(mine.parts.keys() & its.parts.keys()):
                for side, block in zip(pairs, (mine, its), strict=True):
                    side.append([block.parts[item] for item in shared])
        if not pairs[0]:
            raise RunError(
                f"{place}: none of {len(self.blocks)} and {len(other.blocks)} blocks has a value on both sides"
                " -> ask the same problems at k = 1 in both evaluations"
            )
        ours, theirs = map(_sums, pairs)
        if not ours[:, 1].sum() or not theirs[:, 1].sum():
            raise RunError(
                f"{place}: on one side none of the problems of both is right alone -> leave this row out, or compare"
                " acc_item"
            )
        return ours, theirs


def retention(
    together: Mapping[str, float], alone: Mapping[str, float], members: Mapping[str, Sequence[str]]
) -> Against | None:
    """acc_item(k) / acc_item(1) over the problems that both have; None where nothing is right alone.

    Args:
        together, alone: share of right samples by problem id, asked with others and alone.
        members: ids of the problems that count by block.
    """
    blocks = {}
    for name, ids in members.items():
        parts = {item: (together[item], alone[item]) for item in ids if item in together and item in alone}
        if parts:
            blocks[name] = Block(frozenset(ids), parts)
    found = Against(blocks)
    return found if blocks and found.sums[:, 1].sum() else None


def independence_gap(
    whole: Mapping[str, float], members: Mapping[str, Sequence[str]], alone: Mapping[str, float]
) -> Against | None:
    """Mean over blocks of (share of samples with all right - product of the problems' shares alone), over the blocks
    whose problems are all asked alone; below 0: problems disturb each other, or fall together. None without such a
    block.

    Args:
        whole: share of samples with all problems right, by block.
        members, alone: as in `retention`.
    """
    blocks = {}
    for name, value in whole.items():
        ids = members.get(name, ())
        if ids and all(item in alone for item in ids):
            blocks[name] = Block(frozenset(ids), {name: (value - math.prod(alone[item] for item in ids), 1.0)})
    return Against(blocks) if blocks else None


def _sums(blocks: Sequence[Iterable[tuple[float, float]]]) -> numpy.ndarray:
    return numpy.array([numpy.array(list(parts)).sum(axis=0) for parts in blocks], dtype=float).reshape(-1, 2)


def _ratio(sums: numpy.ndarray) -> float:
    below = sums[:, 1].sum()
    return float(sums[:, 0].sum() / below) if below else 0.0


def _drawn(sums: numpy.ndarray, draws: numpy.ndarray) -> numpy.ndarray:
    """The ratio of every draw; NaN where nothing stands below the line."""
    drawn = sums[draws].sum(axis=1)
    found: numpy.ndarray = drawn[:, 0] / numpy.where(drawn[:, 1] == 0, numpy.nan, drawn[:, 1])
    return found


def _shares(sums: numpy.ndarray) -> numpy.ndarray:
    ratio = _ratio(sums)
    found: numpy.ndarray = (sums[:, 0] - ratio * sums[:, 1]) / sums[:, 1].mean() + ratio
    return found


def _draws(units: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, units, size=(RESAMPLES, units))


def _interval(value: float, drawn: numpy.ndarray, units: int, confidence: float) -> Interval:
    ends = numpy.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    se = float(numpy.nanstd(drawn))
    return Interval(value, float(ends[0]), float(ends[1]), se, confidence, "bootstrap over blocks", units)


def _some(ids: frozenset[str]) -> str:
    """Up to three problems by name."""
    named = ", ".join(map(repr, sorted(ids)[:3]))
    return f"{named}{', …' if len(ids) > 3 else ''}" if ids else "none"
