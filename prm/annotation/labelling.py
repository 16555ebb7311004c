"""From the votes of judges to label records: one label a step, and what each shard amounts to. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.annotation.mined import CONSENSUS, Counts, add_answer, nothing_mined
from reasonrl.prm.annotation.rows import Item, Passed, Unusable, digest_of
from reasonrl.prm.judges.base import Judged, Solution
from reasonrl.prm.labels import Label, consensus
from reasonrl.prm.steps import spans_of

VERSION = 1
"""Of the label records: what is made of votes."""

Votes = dict[tuple[int, int], dict[str, Any]]
"""(place in the shard, vote) -> the last line about it."""


@dataclass(frozen=True)
class Source:
    """One judge of an annotation: its name on disk, its votes, its settings, and its weight in a weighted consensus."""

    name: str
    votes: int
    settings: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Assembly:
    """How votes become labels.

    Attributes:
        sources: the judges.
        rule: over several judges: one of `labels.RULES`, or `one:NAME`, the labels of one of them; the votes of one
            judge always by majority.
        date: of the labels.
        invalid: what becomes of a solution that a judge gave no usable labels to: `set_aside`, or `leave`: it stays
            among the records, each step null.
        sizes: tokens of each step of a solution, for the table of what is mined; None counts characters.
        truth: its true labels, for the same table; raises DataError where nobody knows them.
    """

    sources: tuple[Source, ...]
    rule: str
    date: str
    invalid: str = "set_aside"
    sizes: Callable[[Solution], Sequence[int]] | None = None
    truth: Callable[[Solution], Sequence[Label]] | None = None

    def assemble(
        self, items: Sequence[Item], lines: Sequence[Iterable[Mapping[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        """Label records, failures and the index entry of one shard.

        Args:
            items: of the shard, in order.
            lines: of each source's log about it.
        """
        votes, usage = _last_votes(lines)
        records: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        pairs: dict[str, list[int]] = {}
        mined, passed, count = nothing_mined(), Counter[str](), Counter[Label]()
        for place, item in enumerate(items):
            if isinstance(item, Unusable):
                failed.append({"id": item.id, "place": place, "reason": item.reason, "retry": False})
                continue
            if isinstance(item, Passed):
                passed[item.why] += 1
                records.append(_unlabelled(item.solution))
                continue
            of_item = [
                [found[place, vote] for vote in range(source.votes) if (place, vote) in found]
                for source, found in zip(self.sources, votes, strict=True)
            ]
            if reason := self._lacking(of_item):
                failed.append({"id": item.id, "place": place, "reason": reason, "retry": True})
                if self.invalid == "leave":
                    passed["invalid"] += 1
                    records.append(_unlabelled(item, spans_of(item.steps)))
                continue
            records.append(self._record(item, of_item, pairs, mined))
            count.update(records[-1]["labels"])
        entry = {
            "rows": len(items),
            "solutions": len(records) - passed.total(),
            "failed": len(failed),
            "retryable": sum(line["retry"] for line in failed),
            "passed": dict(passed),
            "steps": count.total(),
            "right": count[1],
            "wrong": count[0],
            "open": count[None],
            "usage": usage,
            "pairs": pairs,
            "mined": mined,
        }
        return records, failed, entry

    def _lacking(self, of_item: Sequence[Sequence[Mapping[str, Any]]]) -> str:
        """Why an item has no labels: a judge with half of its votes or fewer; empty if there is none."""
        for source, lines in zip(self.sources, of_item, strict=True):
            good = [line for line in lines if "labels" in line]
            if 2 * len(good) <= source.votes:
                why = next((line["failure"] for line in lines if "failure" in line), "it was not asked")
                return f"{source.name}: {why}"
        return ""

    def _agreed(self, judges: Sequence[Sequence[Label]]) -> list[Label]:
        """The labels of several judges made one."""
        if len(judges) == 1:
            return list(judges[0])
        if self.rule.startswith("one:"):
            return list(judges[source_named([source.name for source in self.sources], self.rule[4:])])
        weights = [source.weight for source in self.sources] if self.rule == "weighted" else None
        return consensus(judges, self.rule, weights)

    def _count_mined(
        self, mined: Counts, item: Solution, judges: Sequence[Sequence[Label]], labels: Sequence[Label]
    ) -> None:
        sizes = [end - start for start, end in spans_of(item.steps)] if self.sizes is None else self.sizes(item)
        truth = None
        if self.truth is not None:
            with suppress(DataError):  # nobody knows it of this one: `with_truth` says of how many
                truth = self.truth(item)
        named = {source.name: given for source, given in zip(self.sources, judges, strict=True)}
        add_answer(mined, {**named, CONSENSUS: labels}, sizes, truth)

    def _record(
        self,
        item: Solution,
        of_item: Sequence[Sequence[Mapping[str, Any]]],
        pairs: dict[str, list[int]],
        mined: Counts,
    ) -> dict[str, Any]:
        good = [[line for line in lines if "labels" in line] for lines in of_item]
        every = [(source.name, line) for source, lines in zip(self.sources, good, strict=True) for line in lines]
        judges: list[Sequence[Label]] = [
            lines[0]["labels"] if len(lines) == 1 else consensus([line["labels"] for line in lines], "majority")
            for lines in good
        ]
        labels = self._agreed(judges)
        if labels and item.correct is not None:
            labels[-1] = int(item.correct)  # the last step follows the verified answer
        if item.correct is False:
            self._count_mined(mined, item, judges, labels)
        record = _unlabelled(item, spans_of(item.steps))
        record["labels"] = labels
        first = every[0][1]
        for name in ("reasons", "kinds", "soft"):
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


def source_named(names: Sequence[str], word: str) -> int:
    """The place of a judge by its name on disk, its number or its own name (`1.prm`, `1`, `prm`).

    Raises:
        DataError: none or several have it.
    """
    found = [place for place, name in enumerate(names) if word in (name, *name.split(".", 1))]
    if len(found) != 1:
        raise DataError(f"consensus one:{word}: judges are {', '.join(names)} -> name one of them, such as {names[0]}")
    return found[0]


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


def _unlabelled(item: Solution, steps: Sequence[Sequence[int]] | None = None) -> dict[str, Any]:
    """A row of the output: without steps and labels, or with steps that have none."""
    record = {
        **item.row,
        "id": item.id,
        "problem": item.problem,
        "answer": item.answer,
        "text": item.text,
        "steps": steps,
        "correct": item.correct,
        "labels": None if steps is None else [None] * len(steps),
        "source": None,
    }
    for name in ("reasons", "kinds", "soft", "votes"):  # of an annotation before this one
        record.pop(name, None)
    return record


def _last_votes(lines: Sequence[Iterable[Mapping[str, Any]]]) -> tuple[list[Votes], dict[str, Any]]:
    """The last line of every source about every vote, and what all lines cost."""
    usage = {"asked": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    votes: list[Votes] = []
    for source in lines:
        last: Votes = {}
        for line in source:
            last[line["place"], line["vote"]] = dict(line)
            for name in usage:
                usage[name] += line["usage"][name]
        votes.append(last)
    return votes, {**usage, "cost": round(usage["cost"], 9)}


def _count(pairs: dict[str, list[int]], name: str, first: Sequence[Label], second: Sequence[Label]) -> None:
    """Add to both right, only first, only second, both wrong."""
    cells = pairs.setdefault(name, [0, 0, 0, 0])
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None:
            cells[2 * (1 - a) + (1 - b)] += 1
