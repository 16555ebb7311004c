"""A frozen probe set: the same gold solutions are judged again and again, so that a judge that drifts is caught."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.observe.metrics import write_atomically
from reasonrl.prm.annotation.store import Folder
from reasonrl.prm.labels import Label
from reasonrl.prm.quality.intervals import Share, change_of, share_of
from reasonrl.prm.quality.sources import Aside, Labelled, labelled_of, read_labels
from reasonrl.prm.quality.writing import Output, line_of

RECORDS, ABOUT, RUNS, FIGURES = "probe.jsonl", "probe.json", "runs", "figures.json"
_KEPT = ("id", "problem_id", "problem", "answer", "text", "steps", "correct", "labels")


@dataclass(frozen=True)
class Frozen:
    """A probe set.

    Attributes:
        path: its folder.
        sha256: of its records.
        solutions, steps: labelled ones.
        aside: what of the source was left out.
    """

    path: Path
    sha256: str
    solutions: int
    steps: int
    aside: Aside


@dataclass(frozen=True)
class Drift:
    """One judging of the probe set, held against an earlier one.

    Attributes:
        run, against: their numbers; equal for the first.
        accuracy, before: share of the gold set's steps that are labelled as there, now and then.
        change: of that share, over the steps that both runs label.
        flipped: steps of those with another label than then.
        unlabelled: solutions without labels now (failed, or passed through).
        settings: what the judges' settings were then and are now, where they differ.
    """

    run: int
    against: int
    accuracy: Share
    before: Share
    change: Share
    flipped: int
    unlabelled: int
    settings: Mapping[str, Any]

    def fell(self, tolerance: float = 0.0) -> bool:
        """Whether accuracy fell by more than `tolerance`: the whole interval of the change lies below it."""
        return self.change.high is not None and self.change.high < -tolerance

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def freeze(source: str | Path, folder: Path) -> Frozen:
    """Make a probe set of gold labels; its records never change after that.

    Args:
        source: what `read_labels` reads: a gold set of people's labels.
        folder: a new folder.

    Raises:
        RunError: there is a probe set already.
        DataError: no usable labels, or an id that stands twice.
    """
    if (folder / RECORDS).exists():
        raise RunError(
            f"{folder} holds a probe set, and those never change -> leave out --freeze, or name another folder"
        )
    aside, met, steps = Aside(), set(), 0
    with Output(folder / RECORDS) as output:
        for one in read_labels(source, aside):
            if all(label is None for label in one.labels):
                aside.add("no step is labelled", one.id)
                continue
            if one.id in met:
                raise DataError(f"{source}: the id {one.id!r} stands twice -> give each solution an id of its own")
            met.add(one.id)
            steps += sum(label is not None for label in one.labels)
            output.file.write(line_of({name: one.record[name] for name in _KEPT if name in one.record}))
        if not met:
            raise DataError(f"{source}: no labels to freeze: {'; '.join(aside.lines()) or 'it holds no rows'}")
        output.keep()
    digest = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()
    about = {"sha256": digest, "solutions": len(met), "steps": steps, "frozen": _today(), "source": str(source)}
    write_atomically(folder / ABOUT, f"{json.dumps(about, indent=1)}\n".encode("utf-8", "backslashreplace"))
    return Frozen(folder, digest, len(met), steps, aside)


def open_probe(folder: Path) -> Frozen:
    """The probe set of a folder.

    Raises:
        RunError: there is none, or it is not what was frozen.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        digest = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise RunError(f"{folder} holds no probe set -> make one with --freeze GOLD") from None
    if digest != about["sha256"]:
        raise RunError(f"{folder / RECORDS} is not what was frozen (its SHA-256 differs) -> put the old file back")
    return Frozen(folder, digest, about["solutions"], about["steps"], Aside())


def runs_of(folder: Path) -> dict[int, Path]:
    """The runs by number, in order; the last may be unfinished."""
    found = {int(path.name): path for path in (folder / RUNS).glob("*") if path.name.isdecimal()}
    return dict(sorted(found.items()))


def next_run(folder: Path) -> tuple[int, Path]:
    """Number and folder of the run to be made, or gone on with: the last one, if it has no figures yet."""
    runs = runs_of(folder)
    if runs and not (runs[max(runs)] / FIGURES).exists():
        return max(runs), runs[max(runs)]
    number = max(runs, default=0) + 1
    return number, folder / RUNS / f"{number:03d}"


def drift_of(folder: Path, run: int, against: int | None = None, confidence: float = 0.95) -> Drift:
    """Hold a run against an earlier one (None: the first) and write its figures.

    Last steps are left out where the verdict on the answer is known: it is their label, whatever a judge says.

    Raises:
        RunError: no such run, or one without labels.
    """
    runs = runs_of(folder)
    against = min(runs) if against is None else against
    for number in (run, against):
        if number not in runs:
            raise RunError(f"{folder}: there is no run {number} -> {', '.join(map(str, runs)) or 'none'} are there")
    gold = {one.id: _judged(one) for one in read_labels(folder / RECORDS)}
    now, then = _labels(runs[run]), _labels(runs[against])
    for number, labels in ((run, now), (against, then)):
        if not labels:
            raise RunError(f"{runs[number]} holds no labels: {runs[number] / 'failed.jsonl'} says why of each")
    changes: Counter[tuple[int, int]] = Counter()
    flipped = 0
    for identity, truth in gold.items():
        rows = list(zip(truth, now.get(identity, ()), then.get(identity, ()), strict=False))
        both = [row for row in rows if None not in row]
        changes[sum((new == true) - (old == true) for true, new, old in both), len(both)] += 1
        flipped += sum(new != old for _, new, old in both)
    settings = [
        json.loads((runs[number] / "settings.json").read_text(encoding="utf-8"))["settings"]
        for number in (against, run)
    ]
    differ = {name: [one.get(name) for one in settings] for name in sorted({*settings[0], *settings[1]})}
    drift = Drift(
        run,
        against,
        _accuracy(gold, now, confidence),
        _accuracy(gold, then, confidence),
        change_of(changes, confidence),
        flipped,
        len(gold.keys() - now.keys()),
        {name: pair for name, pair in differ.items() if pair[0] != pair[1]},
    )
    text = json.dumps({**drift.as_dict(), "date": _today()}, indent=1)
    write_atomically(runs[run] / FIGURES, f"{text}\n".encode())
    return drift


def _judged(gold: Labelled) -> tuple[Label, ...]:
    """The gold labels of the steps that judges decide on."""
    return gold.labels if gold.record.get("correct") is None else (*gold.labels[:-1], None)


def _labels(path: Path) -> dict[str, tuple[Label, ...]]:
    found: dict[str, Labelled] = {}
    for record in Folder(path).labelled():
        if record.get("labels") is not None:
            found[str(record["id"])] = labelled_of(record)
    return {identity: one.labels for identity, one in found.items()}


def _accuracy(
    gold: Mapping[str, tuple[Label, ...]], labels: Mapping[str, tuple[Label, ...]], confidence: float
) -> Share:
    hits: Counter[tuple[int, int]] = Counter()
    for identity, found in labels.items():
        pairs = [pair for pair in zip(gold[identity], found, strict=True) if None not in pair]
        hits[sum(true == label for true, label in pairs), len(pairs)] += 1
    return share_of(hits, confidence)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
