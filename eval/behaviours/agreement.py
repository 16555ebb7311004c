"""How far two coders agree on which responses show a behaviour. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy

RESAMPLES = 2_000


@dataclass(frozen=True)
class Agreement:
    """Two coders on one behaviour: does a response show it (count of 1 or more)?

    Attributes:
        responses: counted by both.
        both, only_first, only_second, neither: how many show it according to whom.
        observed: share on which they agree; None without responses.
        kappa: Cohen's (1960); None where both coders say the same of every response.
        low, high: its interval, percentiles of a bootstrap that draws problems; None with fewer than two problems, or
            where a coder says the same of every response (kappa is then 0 or None whatever the other says).
        positive: 2 both / (2 both + only_first + only_second): agreement on those that show it, which a rare behaviour
            needs beside kappa; None if neither coder sees any.
        confidence: coverage aimed at.
    """

    responses: int
    both: int
    only_first: int
    only_second: int
    neither: int
    observed: float | None
    kappa: float | None
    low: float | None
    high: float | None
    positive: float | None
    confidence: float

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def cohens_kappa(both: float, only_first: float, only_second: float, neither: float) -> float | None:
    """Cohen's kappa of a 2 x 2 table, (p_o - p_e) / (1 - p_e); None where p_e is 1 or there is nothing."""
    total = both + only_first + only_second + neither
    if not total:
        return None
    observed = (both + neither) / total
    first, second = (both + only_first) / total, (both + only_second) / total
    expected = first * second + (1 - first) * (1 - second)
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def agreement(
    first: Mapping[tuple[str, Any], int],
    second: Mapping[tuple[str, Any], int],
    confidence: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Agreement over the responses that both have counted.

    Args:
        first, second: counts by (problem id, anything that tells its responses apart).
        confidence: coverage.
        seed: of the bootstrap.
    """
    tables: dict[str, numpy.ndarray] = {}
    for key in first.keys() & second.keys():
        cell = 2 * (first[key] == 0) + (second[key] == 0)  # both, only first, only second, neither
        tables.setdefault(key[0], numpy.zeros(4))[cell] += 1
    stacked = numpy.array([tables[problem] for problem in sorted(tables)]).reshape(-1, 4)
    both, only_first, only_second, neither = (int(count) for count in stacked.sum(axis=0))
    total, seen = both + only_first + only_second + neither, 2 * both + only_first + only_second
    kappa = cohens_kappa(both, only_first, only_second, neither)
    low = high = None
    varied = 0 < both + only_first < total and 0 < both + only_second < total
    if varied and len(stacked) > 1:
        generator = numpy.random.default_rng(seed)
        draws = generator.multinomial(len(stacked), numpy.full(len(stacked), 1 / len(stacked)), size=resamples)
        found = [value for table in draws @ stacked if (value := cohens_kappa(*table)) is not None]
        if found:
            low, high = (float(end) for end in numpy.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return Agreement(
        total,
        both,
        only_first,
        only_second,
        neither,
        (both + neither) / total if total else None,
        kappa,
        low,
        high,
        2 * both / seen if seen else None,
        confidence,
    )
