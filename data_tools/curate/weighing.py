"""Steps that change how often rows are there: strata with factors and caps, and sources in given shares."""

from __future__ import annotations

import bisect
import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reasonrl.data_tools.curate.rules import Step
from reasonrl.data_tools.curate.spool import RowFile
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.keeping import numbers_of
from reasonrl.errors import DataError

NONE = "none"
"""The stratum of rows without a value."""


def draw_of(seed: int, row: Mapping[str, Any]) -> float:
    """A number in [0, 1) that hangs on the seed and the row's id alone: who is drawn does not change with who else is
    there.
    """
    digest = hashlib.blake2b(f"{seed}\0{row['id']}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def stratum_of(row: Mapping[str, Any], by: str, bins: Sequence[float] | None) -> str:
    """The stratum of a row: the value of a column as text, or `low..high` of the bins its number lies in (the lower
    end belongs to it).
    """
    if bins is None:
        value = row.get(by)
        return NONE if value is None else str(value)
    number = numbers_of({by: row.get(by)}).get(by)
    if number is None:
        return NONE
    edges = ["", *(f"{edge:g}" for edge in bins), ""]
    place = bisect.bisect_right(list(bins), number)
    return f"{edges[place]}..{edges[place + 1]}"


def stratify(
    by: str,
    *,
    bins: Sequence[float] | None = None,
    weights: Mapping[str, float] | None = None,
    cap: int | None = None,
    seed: int = 0,
) -> Step:
    """A step that weighs strata anew.

    Args:
        by: the column that says which: difficulty, source, a behaviour's count.
        bins: edges, for a column of numbers.
        weights: stratum -> how often its rows shall be there: 0.5 leaves half of them, drawn by the seed, 2 has all
            twice (the second under the id `…~2`), 0 none. Others stay as they are.
        cap: at most so many rows of a stratum, drawn by the seed, before weights.
    """
    factors = dict(weights or {})

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        limits = _limits(rows, lambda row: stratum_of(row, by, bins), {} if cap is None else None, cap, seed)
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        for row in rows:
            tally.read += 1
            stratum = stratum_of(row, by, bins)
            before[stratum] += 1
            drawn = draw_of(seed, row)
            if stratum in limits and drawn >= limits[stratum]:
                tally.drop(f"over the cap of {by}={stratum}", row)
                continue
            yield from _copies(
                row, factors.get(stratum, 1.0), drawn, f"weight of {by}={stratum}", tally, after, stratum
            )
        unknown = sorted(set(factors) - set(before))
        tally.figures = {"strata": {name: [before[name], after[name]] for name in sorted(before)}, "not_met": unknown}

    return step


def _limits(
    rows: RowFile,
    group: Callable[[Mapping[str, Any]], str],
    given: Mapping[str, int] | None,
    cap: int | None,
    seed: int,
) -> dict[str, float]:
    """Group -> the draw from which on its rows go, so that exactly the cap stay."""
    if given is not None and not given:
        return {}
    draws: dict[str, array[float]] = {}
    for row in rows:
        draws.setdefault(group(row), array("d")).append(draw_of(seed, row))
    limits = {}
    for name, values in draws.items():
        most = cap if given is None else given.get(name)
        if most is not None and len(values) > most:
            limits[name] = sorted(values)[most]
    return limits


def _copies(
    row: dict[str, Any], factor: float, drawn: float, reason: str, tally: Tally, after: Counter[str], group: str
) -> Iterator[dict[str, Any]]:
    """The row as often as its factor says; the draw decides on the fraction."""
    times = math.floor(factor) + (math.modf(drawn * 65537)[0] < math.modf(factor)[0])
    if not times:
        tally.drop(reason, row)
    for copy in range(1, times + 1):
        after[group] += 1
        tally.repeated += copy > 1
        yield row if copy == 1 else {**row, "id": f"{row['id']}~{copy}"}


def mix(
    weights: Mapping[str, float],
    *,
    total: int | None = None,
    caps: Mapping[str, int] | None = None,
    repeats: float = 1.0,
    seed: int = 0,
) -> Step:
    """A step that brings sources into given shares.

    Args:
        weights: source -> weight, divided by their sum; sources that are not named go.
        total: rows in the end; None: as many as the scarcest source allows.
        caps: at most so many rows of a source, drawn by the seed, before shares.
        repeats: how often a source's rows may be there, where it has fewer than its share of `total`.

    Raises:
        DataError: no weight above 0, or repeats under 1.
    """
    if not any(weight > 0 for weight in weights.values()) or repeats < 1:
        raise DataError(
            f"curate: mix with weights {dict(weights)}, repeats {repeats:g} -> weights above 0, repeats from 1"
        )
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items() if weight > 0}

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        limits = _limits(rows, lambda row: str(row["source"]), caps or {}, None, seed)
        there: Counter[str] = Counter()
        for row in rows:
            name = str(row["source"])
            there[name] += name not in limits or draw_of(seed, row) < limits[name]
        absent = sorted(set(shares) - {name for name, count in there.items() if count})
        if absent:
            raise DataError(f"curate: mix: there are no rows of {', '.join(absent)} -> sources: {', '.join(there)}")
        wanted = min(there[name] * repeats / share for name, share in shares.items()) if total is None else float(total)
        factors = {name: min(repeats, wanted * share / there[name]) for name, share in shares.items()}
        exact = _exact_draws(rows, factors, limits, there, seed)
        after: Counter[str] = Counter()
        for row in rows:
            tally.read += 1
            name, drawn = str(row["source"]), draw_of(seed, row)
            if name in limits and drawn >= limits[name]:
                tally.drop(f"over the cap of {name}", row)
            elif name not in factors:
                tally.drop(f"{name} has no weight", row)
            else:
                whole = math.floor(factors[name]) + (drawn < exact[name])
                yield from _copies(row, float(whole), drawn, f"beyond the share of {name}", tally, after, name)
        short = {name: round(wanted * share) - after[name] for name, share in shares.items()}
        tally.figures = {
            "sources": {name: [there[name], after[name]] for name in sorted(shares)},
            "short_of_share": {name: count for name, count in short.items() if count > 0},
        }

    return step


def _exact_draws(
    rows: RowFile, factors: Mapping[str, float], limits: Mapping[str, float], there: Mapping[str, int], seed: int
) -> dict[str, float]:
    """Source -> the draw below which a row is there once more, so that counts are exact."""
    draws: dict[str, array[float]] = {name: array("d") for name in factors}
    for row in rows:
        name, drawn = str(row["source"]), draw_of(seed, row)
        if name in draws and (name not in limits or drawn < limits[name]):
            draws[name].append(drawn)
    edges = {}
    for name, values in draws.items():
        extra = round((factors[name] - math.floor(factors[name])) * there[name])
        edges[name] = sorted(values)[extra] if extra < len(values) else 1.0
    return edges
