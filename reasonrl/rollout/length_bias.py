"""Is what was trained on as long as what was asked for? A two-sample Kolmogorov-Smirnov test on response lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PASSES_ABOVE = 0.01
"""A p-value above this is no sign of a bias; the test is meant for some 5,000 samples a side."""


@dataclass(frozen=True)
class LengthBias:
    """Trained against requested lengths.

    Attributes:
        statistic: largest distance between both distribution functions, 0 to 1.
        p_value: chance of such a distance if both were drawn from one distribution.
        mean_ratio: mean trained over mean requested length; below 1: short samples are favoured.
        trained, requested: how many samples.
    """

    statistic: float
    p_value: float
    mean_ratio: float
    trained: int
    requested: int

    @property
    def passes(self) -> bool:
        """Whether the test finds no bias (p above 0.01)."""
        return self.p_value > PASSES_ABOVE


def length_bias(requested: Sequence[float], trained: Sequence[float]) -> LengthBias:
    """Hold the lengths of trained samples against those of requested ones.

    Args:
        requested: tokens of every sample that was asked for, whether or not it was trained on; best drawn
            independently, since a whole step compared with itself passes trivially.
        trained: tokens of the samples that were trained on, a sample as often as it was used.

    Raises:
        ValueError: a side is empty.
    """
    from scipy.stats import ks_2samp

    if not len(requested) or not len(trained):
        raise ValueError(f"{len(requested)} requested and {len(trained)} trained samples: both sides need some")
    found = ks_2samp(trained, requested)
    ratio = (math.fsum(trained) / len(trained)) / (math.fsum(requested) / len(requested))
    return LengthBias(float(found.statistic), float(found.pvalue), ratio, len(trained), len(requested))
