"""How well predicted lengths rank what came out: recall of the longest, and Spearman's correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankingQuality:
    """Predicted against actual lengths of the samples of one step.

    Attributes:
        recall: of the samples predicted to be the longest share, how many are (`recall_of_longest`); chance gives that
            share.
        spearman: rank correlation in [-1, 1]; NaN where one side is constant or there are fewer than 2 samples.
        samples: how many samples were ranked.
    """

    recall: float
    spearman: float
    samples: int


def recall_of_longest(predicted: Sequence[float], actual: Sequence[float], fraction: float = 0.2) -> float:
    """Recall of the longest `fraction` (StreamRL, arXiv 2504.15930, measures its ranker by it, at 20 %).

    k = ceil(fraction * n) samples are picked by prediction; those among the k longest count. Ties, in predictions and
    in lengths (answers cut at one limit), are broken at random, and the expected value is given. Where tied lengths
    leave even a perfect ranking less than 1, the scale is stretched so that chance stays k / n and a perfect ranking is
    1: lengths that are all equal have no longest, and any prediction of them scores by chance.

    Args:
        predicted, actual: one value a sample, any unit; only their order counts.
        fraction: in (0, 1].

    Raises:
        ValueError: the lists are empty or unequally long, or `fraction` is out of range.
    """
    guess, truth = _pair(predicted, actual)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction = {fraction}, allowed are values above 0 and up to 1")
    k = math.ceil(fraction * len(truth) - 1e-9)
    long, picked = _chances(truth, k), _chances(guess, k)
    found, best, chance = float(long @ picked) / k, float(long @ long) / k, k / len(truth)
    if best - chance < 1e-9:
        return chance
    return max(0.0, chance + (1 - chance) * ((found - chance) / (best - chance)))


def spearman(predicted: Sequence[float], actual: Sequence[float]) -> float:
    """Spearman's rank correlation, ties given their mean rank; NaN where it is not defined."""
    guess, truth = _pair(predicted, actual)
    first, second = _ranks(guess), _ranks(truth)
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale > 0 else math.nan


def ranking_quality(predicted: Sequence[float], actual: Sequence[float], fraction: float = 0.2) -> RankingQuality:
    """Both figures at once; see `recall_of_longest` and `spearman`."""
    return RankingQuality(
        recall_of_longest(predicted, actual, fraction), spearman(predicted, actual), samples=len(actual)
    )


def _pair(predicted: Sequence[float], actual: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    guess, truth = np.asarray(predicted, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if guess.shape != truth.shape or guess.ndim != 1 or not len(guess):
        raise ValueError(f"{guess.size} predicted and {truth.size} actual lengths -> one each a sample, at least one")
    return guess, truth


def _chances(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(n,) chance of each value to be among the k largest, ties broken at random."""
    edge = np.partition(values, len(values) - k)[len(values) - k]
    sure, tied = values > edge, values == edge
    share = (k - np.count_nonzero(sure)) / np.count_nonzero(tied)
    return np.where(sure, 1.0, np.where(tied, share, 0.0))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank: NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return mean_rank
