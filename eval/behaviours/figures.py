"""The figures of behaviours: rates of both sides, transfer rates, agreement of coders, over evaluations on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from reasonrl.eval.behaviours.agreement import agreement
from reasonrl.eval.behaviours.catalogue import SIDES, Behaviour, Catalogue, Pair, Side
from reasonrl.eval.behaviours.rates import behaviour_rate, shares, transfer_rate
from reasonrl.eval.behaviours.responses import Key, Response
from reasonrl.eval.behaviours.store import Count, coders, read_counts
from reasonrl.eval.metrics import paired_difference


@dataclass(frozen=True)
class Block:
    """What one line of a table is about: one evaluation, and the suites that its two sides are counted on.

    Attributes:
        label: of the evaluation.
        suites: side -> name of its suite; mostly the same for both.
        folders: side -> the suite's folder.
        responses: side -> its responses.
    """

    label: str
    suites: Mapping[Side, str]
    folders: Mapping[Side, Path]
    responses: Mapping[Side, Sequence[Response]]

    @property
    def suite(self) -> str:
        """One name for both suites."""
        return " / ".join(dict.fromkeys(self.suites[side] for side in SIDES))


@dataclass(frozen=True)
class Options:
    """How figures are made.

    Attributes:
        confidence: coverage of the intervals.
        quoted: count only occurrences whose quote stands in the response, where a coder quotes.
    """

    confidence: float = 0.95
    quoted: bool = False


class _Counts:
    """One coder's counts of one block, read once."""

    def __init__(self, options: Options, block: Block, coder: str) -> None:
        self.options, self.block = options, block
        self.found: dict[Side, dict[str, dict[Key, Count]]] = {side: {} for side in SIDES}
        for side in SIDES:
            wanted = {response.key for response in block.responses[side]}
            for (key, behaviour), count in read_counts(block.folders[side], coder).items():
                if key in wanted:
                    self.found[side].setdefault(behaviour, {})[key] = count

    def of(self, side: Side, behaviour: str) -> dict[tuple[str, Key], int]:
        """Counts by (problem, response)."""
        counts = self.found[side].get(behaviour, {})
        quoted = self.options.quoted
        return {
            (key[0], key): one.quoted if quoted and one.quoted is not None else one.count for key, one in counts.items()
        }

    def by_problem(self, side: Side, behaviour: str) -> dict[str, list[int]]:
        """Counts of each problem's responses."""
        found: dict[str, list[int]] = {}
        for (problem, _), count in self.of(side, behaviour).items():
            found.setdefault(problem, []).append(count)
        return found

    def unquoted(self, side: Side, behaviour: str) -> float | None:
        """Share of the occurrences whose quote does not stand in the response; None if nothing was quoted."""
        counts = [one for one in self.found[side].get(behaviour, {}).values() if one.quoted is not None]
        said = sum(one.count for one in counts)
        return (said - sum(one.quoted or 0 for one in counts)) / said if said else None


def behaviour_figures(blocks: Sequence[Block], catalogue: Catalogue, options: Options) -> dict[str, Any]:
    """All figures as plain data for JSON.

    Every coder with counts in a block's folders gets its rates and transfer rates; every two of them their agreement.
    Rates of later blocks are compared with the first block of the same suite, paired by problem.

    Raises:
        DataError: counts on disk that are damaged.
    """
    first: dict[tuple[str, str], _Counts] = {}
    listed = []
    for block in blocks:
        names = sorted(set(coders(block.folders["language"])) | set(coders(block.folders["vision"])))
        counted = {name: _Counts(options, block, name) for name in names}
        rates = {}
        for name, counts in counted.items():
            base = first.setdefault((block.suite, name), counts)
            rates[name] = [_pair_figures(counts, pair, None if base is counts else base) for pair in catalogue.pairs]
        listed.append(
            {
                "label": block.label,
                "suite": block.suite,
                "suites": {side: block.suites[side] for side in SIDES},
                "responses": {side: len(block.responses[side]) for side in SIDES},
                "problems": {side: len({one.id for one in block.responses[side]}) for side in SIDES},
                "coders": rates,
                "agreement": list(_agreements(counted, catalogue, options.confidence)),
            }
        )
    return {"confidence": options.confidence, "quoted_only": options.quoted, "evaluations": listed}


def _pair_figures(counts: _Counts, pair: Pair, base: _Counts | None) -> dict[str, Any]:
    found: dict[str, Any] = {"pair": pair.name}
    for side in SIDES:
        found[side] = _side_figures(counts, side, pair.side(side), base)
    vision, language = (shares(counts.by_problem(side, pair.side(side).name)) for side in ("vision", "language"))
    found["btr"] = transfer_rate(vision, language, counts.options.confidence).as_dict()
    return found


def _side_figures(counts: _Counts, side: Side, behaviour: Behaviour, base: _Counts | None) -> dict[str, Any]:
    responses, confidence = counts.block.responses[side], counts.options.confidence
    by_problem = counts.by_problem(side, behaviour.name)
    missing = len(responses) - sum(map(len, by_problem.values()))
    rate = behaviour_rate(by_problem, missing, confidence)
    found = {"behaviour": behaviour.name, **rate.as_dict(), **_right(counts, side, behaviour.name)}
    found["unquoted"] = counts.unquoted(side, behaviour.name)
    found["difference"] = None
    if base is not None:
        now, before = shares(by_problem), shares(base.by_problem(side, behaviour.name))
        common = now.keys() & before.keys()
        if common:
            found["difference"] = paired_difference(
                {problem: now[problem] for problem in now if problem in common},
                {problem: before[problem] for problem in now if problem in common},
                confidence,
            ).as_dict()
    return found


def _right(counts: _Counts, side: Side, behaviour: str) -> dict[str, Any]:
    """Shares of right responses with the behaviour and without: an association, no effect (hard problems call for more
    of it).
    """
    verdicts: dict[str, list[bool]] = {"right_with": [], "right_without": []}
    found = counts.of(side, behaviour)
    for response in counts.block.responses[side]:
        count = found.get((response.id, response.key))
        if count is not None and response.correct is not None:
            verdicts["right_with" if count else "right_without"].append(response.correct)
    return {name: sum(given) / len(given) if given else None for name, given in verdicts.items()}


def _agreements(counted: Mapping[str, _Counts], catalogue: Catalogue, confidence: float) -> Iterable[dict[str, Any]]:
    for one, two in combinations(counted, 2):
        for pair in catalogue.pairs:
            for side in SIDES:
                name = pair.side(side).name
                found = agreement(counted[one].of(side, name), counted[two].of(side, name), confidence)
                if found.responses:
                    yield {"first": one, "second": two, "behaviour": name, **found.as_dict()}
