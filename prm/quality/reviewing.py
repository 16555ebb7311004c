"""Solutions go out to people, and their labels come back: review files (JSONL) and Label Studio."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.errors import DataError, RunError
from reasonrl.prm.annotation.review import draw_sample
from reasonrl.prm.label_checks import validate
from reasonrl.prm.quality.label_studio import Marks, labelling_config, marks_in, notes_of, task_of
from reasonrl.prm.quality.partitions import part_of
from reasonrl.prm.quality.sources import Aside, Labelled, read_labels
from reasonrl.prm.quality.writing import Output, line_of
from reasonrl.prm.steps import steps_from_spans, steps_text

FORMATS = ("review", "label-studio")
VERSION = 1
"""Of the label records made of people's labels."""


@dataclass(frozen=True)
class Sent:
    """What went out.

    Attributes:
        files: that were written, with how many solutions each holds.
        both: solutions that every annotator gets.
        aside: rows that could not be used.
    """

    files: Mapping[Path, int]
    both: int
    aside: Aside


def export(
    source: str | Path,
    out: Path,
    *,
    form: str = "review",
    n: int | None = None,
    seed: int = 0,
    annotators: Sequence[str] = (),
    double: float = 1.0,
    blind: bool = False,
) -> Sent:
    """Write solutions for people to label.

    Args:
        source: what `read_labels` reads; rows with steps and no labels will do.
        out: a folder. It gets `review.jsonl`, or `tasks.json` and `config.xml` for Label Studio; with annotators a
            file for each, `review.anna.jsonl`. Files that are there are not written over.
        form: `review` or `label-studio`.
        n: draw so many, by a hash of their ids; None takes all, in their order.
        seed: of the draw and of who gets what.
        annotators: their names.
        double: share of the solutions that every annotator gets; the others are spread over them, one each.
        blind: leave out the labels and reasons that the solutions have.

    Raises:
        DataError: nothing usable; a name that makes no file name; a share outside 0 to 1.
        RunError: a file is there already.
    """
    _check(form, annotators, double)
    aside = Aside()
    solutions: Iterable[Labelled] = read_labels(source, aside, unlabelled=True)
    if n is not None:
        chosen = draw_sample(({"id": one.id, "_": one} for one in solutions), n, seed)
        solutions = [record["_"] for record in chosen]
    names = annotators or ("",)
    paths, config = _paths(out, form, names)
    counts: Counter[str] = Counter()
    both = 0
    outputs = {name: Output(path) for name, path in paths.items()}
    try:
        for solution in solutions:
            whose = _whose(solution.id, names, double, seed)
            both += len(whose) == len(names) > 1
            for name in whose:
                _write(outputs[name].file, solution, form, name, blind, not counts[name])
                counts[name] += 1
        if not counts:
            raise DataError(f"{source}: no usable solution: {'; '.join(aside.lines()) or 'it holds no rows'}")
        for name, output in outputs.items():
            if form == "label-studio":
                output.file.write(b"\n]\n" if counts[name] else b"[]\n")
            output.keep()
    finally:
        for output in outputs.values():
            output.close()
    for path in config:
        path.write_text(labelling_config(), encoding="utf-8")
    return Sent({paths[name]: counts[name] for name in names}, both, aside)


def _check(form: str, annotators: Sequence[str], double: float) -> None:
    if form not in FORMATS:
        raise DataError(f"format {form!r} -> one of {', '.join(FORMATS)}")
    for name in annotators:
        if not re.fullmatch(r"[\w@.+-]+", name) or name.startswith("."):
            raise DataError(f"annotator {name!r} -> letters, digits and _ @ . + - alone, since it names a file")
    if len(set(annotators)) < len(annotators):
        raise DataError(f"annotators {', '.join(annotators)}: a name stands twice -> name each once")
    if not 0 <= double <= 1:
        raise DataError(f"double = {double:g} -> a share from 0 to 1")


def _paths(out: Path, form: str, names: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """The files that are to be written: one a person, and the interface. Raises RunError if one is there."""
    stem, ending = ("review", ".jsonl") if form == "review" else ("tasks", ".json")
    paths = {name: out / (f"{stem}.{name}{ending}" if name else f"{stem}{ending}") for name in names}
    config = [out / "config.xml"] if form == "label-studio" else []
    if there := [path for path in (*paths.values(), *config) if path.exists()]:
        raise RunError(f"{there[0]} is there already, and may hold people's work -> name another folder")
    return paths, config


def _whose(identity: str, names: Sequence[str], double: float, seed: int) -> Sequence[str]:
    """Who gets a solution: everybody a share `double` of them, one person the others; by hashes of the id."""
    if len(names) == 1 or part_of(f"double/{seed}/{identity}", 1 << 30) < double * (1 << 30):
        return names
    return (names[part_of(f"whose/{seed}/{identity}", len(names))],)


def _write(file: IO[bytes], solution: Labelled, form: str, name: str, blind: bool, first: bool) -> None:
    if form == "review":
        file.write(line_of(review_line(solution, annotator=name or None, blind=blind)))
    else:
        file.write(b"[\n" if first else b",\n")
        file.write(line_of(task_of(solution, blind=blind)).rstrip(b"\n"))


def review_line(solution: Labelled, *, annotator: str | None = None, blind: bool = False) -> dict[str, Any]:
    """A solution as a line of a review file: its steps, and `human` and `why`, one entry a step, to be filled in."""
    record = solution.record
    parts = steps_text(record["text"], steps_from_spans(record["steps"]))
    steps: list[dict[str, Any]] = [{"text": part} for part in parts]
    if not blind:
        for step, label, note in zip(steps, solution.labels, notes_of(solution), strict=True):
            step |= {"label": label} | ({"note": note} if note else {})
    shown = {name: record.get(name) for name in ("id", "problem_id", "problem", "answer", "correct") if name in record}
    line = {**shown, "steps": steps, "human": [None] * len(parts), "why": [""] * len(parts)}
    return line if annotator is None else {**line, "annotator": annotator}


@dataclass
class Received:
    """What came back.

    Attributes:
        solutions, steps: labelled, by annotator.
        files: written, by annotator.
        repeated: annotations of one person about one solution that a later one replaces.
        empty: annotations without any label.
        faults: what does not fit the verdict on the final answer, in words; the labels are kept as they came.
        unknown: solutions that `against` does not hold.
        aside: tasks that could not be read.
    """

    solutions: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    files: dict[str, Path] = field(default_factory=dict)
    repeated: int = 0
    empty: int = 0
    faults: list[str] = field(default_factory=list)
    unknown: int = 0
    aside: Aside = field(default_factory=Aside)


def import_marks(
    exports: Sequence[str | Path],
    out: Path,
    *,
    against: str | Path | None = None,
    names: Mapping[str, str] | None = None,
) -> Received:
    """Label records, a file a person, of Label Studio's exports (JSON or JSON-MIN) or of filled-in review files.

    Args:
        exports: the files.
        out: folder for `<annotator>.jsonl`. Files there are written anew.
        against: what was exported (`read_labels`): the records get its columns, and it must hold the solutions with
            the same text and steps. None takes what the export repeats.
        names: what to call a person whom the export calls otherwise; Label Studio gives numbers.

    Raises:
        DataError: a file that is none, or no label in all of them.
    """
    received = Received()
    latest: dict[tuple[str, str], Marks] = {}
    for marks in _marks_of(exports, received.aside):
        if all(label is None for label in marks.labels):
            received.empty += 1
            continue
        marks = replace(marks, annotator=(names or {}).get(marks.annotator, marks.annotator))
        key = (marks.annotator, str(marks.record["id"]))
        received.repeated += key in latest
        if key not in latest or marks.date >= latest[key].date:
            latest[key] = marks
    if not latest:
        reasons = "; ".join(received.aside.lines()) or "no annotation has a label"
        raise DataError(f"{', '.join(map(str, exports))}: no labels of people: {reasons}")
    originals = _originals(against, {key[1] for key in latest})
    by_name: dict[str, list[dict[str, Any]]] = {}
    for (annotator, identity), marks in latest.items():
        record = marks.record
        if originals is not None:
            original = originals.get(identity)
            if original is None or original.mark() != Labelled(identity, (), {}, record).mark():
                received.unknown += 1
                continue
            record = original.record
        by_name.setdefault(annotator, []).append(_record(record, marks))
    for annotator, records in sorted(by_name.items()):
        path = out / f"{re.sub(r'[^-+.@_0-9A-Za-z]', '_', annotator).lstrip('.') or 'unknown'}.jsonl"
        with Output(path) as output:
            for record in records:
                output.file.write(line_of(record))
                received.faults += [f"{annotator}, {record['id']}: {fault}" for fault in validate(record)]
                received.steps[annotator] += sum(label is not None for label in record["labels"])
            output.keep()
        received.solutions[annotator], received.files[annotator] = len(records), path
    return received


def _marks_of(exports: Sequence[str | Path], aside: Aside) -> Iterator[Marks]:
    for path in exports:
        for place, raw in read_paths(str(path), None, None, None):
            aside.rows += 1
            if isinstance(raw, BadRow):
                aside.add(raw.reason, place)
                continue
            try:
                yield from [_of_review(raw)] if "human" in raw else marks_in(raw)
            except DataError as problem:
                aside.add(str(problem), place)
            except (AttributeError, KeyError, TypeError, ValueError):  # anything may stand in a file of another program
                aside.add("not of the form of an export", place)


def _of_review(raw: Mapping[str, Any]) -> Marks:
    from reasonrl.prm.quality.sources import labelled_of

    found = labelled_of(raw, unlabelled=True)
    reasons = raw.get("why")
    whole = isinstance(reasons, list) and len(reasons) == len(found.labels)
    words = tuple(str(reason or "") for reason in reasons or ()) if whole else ("",) * len(found.labels)
    return Marks(str(raw.get("annotator") or "unknown"), found.labels, words, "", found.record)


def _originals(against: str | Path | None, wanted: set[str]) -> dict[str, Labelled] | None:
    if against is None:
        return None
    return {one.id: one for one in read_labels(against, unlabelled=True) if one.id in wanted}


def _record(original: Mapping[str, Any], marks: Marks) -> dict[str, Any]:
    left_out = ("labels", "reasons", "kinds", "soft", "votes", "notes", "source")
    record = {name: value for name, value in original.items() if name not in left_out}
    record["labels"] = list(marks.labels)
    if any(marks.reasons):
        record["reasons"] = list(marks.reasons)
    date = marks.date[:10] or None
    record["source"] = {"judge": f"human:{marks.annotator}", "version": VERSION, "prompt_hash": None, "date": date}
    return record
