"""Paired tests between two models on the same problems: sign-flip p-values, and their correction for many suites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy

FLIPS = 100_000
"""Drawn sign patterns where the exact distribution is out of reach; the smallest p-value is then 1 / (draws + 1)."""

_LATTICE = 1 << 20
"""Most points of the exact distribution; 2,000 problems with 64 samples each fit."""

_WORK = 1_000_000_000
"""Most additions for the exact distribution, a second's work or two."""


def sign_flip_test(differences: Sequence[float], *, seed: int = 0, draws: int = FLIPS) -> float:
    """Two-sided p-value of a mean paired difference: the permutation test that swaps the two models within problems.

    If the models are exchangeable on every problem, each difference is as likely as its negative (Fisher 1935); the
    p-value is the share of the sign patterns whose sum is at least as far from zero. It is exact where the differences
    are multiples of a common fraction (shares of n samples are), by convolution over that lattice; else it is estimated
    from `draws` seeded patterns, the observed one counted (Phipson & Smyth 2010), so that it is never zero.

    Args:
        differences: model minus baseline by problem (by group of variants), in any order.
        seed: of the drawn patterns; the result is a function of the arguments.
        draws: how many patterns are drawn.

    Raises:
        ValueError: no differences, or one that is not finite.
    """
    values = numpy.asarray(differences, dtype=float)
    if values.size == 0 or not numpy.isfinite(values).all():
        raise ValueError("a paired test needs at least one difference, and finite ones")
    values = values[values != 0]
    if values.size == 0:
        return 1.0
    whole = _on_lattice(values)
    if whole is not None:
        return _exact(whole)
    generator = numpy.random.default_rng(seed)
    observed, block, far = abs(values.sum()), max(1, 4_000_000 // values.size), 0
    for start in range(0, draws, block):
        signs = generator.integers(0, 2, size=(min(block, draws - start), values.size)) * 2 - 1
        far += int((numpy.abs(signs @ values) >= observed * (1 - 1e-12)).sum())
    return (far + 1) / (draws + 1)


def _on_lattice(values: numpy.ndarray) -> list[int] | None:
    """Absolute differences as multiples of their common fraction; None where there is none that is coarse enough."""
    scale = 1
    for value in numpy.unique(numpy.abs(values)):
        scale = math.lcm(scale, Fraction(float(value)).limit_denominator(4096).denominator)
        if scale > 1 << 16:
            return None
    scaled = numpy.abs(values) * scale
    if numpy.abs(scaled - numpy.round(scaled)).max() > 1e-6:
        return None
    found = [int(number) * int(math.copysign(1, value)) for number, value in zip(scaled.round(), values, strict=True)]
    common = math.gcd(*found)
    found = [number // common for number in found]
    points = sum(map(abs, found))
    return found if points < _LATTICE and points * len(found) <= _WORK else None


def _exact(whole: Sequence[int]) -> float:
    # The sum over signs is 2 x (sum of a random subset of the absolute values) - their sum.
    total, observed = sum(map(abs, whole)), abs(sum(whole))
    chances = numpy.zeros(total + 1)
    chances[0], reach = 1.0, 0
    for step in map(abs, whole):
        reach += step
        chances[step : reach + 1] = (chances[step : reach + 1] + chances[: reach + 1 - step]) / 2
        chances[:step] /= 2
    sums = 2 * numpy.arange(total + 1) - total
    return min(1.0, float(chances[numpy.abs(sums) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979).

    Refusing those at most alpha keeps the chance of any false find at alpha, whatever depends on whatever; never
    weaker than Bonferroni's.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = worst
    return corrected


def fold_groups(values: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Values by group, such that their mean over groups is the mean over problems: (groups / problems) x the sum.

    Variants of one question go alike; their folded values are the independent units of intervals and tests.
    """
    if not groups:
        return dict(values)
    sums: dict[str, float] = {}
    for key, value in values.items():
        name = groups.get(key, key)
        sums[name] = sums.get(name, 0.0) + value
    return {name: total * len(sums) / len(values) for name, total in sums.items()}
