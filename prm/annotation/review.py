"""People review a sample of the labels: what share of the steps of each judge do they confirm?"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import encode_record, read_records
from reasonrl.prm.quality.agreeing import Figures, Tally, figures_of
from reasonrl.prm.quality.sources import votes_of
from reasonrl.prm.quality.telling import figure_lines
from reasonrl.prm.steps import steps_from_spans, steps_text

LABELS = "labels"
"""Under this name the labels themselves stand in an audit, beside the judges' votes."""


def draw_sample(records: Iterable[Mapping[str, Any]], n: int, seed: int = 0) -> list[Mapping[str, Any]]:
    """`n` records by a hash of their ids: the same ones whatever the order, and more of them with a larger n."""

    def rank(record: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}/{record['id']}".encode("utf-8", "surrogatepass")).digest()

    return heapq.nsmallest(n, records, key=rank)


def write_audit(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A file for people: a solution a line, its steps with label and reason, and `human`, a list of null to fill in.

    Where several judges or votes made the labels, `judges` holds those of each.

    Reviews that stand in the file already are kept: in place where the steps are the same, at the end where the
    solution is not among the records.
    """
    before = {record["id"]: record for record in read_records(path)}
    lines: list[Mapping[str, Any]] = []
    for record in records:
        parts = steps_text(record["text"], steps_from_spans(record["steps"]))
        reasons = record.get("reasons") or [""] * len(parts)
        steps = [
            {"text": part, "label": label, "reason": reason}
            for part, label, reason in zip(parts, record["labels"], reasons, strict=True)
        ]
        old = before.pop(record["id"], {})
        reviewed = old.get("human") if [step["text"] for step in old.get("steps", [])] == parts else None
        shown = {name: record.get(name) for name in ("id", "problem", "answer", "correct")}
        votes = votes_of(record)
        judges = {"judges": {name: list(own) for name, own in votes.items()}} if votes else {}
        lines.append({**shown, "steps": steps, "human": reviewed or [None] * len(parts), **judges})
    lines += [old for old in before.values() if any(one is not None for one in old.get("human") or ())]
    write_atomically(path, b"".join(map(encode_record, lines)))


@dataclass(frozen=True)
class Audit:
    """What people say of labels.

    Attributes:
        reviewed: solutions with a step that people have labelled, and all in the file.
        figures: on these steps, by judge (`labels`: what was made of all judges), with those on all but the last steps.
    """

    reviewed: tuple[int, int]
    figures: Mapping[str, tuple[Figures, Figures]]


def read_audit(path: Path) -> Audit:
    """How far each judge agrees with the people, over the steps that people have labelled.

    Raises:
        DataError: `human` is no list with 0, 1 or null a step.
    """
    tallies: dict[str, Tally] = {}
    reviewed = whole = 0
    for number, record in enumerate(read_records(path), start=1):
        human, labels = record.get("human"), [step["label"] for step in record["steps"]]
        if not isinstance(human, list) or len(human) != len(labels) or any(one not in (0, 1, None) for one in human):
            raise DataError(
                f"{path}, line {number}: human is {json.dumps(human)[:80]} -> give 0, 1 or null for each of the"
                f" {len(labels)} steps"
            )
        whole += 1
        if all(one is None for one in human):
            continue
        reviewed += 1
        for name, own in {LABELS: labels, **record.get("judges", {})}.items():
            tallies.setdefault(name, Tally()).add(own, human, None)
    figures = {
        name: (figures_of(name, tally.tables), figures_of(f"{name}, without last steps", tally.before))
        for name, tally in tallies.items()
    }
    return Audit((reviewed, whole), figures)


def audit_lines(audit: Audit) -> Iterator[str]:
    """The figures of an audit in words."""
    reviewed, whole = audit.reviewed
    if not reviewed:
        yield "no step is reviewed yet -> put 0 or 1 for each step into `human`"
        return
    steps = audit.figures[LABELS][0].agreement.n
    yield f"{steps:,} labelled steps of {reviewed:,} of {whole:,} solutions reviewed"
    # The last step's label is the verdict on the answer, where there is one: it says nothing of a judge.
    rows = [row for pair in audit.figures.values() for row in pair]
    yield from (f"  {line}" for line in figure_lines(rows, True, "labels"))
