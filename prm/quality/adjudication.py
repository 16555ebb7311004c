"""Double annotation: what people agree on, the steps they dispute, and a gold set once somebody has decided those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.prm.labels import Label
from reasonrl.prm.quality.reviewing import VERSION, review_line
from reasonrl.prm.quality.sources import Aside, Labelled, read_labels
from reasonrl.prm.quality.writing import Output, line_of

WORDS: dict[Label, str] = {1: "right", 0: "wrong", None: "unsure"}


@dataclass
class Adjudicated:
    """What became of double annotation.

    Attributes:
        solutions: in the gold set.
        steps: of them, by outcome: `agreed`, `decided` (by the adjudicator), `disputed` (nobody has decided), `open`
            (nobody, or one alone, has labelled them).
        single: solutions that one person alone has labelled; they are left out.
        other_steps: solutions whose text or steps differ between people.
        undecided: solutions with a step that is still disputed or open.
        aside: by source, what could not be read.
    """

    solutions: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    single: int = 0
    other_steps: int = 0
    undecided: int = 0
    aside: dict[str, Aside] = field(default_factory=dict)


def adjudicate(
    sources: Mapping[str, str | Path],
    gold: Path,
    disputes: Path,
    *,
    decided: Sequence[str | Path] = (),
) -> Adjudicated:
    """Make a gold set of the labels of several people.

    A step's label is the one that all who labelled it give, if at least two did. Where they differ it is what the
    adjudicator says, and stays open until then. A step that somebody was unsure about, or left out, is decided by the
    others if two of them agree.

    Args:
        sources: name -> the labels of one person (`read_labels`); at least two.
        gold: file for the label records; written anew.
        disputes: a review file of the solutions with steps that are disputed or open, if there are any: `human` holds
            what is agreed and null where nothing is, and the notes say who said what. Filled in, it is what `decided`
            takes; so it is never written over, unless by the same.
        decided: the adjudicator's labels, of disputed and open steps alone; later ones hold.

    Raises:
        DataError: fewer than two sources, or no solution that two of them have.
        RunError: there is another file at `disputes`.
    """
    if len(sources) < 2:
        raise DataError("adjudication needs the labels of two people at least -> name their files")
    found = Adjudicated(aside={name: Aside() for name in sources})
    people: dict[str, dict[str, Labelled]] = {}
    order: dict[str, None] = {}
    for name, source in sources.items():
        people[name] = {}
        for one in read_labels(source, found.aside[name]):
            people[name].setdefault(one.id, one)
            order.setdefault(one.id)
    decisions = _decisions(decided, found)
    with Output(gold) as output, Output(disputes) as open_output:
        for identity in order:
            theirs = {name: own[identity] for name, own in people.items() if identity in own}
            if len(theirs) < 2:
                found.single += 1
                continue
            if len({one.mark() for one in theirs.values()}) > 1:
                found.other_steps += 1
                continue
            record, open_line = _settled(theirs, decisions.get(identity), found)
            output.file.write(line_of(record))
            if open_line is not None:
                open_output.file.write(line_of(open_line))
        if not found.solutions:
            raise DataError(f"no solution is labelled by two of {', '.join(sources)} with the same steps")
        _keep_disputes(open_output, found)
        output.keep()
    return found


def _keep_disputes(output: Output, found: Adjudicated) -> None:
    if not found.undecided:
        return
    if output.path.exists() and output.differs():
        raise RunError(
            f"{output.path} is there already, and may hold decisions -> give it as --decided, and name another file for"
            " what is still disputed (--disputes)"
        )
    output.keep()


def _decisions(decided: Sequence[str | Path], found: Adjudicated) -> dict[str, Labelled]:
    decisions: dict[str, Labelled] = {}
    for source in decided:
        for one in read_labels(source, found.aside.setdefault(str(source), Aside())):
            decisions[one.id] = one
    return decisions


def _settled(
    theirs: Mapping[str, Labelled], decision: Labelled | None, found: Adjudicated
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The gold record of one solution, and its line among the disputes if a step is still disputed."""
    first = next(iter(theirs.values()))
    if decision is not None and decision.mark() != first.mark():
        found.other_steps += 1
        decision = None
    labels: list[Label] = []
    outcomes: list[str] = []
    for place in range(len(first.labels)):
        said = [one.labels[place] for one in theirs.values() if one.labels[place] is not None]
        chosen = None if decision is None else decision.labels[place]
        if len(set(said)) > 1:
            outcomes.append("disputed" if chosen is None else "decided")
            labels.append(chosen)
        elif len(said) > 1:
            outcomes.append("agreed")
            labels.append(said[0])
        else:
            outcomes.append("open" if chosen is None else "decided")
            labels.append(chosen)
    found.solutions += 1
    found.steps.update(outcomes)
    record = _gold_record(theirs, labels, decision, [place for place, one in enumerate(outcomes) if one == "decided"])
    if not {"disputed", "open"} & set(outcomes):
        return record, None
    found.undecided += 1
    line = review_line(Labelled(first.id, tuple(labels), {}, {**first.record, "notes": _notes(theirs, outcomes)}))
    for step in line["steps"]:
        del step["label"]
    return record, {**line, "human": labels}


def _gold_record(
    theirs: Mapping[str, Labelled], labels: list[Label], decision: Labelled | None, decided: list[int]
) -> dict[str, Any]:
    first = next(iter(theirs.values()))
    left_out = ("labels", "reasons", "kinds", "soft", "votes", "notes", "source")
    record = {name: value for name, value in first.record.items() if name not in left_out}
    record["labels"] = labels
    record["votes"] = [
        {"judge": f"human:{name}", "vote": 0, "labels": list(one.labels)} for name, one in theirs.items()
    ]
    dates = [one.record.get("source", {}).get("date") for one in theirs.values()]
    record["source"] = {
        "judge": "human",
        "version": VERSION,
        "prompt_hash": None,
        "date": max((date for date in dates if date), default=None),
        "annotators": list(theirs),
    }
    if decision is not None and decided:
        record["source"]["adjudicator"] = decision.record.get("source", {}).get("judge")
        record["source"]["decided"] = decided
    return record


def _notes(theirs: Mapping[str, Labelled], outcomes: Sequence[str]) -> list[str]:
    """[K] who said what, where it is disputed or open."""
    notes = []
    for place, outcome in enumerate(outcomes):
        words = []
        for name, one in theirs.items():
            reasons = one.record.get("reasons") or [""] * len(outcomes)
            words.append(f"{name}: {WORDS[one.labels[place]]}" + (f" ({reasons[place]})" if reasons[place] else ""))
        notes.append(f"{outcome}: {'; '.join(words)}" if outcome in ("disputed", "open") else "")
    return notes
