"""From the votes of judges to label records: one label a step, and what each shard amounts to. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from reasonrl.prm.annotation.rows import Item, Unusable, digest_of
from reasonrl.prm.judges.base import Judged, Solution
from reasonrl.prm.labels import Label, consensus
from reasonrl.prm.steps import spans_of

VERSION = 1
"""Of the label records: what is made of votes."""

Votes = dict[tuple[int, int], dict[str, Any]]
"""(place in the shard, vote) -> the last line about it."""


@dataclass(frozen=True)
class Source:
    """One judge of an annotation: its name on disk, its votes, and its settings."""

    name: str
    votes: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Assembly:
    """How votes become labels.

    Attributes:
        sources: the judges.
        rule: `all` or `majority` over several judges (`labels.consensus`); the votes of one judge always by majority.
        date: of the labels.
    """

    sources: tuple[Source, ...]
    rule: str
    date: str

    def assemble(
        self, items: Sequence[Item], lines: Sequence[Iterable[Mapping[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        """Label records, failures and the index entry of one shard.

        Args:
            items: of the shard, in order.
            lines: of each source's log about it.
        """
        usage = {"asked": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
        votes: list[Votes] = []
        for source in lines:
            last: Votes = {}
            for line in source:
                last[line["place"], line["vote"]] = dict(line)
                for name in usage:
                    usage[name] += line["usage"][name]
            votes.append(last)
        labelled: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        pairs: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            if isinstance(item, Unusable):
                failed.append({"id": item.id, "place": place, "reason": item.reason, "retry": False})
                continue
            of_item = [
                [found[place, vote] for vote in range(source.votes) if (place, vote) in found]
                for source, found in zip(self.sources, votes, strict=True)
            ]
            reason = self._lacking(of_item)
            if reason:
                failed.append({"id": item.id, "place": place, "reason": reason, "retry": True})
            else:
                labelled.append(self._record(item, of_item, pairs))
        counts = [label for record in labelled for label in record["labels"]]
        entry = {
            "rows": len(items),
            "solutions": len(labelled),
            "failed": len(failed),
            "retryable": sum(line["retry"] for line in failed),
            "steps": len(counts),
            "right": counts.count(1),
            "wrong": counts.count(0),
            "open": counts.count(None),
            "usage": {**usage, "cost": round(usage["cost"], 9)},
            "pairs": pairs,
        }
        return labelled, failed, entry

    def _lacking(self, of_item: Sequence[Sequence[Mapping[str, Any]]]) -> str:
        """Why an item has no labels: a judge with half of its votes or fewer; empty if there is none."""
        for source, lines in zip(self.sources, of_item, strict=True):
            good = [line for line in lines if "labels" in line]
            if 2 * len(good) <= source.votes:
                why = next((line["failure"] for line in lines if "failure" in line), "it was not asked")
                return f"{source.name}: {why}"
        return ""

    def _record(
        self, item: Solution, of_item: Sequence[Sequence[Mapping[str, Any]]], pairs: dict[str, list[int]]
    ) -> dict[str, Any]:
        good = [[line for line in lines if "labels" in line] for lines in of_item]
        every = [(source.name, line) for source, lines in zip(self.sources, good, strict=True) for line in lines]
        judges: list[Sequence[Label]] = [
            lines[0]["labels"] if len(lines) == 1 else consensus([line["labels"] for line in lines], "majority")
            for lines in good
        ]
        labels = list(judges[0]) if len(judges) == 1 else consensus(judges, self.rule)
        if labels and item.correct is not None:
            labels[-1] = int(item.correct)  # the last step follows the verified answer
        record = {
            **item.row,
            "id": item.id,
            "problem": item.problem,
            "answer": item.answer,
            "text": item.text,
            "steps": spans_of(item.steps),
            "correct": item.correct,
            "labels": labels,
        }
        first = every[0][1]
        for name in ("reasons", "kinds", "soft"):
            record.pop(name, None)
            if name in first and (len(every) == 1 or name == "reasons"):
                record[name] = first[name]
        if len(every) > 1:
            record["votes"] = [{"judge": name, "vote": line["vote"], "labels": line["labels"]} for name, line in every]
            for (one, a), (two, b) in combinations(every, 2):
                _count(pairs, f"{one}#{a['vote']} {two}#{b['vote']}", a["labels"], b["labels"])
        record["source"] = self._source()
        return record

    def _source(self) -> dict[str, Any]:
        names = [source.settings.get("judge", source.name) for source in self.sources]
        hashes = [source.settings.get("prompt_hash") for source in self.sources]
        single = len(self.sources) == 1
        return {
            "judge": names[0] if single else names,
            "version": VERSION,
            "prompt_hash": hashes[0] if single else hashes,
            "date": self.date,
        }


def line_of(judged: Judged, place: int, mark: str) -> dict[str, Any]:
    """The line of a log about one answer."""
    usage = judged.usage
    line: dict[str, Any] = {"place": place, "id": judged.task.solution.id, "hash": mark, "vote": judged.task.vote}
    if judged.labels is None:
        line["failure"] = judged.failure
    else:
        line["labels"] = list(judged.labels)
        for name in ("reasons", "kinds", "soft"):
            if (value := getattr(judged, name)) is not None:
                line[name] = list(value)
    tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return {**line, "usage": {"asked": usage.asked, **tokens, "cost": usage.cost}}


def marks_of(items: Sequence[Item]) -> list[str]:
    """What tells each item's votes from those about another item."""
    return [digest_of(item) for item in items]


def _count(pairs: dict[str, list[int]], name: str, first: Sequence[Label], second: Sequence[Label]) -> None:
    """Add to both right, only first, only second, both wrong."""
    cells = pairs.setdefault(name, [0, 0, 0, 0])
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None:
            cells[2 * (1 - a) + (1 - b)] += 1
