"""How many questions and samples tell two models apart by so many points: planned from two runs, from one, or from a
stated law of difficulties."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

from reasonrl.errors import RunError

POWER = 0.8
SAMPLES = (1, 4, 16, 64)
"""Samples a question that plans are made for."""

CORRELATION = 0.9
"""Of two models' solve rates over questions, where only one model is known: models of one family lie near it."""


@dataclass(frozen=True)
class Spread:
    """What makes a paired difference of accuracies vary.

    With P questions and n samples each, its variance is (between + within / n) / P.

    Attributes:
        between: variance over questions of the difference of true solve rates.
        within: mean over questions of a(1-a) + b(1-b), a and b being the two models' solve rates.
        questions: questions that it was told from; None if it was assumed.
        samples: samples a question that it was told from; with 1, `between` holds `within` too, and `within` is 0.
    """

    between: float
    within: float
    questions: int | None = None
    samples: int | None = None

    @property
    def separable(self) -> bool:
        """Whether luck of the draw and difference of skill are known apart."""
        return self.samples != 1

    def variance(self, samples: int) -> float:
        """Variance of one question's difference with so many samples of each model."""
        return self.between + self.within / samples


Counts = Mapping[str, tuple[int, int]]
"""(right, scored) samples by problem id, or by group."""


def observed_spread(ours: Counts, theirs: Counts) -> Spread:
    """The spread between two models from their samples on shared questions, by the method of moments.

    Raises:
        RunError: fewer than two shared questions.
    """
    shared = [key for key in ours if key in theirs]
    if len(shared) < 2:
        raise RunError(f"a spread needs at least 2 questions that both models answered, got {len(shared)}")
    total = variance([_share(ours[key]) - _share(theirs[key]) for key in shared])
    fewest = min(min(ours[key][1], theirs[key][1]) for key in shared)
    if fewest < 2:
        return Spread(total, 0.0, len(shared), 1)
    within = [(_luck(ours[key]), _luck(theirs[key])) for key in shared]
    drawn = fmean(
        luck / side[key][1]
        for key, pair in zip(shared, within, strict=True)
        for luck, side in zip(pair, (ours, theirs), strict=True)
    )
    return Spread(max(0.0, total - 2 * drawn), fmean(map(sum, within)), len(shared), fewest)


def spread_of_one(counts: Counts, correlation: float = CORRELATION) -> Spread:
    """The spread against a model that is as good, with solve rates that correlate by `correlation` with this one's.

    Raises:
        RunError: fewer than two questions, or one sample a question only: difficulty and luck are then not told apart.
    """
    if len(counts) < 2 or min(scored for _, scored in counts.values()) < 2:
        raise RunError(
            "planning from one model needs at least 2 questions with at least 2 samples each -> give two evaluations,"
            " or --assume"
        )
    luck = fmean(map(_luck, counts.values()))
    drawn = fmean(_luck(count) / count[1] for count in counts.values())
    difficulty = max(0.0, variance(map(_share, counts.values())) - drawn)
    fewest = min(scored for _, scored in counts.values())
    return Spread(2 * difficulty * (1 - correlation), 2 * luck, len(counts), fewest)


def assumed_spread(accuracy: float = 0.5, concentration: float = 1.0, correlation: float = CORRELATION) -> Spread:
    """The spread between two models whose solve rates follow Beta(c m, c (1 - m)) and correlate.

    Args:
        accuracy: m, in (0, 1).
        concentration: c above 0; small: questions are nearly always or nearly never solved; large: all alike.
        correlation: of the two models' solve rates over questions, in [0, 1].

    Raises:
        RunError: a number outside its range.
    """
    if not (0 < accuracy < 1 and concentration > 0 and 0 <= correlation <= 1):
        raise RunError(
            f"assumed: accuracy {accuracy:g}, concentration {concentration:g}, correlation {correlation:g} -> the"
            " accuracy lies between 0 and 1, the concentration above 0, the correlation between 0 and 1"
        )
    chance = accuracy * (1 - accuracy)
    difficulty, luck = chance / (concentration + 1), chance * concentration / (concentration + 1)
    return Spread(2 * difficulty * (1 - correlation), 2 * luck)


def questions_needed(spread: Spread, detect: float, samples: int, *, alpha: float = 0.05, power: float = POWER) -> int:
    """Questions such that a true difference of `detect` is found with chance `power` by a two-sided paired test.

    (z_{1-alpha/2} + z_power)² (between + within / n) / detect² (Miller 2024, arXiv 2411.00640, Eq. 9), at least 2.

    Raises:
        RunError: a number outside its range.
    """
    if not 0 < detect <= 1:
        raise RunError(f"the difference to detect must lie between 0 and 1 (0 and 100 points), got {detect:g}")
    return max(2, math.ceil(_reach(alpha, power) ** 2 * spread.variance(samples) / detect**2 - 1e-9))


def smallest_difference(
    spread: Spread, questions: int, samples: int, *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest true difference that so many questions and samples find with chance `power`."""
    return _reach(alpha, power) * math.sqrt(spread.variance(samples) / questions)


def _reach(alpha: float, power: float) -> float:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise RunError(f"alpha and power must lie between 0 and 1, got {alpha:g} and {power:g}")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


def _share(count: tuple[int, int]) -> float:
    return count[0] / count[1]


def _luck(count: tuple[int, int]) -> float:
    """Unbiased p(1-p) of one question."""
    right, scored = count
    return right * (scored - right) / (scored * (scored - 1))


def plan_rows(
    spread: Spread, detect: float, *, alpha: float, power: float, samples: Sequence[int] = SAMPLES
) -> list[tuple[int, int, float | None]]:
    """(samples a question, questions needed, smallest difference that the questions there were would find) by line;
    none where the answers do not vary.
    """
    if spread.variance(1) == 0:
        return []  # all right or all wrong alike: this says nothing of questions that tell the models apart
    told = samples if spread.separable else (1,)
    return [
        (
            n,
            questions_needed(spread, detect, n, alpha=alpha, power=power),
            None
            if spread.questions is None
            else smallest_difference(spread, spread.questions, n, alpha=alpha, power=power),
        )
        for n in told
    ]
