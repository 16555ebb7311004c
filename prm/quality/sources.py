"""Sets of step labels, wherever they stand: an annotation's folder, files of label records, people's review files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.errors import DataError
from reasonrl.prm.labels import Label, consensus
from reasonrl.prm.steps import partition_fault, spans_of, steps_from_pieces, steps_from_spans

SHOWN = 3
"""Places of rows set aside that are told of each reason."""


@dataclass(frozen=True)
class Labelled:
    """The labels of one solution.

    Attributes:
        id: of the solution.
        labels: [K] 1, 0 or None.
        votes: labels of single votes by name (`judge#vote`), where the record keeps them.
        record: the whole record, with `text` and `steps` as spans.
    """

    id: str
    labels: tuple[Label, ...]
    votes: Mapping[str, tuple[Label, ...]]
    record: Mapping[str, Any]

    def mark(self) -> str:
        """16 hexadecimal digits of the text and where it is cut: labels of other steps are not comparable."""
        content = json.dumps([self.record["text"], self.record["steps"]])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass
class Aside:
    """What was set aside while reading: counts by reason, with the first places."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Count one row."""
        self.reasons[reason] += 1
        if len(shown := self.places.setdefault(reason, [])) < SHOWN:
            shown.append(place)

    def lines(self) -> list[str]:
        """What is told of it: `3 rows set aside: torn or invalid JSON (in.jsonl:4, …)`."""
        return [
            f"{count:,} row{'s' * (count > 1)} set aside: {reason} ({', '.join(self.places[reason])}"
            f"{', …' if count > len(self.places[reason]) else ''})"
            for reason, count in self.reasons.most_common()
        ]


def files_of(source: str | Path) -> list[Path]:
    """The files that hold a set of labels: those of an annotation's folder (or its `labels`), or the file itself.

    Raises:
        DataError: nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        folder = path / "labels" if (path / "labels").is_dir() else path
        found = sorted(file for file in folder.iterdir() if file.suffix in (".jsonl", ".parquet", ".gz"))
        if not found:
            raise DataError(f"{path}: the folder holds no labels (*.jsonl) -> name a file, or an annotation's folder")
        return found
    if not path.exists():
        raise DataError(f"{path}: no such file or folder -> name label records, or an annotation's folder")
    return [path]


def read_labels(source: str | Path, aside: Aside | None = None, *, unlabelled: bool = False) -> Iterator[Labelled]:
    """The label sets of a source one by one; rows that hold none are set aside.

    Args:
        source: an annotation's folder, or a file: JSONL or parquet of label records (`labels`), or of a review
            (`steps` with texts, and `human`), as `reasonrl annotate --audit` and `reasonrl labels export` write it.
        aside: takes what was set aside. A record whose labels are null is counted in it too: it was passed through
            without labels.
        unlabelled: give also solutions that have steps and no labels yet; their labels are all None.

    Raises:
        DataError: nothing is there, or it cannot be read at all.
    """
    aside = Aside() if aside is None else aside
    for place, raw in read_paths([str(file) for file in files_of(source)], None, None, None):
        aside.rows += 1
        if isinstance(raw, BadRow):
            aside.add(raw.reason, place)
            continue
        try:
            yield labelled_of(raw, unlabelled)
        except DataError as problem:
            aside.add(str(problem), place)


def labelled_of(row: Mapping[str, Any], unlabelled: bool = False) -> Labelled:
    """A row's labels; `unlabelled` rows are taken too.

    Raises:
        DataError: it has none, or they do not fit its steps.
    """
    if row.get("id") is None:
        raise DataError("there is no id")
    steps = row.get("steps")
    if isinstance(steps, Sequence) and steps and isinstance(steps[0], Mapping):
        record = _of_review(row, steps, unlabelled)
    else:
        record = dict(row)
    labels = record.get("labels")
    if labels is None and unlabelled and isinstance(steps, Sequence):
        labels = [None] * len(steps)
    if labels is None:
        raise DataError("no labels")
    _check_steps(record.get("steps"), record.get("text"))
    count = len(record["steps"])
    found = _checked(labels, count)
    votes = {name: _checked(vote, count) for name, vote in votes_of(record).items()}
    return Labelled(str(record["id"]), found, votes, record)


def _of_review(row: Mapping[str, Any], steps: Sequence[Any], unlabelled: bool) -> dict[str, Any]:
    """A line of a review as a label record: what people say are its labels."""
    parts = [str(step["text"]) for step in steps if isinstance(step, Mapping) and step.get("text")]
    if len(parts) < len(steps):
        raise DataError("a step has no text")
    human = row.get("human")
    if not isinstance(human, list):
        raise DataError("human is no list")
    if all(one is None for one in human) and not unlabelled:
        raise DataError("not reviewed yet")
    record = {name: value for name, value in row.items() if name not in ("human", "judges", "why", "annotator")}
    record |= {"text": "".join(parts), "steps": spans_of(steps_from_pieces(parts)), "labels": human}
    record["notes"] = [step.get("note") or step.get("reason") or "" for step in steps]
    if isinstance(row.get("why"), list) and any(row["why"]):
        record["reasons"] = list(row["why"])
    record["source"] = {"judge": f"human:{row['annotator']}" if row.get("annotator") else "human"}
    return record


def votes_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of single votes by name, `judge#vote`; of several votes of one judge its majority too, under the judge's
    name. None of a record with one vote alone, which is its labels.

    Raises:
        DataError: the record's votes have another form.
    """
    found: dict[str, Any] = {}
    by_judge: dict[str, list[Any]] = {}
    votes = record.get("votes") or ()
    if not all(isinstance(vote, Mapping) and {"judge", "vote", "labels"} <= vote.keys() for vote in votes):
        raise DataError("votes are not of the form {judge, vote, labels}")
    for vote in votes:
        found[f"{vote['judge']}#{vote['vote']}"] = vote["labels"]
        by_judge.setdefault(str(vote["judge"]), []).append(vote["labels"])
    if len(by_judge) < 2 and len(found) < 2:
        return {}
    for judge, own in by_judge.items():
        if len(own) == 1:
            found[judge] = found.pop(next(name for name in found if name.startswith(f"{judge}#")))
        elif len(by_judge) > 1:
            found[judge] = consensus(own, "majority")
    return found


def _check_steps(steps: Any, text: Any) -> None:
    if not isinstance(text, str) or not text:
        raise DataError("there is no text")
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise DataError("there are no steps -> annotate or segment first")
    try:
        fault = partition_fault(text, steps_from_spans(steps))
    except DataError:
        fault = "no pairs"  # what they are differs from row to row, and reasons are counted
    if fault:
        raise DataError("the steps do not partition the text")


def _checked(labels: Any, count: int) -> tuple[Label, ...]:
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        raise DataError("labels is no list")
    if any(isinstance(label, bool) or label not in (0, 1, None) for label in labels):
        raise DataError("a label is not 0, 1 or null")
    if len(labels) != count:
        raise DataError("the labels are not as many as the steps")
    return tuple(labels)
