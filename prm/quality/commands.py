"""The work of `reasonrl labels`, but for the probe: files in, files out, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reasonrl.errors import DataError
from reasonrl.observe.metrics import write_atomically
from reasonrl.prm.quality.adjudication import adjudicate as settle
from reasonrl.prm.quality.agreeing import LENGTHS, compare_sets
from reasonrl.prm.quality.near_duplicates import drop_near_duplicates
from reasonrl.prm.quality.reviewing import export, import_marks
from reasonrl.prm.quality.sources import Aside
from reasonrl.prm.quality.splitting import split_by_problem
from reasonrl.prm.quality.telling import agreeing_lines

Say = Callable[[str], None]
_FAULTS = 5


def named_sources(words: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH` or `PATH` -> name -> path; a path is named by its last parts, as many as tell it from the others.

    Raises:
        DataError: two of one name, or a name with a colon.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or "/" in name:
            name, path = _short_name(word, words), word
        if name in found or ":" in name or not path:
            raise DataError(f"{word}: the name {name!r} is taken, empty or has a colon -> write another, as NAME=PATH")
        found[name] = path
    return found


def _short_name(path: str, others: Sequence[str]) -> str:
    parts = Path(path).parts
    rest = [Path(other.rpartition("=")[2]).parts for other in others if other != path]
    for count in range(1, len(parts) + 1):
        if all(parts[-count:] != other[-count:] for other in rest):
            break
    return "/".join(parts[-count:]).removesuffix(".jsonl").replace(":", "_")


def agree(
    sources: Sequence[str],
    *,
    gold: str | None,
    length: str,
    confidence: float,
    out: Path | None,
    as_json: bool,
    say: Say,
) -> None:
    """Says how far sets of labels agree with each other, or with a gold set, and writes it as JSON.

    Raises:
        DataError: fewer than two sets, or a source that cannot be read.
    """
    named = named_sources([*sources, gold] if gold is not None else sources)
    of_gold = list(named)[-1] if gold is not None else None
    found = compare_sets(named, gold=of_gold, length=length, confidence=confidence)
    if not found.pairs:
        told = "; ".join(line for aside in found.aside.values() for line in aside.lines())
        raise DataError(
            f"{', '.join(named)}: no solution is labelled twice{': ' + told if told else ''} -> name two sets of labels"
            " of the same solutions, or one with several votes"
        )
    if length not in LENGTHS and not any(pair.lengths for pair in found.pairs):
        raise DataError(f"--length {length}: no row has a number in this column -> {', '.join(LENGTHS)}, or a column")
    plain = {
        "gold": of_gold,
        "length": length,
        "pairs": [pair.as_dict() for pair in found.pairs],
        "aside": {name: dict(aside.reasons) for name, aside in found.aside.items()},
        "repeated": dict(found.repeated),
    }
    text = json.dumps(plain, indent=1)
    if out is not None:
        write_atomically(out, f"{text}\n".encode())
    if as_json:
        say(text)
        return
    for line in agreeing_lines(found, of_gold, length):
        say(line)
    if out is not None:
        say(f"wrote {out}")


def send(
    source: str,
    out: Path,
    *,
    form: str,
    n: int | None,
    seed: int,
    annotators: str | None,
    double: float,
    blind: bool,
    say: Say,
) -> None:
    """Writes solutions for people to label, and says where."""
    names = [name.strip() for name in annotators.split(",")] if annotators else []
    sent = export(source, out, form=form, n=n, seed=seed, annotators=names, double=double, blind=blind)
    for path, count in sent.files.items():
        say(f"wrote {path}: {count:,} solution{'s' * (count != 1)}")
    if form == "label-studio":
        say(f"wrote {out / 'config.xml'}: the labelling interface (project settings, Labeling Interface, Code)")
    if len(names) > 1:
        say(f"{sent.both:,} solutions go to every annotator")
    _told(sent.aside, source, say)


def receive(exports: Sequence[Path], out: Path, *, against: str | None, names: Sequence[str] = (), say: Say) -> None:
    """Reads what people have labelled, and says what came back."""
    if wrong := [word for word in names if not all(word.partition("=")[::2])]:
        raise DataError(f"--name {wrong[0]} -> THEIRS=NAME, such as 1=anna")
    received = import_marks(exports, out, against=against, names=dict(word.split("=", 1) for word in names))
    for name, path in received.files.items():
        say(f"wrote {path}: {received.solutions[name]:,} solutions, {received.steps[name]:,} labels of {name}")
    if received.repeated:
        say(f"{received.repeated:,} annotations were replaced by a later one of the same person")
    if received.empty:
        say(f"{received.empty:,} annotations have no label yet")
    if received.unknown:
        say(f"{received.unknown:,} annotations left out: {against} has no such solution, or with other steps")
    if received.faults:
        say(f"{len(received.faults):,} labels do not fit (they are kept as they came):")
        for fault in received.faults[:_FAULTS]:
            say(f"  {fault}")
        if len(received.faults) > _FAULTS:
            say(f"  … and {len(received.faults) - _FAULTS:,} more")
    _told(received.aside, "", say)
    if not received.files:
        raise DataError(f"{out}: no labels were written -> see above")


def adjudicate(sources: Sequence[str], gold: Path, *, disputes: Path | None, decided: Sequence[Path], say: Say) -> None:
    """Makes a gold set of several people's labels, and says what they dispute."""
    named = named_sources(sources)
    given = {Path(path).resolve() for path in [*named.values(), *map(str, decided)]}
    if disputes is None:
        numbers = ("", *(f".{number}" for number in range(2, 1000)))
        names = (gold.with_name(f"{gold.stem}.disputes{number}.jsonl") for number in numbers)
        disputes = next(path for path in names if path.resolve() not in given)
    for path in (gold, disputes):
        if path.resolve() in given:
            raise DataError(f"{path} is read and would be written over -> name another file")
    found = settle(named, gold, disputes, decided=decided)
    for line in agreeing_lines(compare_sets(named, votes=False), None, "steps"):
        say(line)
    steps = found.steps
    say(
        f"wrote {gold}: {found.solutions:,} solutions, {steps.total():,} steps: {steps['agreed']:,} agreed,"
        f" {steps['decided']:,} decided, {steps['disputed']:,} disputed, {steps['open']:,} open"
    )
    if found.single:
        say(f"{found.single:,} solutions left out: one person alone has labelled them")
    if found.other_steps:
        say(f"{found.other_steps:,} solutions or decisions left out: their text or steps differ")
    if found.undecided:
        say(
            f"wrote {disputes}: {found.undecided:,} solutions with disputed or open steps -> fill in the nulls of"
            f" `human` (or send it through reasonrl labels export), then add --decided {disputes} to the command"
        )


def dedup(
    source: str,
    out: Path,
    *,
    dropped: Path | None,
    share: float,
    any_verdict: bool,
    columns: Mapping[str, str],
    say: Say,
) -> None:
    """Drops near-duplicate solutions, and says how many."""
    found = drop_near_duplicates(
        source, out, dropped=dropped, share=share, verdicts_apart=not any_verdict, columns=columns
    )
    rows = found.kept + found.dropped
    percent = 100 * found.dropped / rows
    say(
        f"wrote {out}: {found.kept:,} of {rows:,} solutions; {found.dropped:,} dropped ({percent:.1f} %),"
        f" {found.same:,} of them with all word runs the same"
    )
    say(f"{found.with_duplicates:,} of {found.problems:,} problems had some")
    if dropped is not None:
        say(f"wrote {dropped}")
    _told(found.aside, source, say)


def split(
    source: str,
    out: Path,
    *,
    shares: Mapping[str, float],
    seed: int,
    share: float,
    together: Sequence[str],
    columns: Mapping[str, str],
    say: Say,
) -> None:
    """Splits rows by problem, and says what went where."""
    found = split_by_problem(source, out, shares, seed=seed, share=share, columns=columns, together=together)
    total = sum(found.problems.values())
    for name, count in found.problems.items():
        percent = 100 * count / total
        say(f"wrote {out / f'{name}.jsonl'}: {found.rows[name]:,} rows of {count:,} problems ({percent:.1f} %)")
    say(f"{total:,} problems in {found.groups:,} groups; {found.joined:,} problems stay with near-duplicates")
    say(
        f"checked: no problem on two sides, nor one that shares half of its ten-word runs ({found.moved:,} groups"
        " joined)"
    )
    _told(found.aside, source, say)


def _told(aside: Aside, source: str, say: Say) -> None:
    for line in aside.lines():
        say(f"{source + ': ' if source else ''}{line}")
