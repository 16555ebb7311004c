"""Train and test by problem: no problem, and none that is nearly one, stands on both sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.data_tools.near import WORDS, Bands, jaccard, shingles
from reasonrl.data_tools.overlap import SHARE as OVERLAP_SHARE
from reasonrl.data_tools.overlap import WORDS as OVERLAP_WORDS
from reasonrl.data_tools.overlap import find_overlaps, problem_text
from reasonrl.errors import DataError
from reasonrl.observe.metrics import write_atomically
from reasonrl.prm.quality.near_duplicates import problem_key
from reasonrl.prm.quality.sources import Aside, files_of
from reasonrl.prm.quality.writing import Output, line_of

REST = "train"
ROUNDS = 8
BEFORE = 8
"""Members of a band that each one is compared with: those just before it."""


@dataclass
class Split:
    """What a split holds.

    Attributes:
        rows, problems: by side.
        groups: sets of problems that stay together; `joined` problems are in one with others.
        joined: see above.
        moved: groups put together because the check found that one problem holds half of another.
        aside: rows that could not be used.
    """

    rows: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    joined: int = 0
    moved: int = 0
    aside: Aside = field(default_factory=Aside)


class Groups:
    """Numbers 0 to n - 1 in sets that can be joined."""

    def __init__(self, n: int) -> None:
        self.above = list(range(n))

    def of(self, number: int) -> int:
        """The least number of its set."""
        while self.above[number] != number:
            self.above[number] = self.above[self.above[number]]
            number = self.above[number]
        return number

    def join(self, one: int, other: int) -> bool:
        """Put two sets together; whether they were two."""
        low, high = sorted((self.of(one), self.of(other)))
        self.above[high] = low
        return low != high


def split_by_problem(
    source: str | Path,
    out: Path,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    share: float = 0.5,
    columns: Mapping[str, str] | None = None,
    together: Sequence[str] = (),
) -> Split:
    """Write the rows of a file to `<side>.jsonl` by their problems; what no side takes is `train`.

    Problems of the same words (but for case, LaTeX dressing and punctuation) are one. Problems with `share` of their
    runs of five words in common are near-duplicates and stay together, as are those that have the same value in a
    column of `together`. A group's side is a hash of its first member's text (by hash) and the seed alone, so that the
    side of a problem stays what it was when rows are added, unless they tie it to a group. The sides are then checked
    by `find_overlaps` (ten-word runs, half of a problem's); what that finds is put together too. Last, the written
    files are read again.

    Args:
        source: an annotation's folder, or a file of rows with a problem.
        out: folder for the sides and `split.json`.
        shares: side -> expected share of the groups, such as `{"test": 0.1}`.
        seed: of the sides.
        share: of common runs from which two problems are near-duplicates.
        columns: `problem` by another name.
        together: columns whose equal values keep rows together, such as `problem_id` or `source_document`.

    Raises:
        DataError: shares that cannot be, nothing usable, a side without a problem.
    """
    _check(shares, out, source)
    inputs, named = files_of(source), (columns or {}).get("problem")
    found = Split()
    texts, groups = _problems(inputs, named, together, found)
    _join_near(texts, groups, share)
    names = (*shares, REST)
    sides: list[str] = []
    for _ in range(ROUNDS):
        sides = _sides(texts, groups, shares, seed)
        if not (again := _overlapping(texts, sides, names, groups)):
            break
        found.moved += again
    else:
        raise DataError(f"the sides still overlap after {ROUNDS} rounds -> raise share, or split by a column of yours")
    found.problems.update(sides)
    sizes = Counter(groups.of(number) for number in range(len(texts)))
    found.groups, found.joined = len(sizes), sum(size for size in sizes.values() if size > 1)
    if empty := [name for name in names if not found.problems[name]]:
        raise DataError(
            f"{source}: {found.groups:,} groups of problems leave {empty[0]} empty -> raise its share, or take"
            " another seed"
        )
    _write(inputs, named, out, dict(zip(texts, sides, strict=True)), names, found)
    _check_files(out, names, named)
    _tell(out, found, shares, seed, share, together)
    return found


def _check(shares: Mapping[str, float], out: Path, source: str | Path) -> None:
    if not shares or any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        told = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        raise DataError(f"shares {told or 'are missing'} -> each above 0, together below 1: the rest is {REST}")
    for name in shares:
        if name == REST or not name.isidentifier():
            raise DataError(f"side {name!r} -> a word other than {REST}, which takes the rest")
    if Path(source).resolve() in {(out / f"{name}.jsonl").resolve() for name in (*shares, REST)}:
        raise DataError(f"{source} would be written over -> name another folder")


def _usable(
    inputs: Sequence[Path], named: str | None, aside: Aside | None
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(place, row, key of its problem) of every usable row; the others are put aside."""
    for place, raw in read_paths([str(path) for path in inputs], None, None, None):
        if aside is not None:
            aside.rows += 1
        if isinstance(raw, BadRow):
            reason = raw.reason
        else:
            problem = raw.get(named) if named else problem_text(raw) or raw.get("question")
            if isinstance(problem, str) and problem.strip():
                yield place, raw, problem_key(problem)
                continue
            reason = "there is no problem"
        if aside is not None:
            aside.add(reason, place)


def _problems(
    inputs: Sequence[Path], named: str | None, together: Sequence[str], found: Split
) -> tuple[list[str], Groups]:
    """The different problems, in the order in which they came, and those that columns keep together."""
    numbers: dict[str, int] = {}
    values: dict[tuple[str, str], int] = {}
    joins: set[tuple[int, int]] = set()
    for place, raw, key in _usable(inputs, named, found.aside):
        number = numbers.setdefault(key, len(numbers))
        for column in together:
            if raw.get(column) is None:
                raise DataError(f"{place}: no column {column!r}, which is to keep rows together -> name another")
            first = values.setdefault((column, str(raw[column])), number)
            if first != number:
                joins.add((first, number))
    if not numbers:
        raise DataError(f"{inputs[0]}: no usable row: {'; '.join(found.aside.lines()) or 'it holds no rows'}")
    groups = Groups(len(numbers))
    for one, other in joins:
        groups.join(one, other)
    return list(numbers), groups


def _join_near(texts: Sequence[str], groups: Groups, share: float) -> None:
    """Put near-duplicate problems together: those that share a MinHash band are compared exactly."""
    bands = Bands(share)
    runs = [shingles(text) for text in texts]
    members: dict[bytes, list[int]] = {}
    for number, own in enumerate(runs):
        for key in bands.keys(own):
            near = members.setdefault(key, [])
            for other in near[-BEFORE:]:
                if groups.of(other) != groups.of(number) and jaccard(own, runs[other]) >= share:
                    groups.join(other, number)
            near.append(number)
            del near[: -4 * BEFORE]


def _sides(texts: Sequence[str], groups: Groups, shares: Mapping[str, float], seed: int) -> list[str]:
    """[problems] the side of each: a hash of the seed and of the group's member whose own hash is least."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    least: dict[int, bytes] = {}
    for number, digest in enumerate(digests):
        group = groups.of(number)
        least[group] = min(digest, least.get(group, digest))
    side_of: dict[int, str] = {}
    for group, digest in least.items():
        draw = int.from_bytes(hashlib.blake2b(f"{seed}/".encode() + digest, digest_size=7).digest(), "big") / 2**56
        side_of[group] = REST
        for name, share in shares.items():
            if draw < share:
                side_of[group] = name
                break
            draw -= share
    return [side_of[groups.of(number)] for number in range(len(texts))]


def _overlapping(texts: Sequence[str], sides: Sequence[str], names: Sequence[str], groups: Groups) -> int:
    """Put together what overlaps across sides; how many groups that joined."""
    by_side = {
        name: [{"id": str(number), "problem": texts[number]} for number, side in enumerate(sides) if side == name]
        for name in names
    }
    joined = 0
    for place, small in enumerate(names):
        for large in names[place + 1 :]:
            # Either may hold half of the other.
            for first, second in ((large, small), (small, large)):
                for pair in find_overlaps(by_side[first], by_side[second]).pairs:
                    joined += groups.join(int(pair.first), int(pair.second))
    return joined


def _write(
    inputs: Sequence[Path],
    named: str | None,
    out: Path,
    side_of: Mapping[str, str],
    names: Iterable[str],
    found: Split,
) -> None:
    outputs = {name: Output(out / f"{name}.jsonl") for name in names}
    try:
        for place, raw, key in _usable(inputs, named, None):
            try:
                outputs[side_of[key]].file.write(line_of(raw))
            except DataError as problem:
                found.aside.add(str(problem), place)
                continue
            found.rows[side_of[key]] += 1
        if empty := [name for name in outputs if not found.rows[name]]:
            raise DataError(f"{inputs[0]}: no row of {empty[0]} can be written: {'; '.join(found.aside.lines())}")
        for output in outputs.values():
            output.keep()
    finally:
        for output in outputs.values():
            output.close()


def _check_files(out: Path, names: Sequence[str], named: str | None) -> None:
    """Raises DataError if a problem stands in two of the files that were written."""
    met: dict[str, str] = {}
    for name in names:
        for place, _, key in _usable([out / f"{name}.jsonl"], named, None):
            if met.setdefault(key, name) != name:
                raise DataError(f"{place}: its problem stands in {met[key]} too; the input changed while it was read")


def _tell(
    out: Path, found: Split, shares: Mapping[str, float], seed: int, share: float, together: Sequence[str]
) -> None:
    about: dict[str, Any] = {
        "rows": dict(found.rows),
        "problems": dict(found.problems),
        "groups": found.groups,
        "problems_in_groups": found.joined,
        "joined_by_check": found.moved,
        "aside": dict(found.aside.reasons),
        "settings": {"shares": dict(shares), "seed": seed, "share": share, "words": WORDS, "together": list(together)},
        "check": {"words": OVERLAP_WORDS, "share": OVERLAP_SHARE, "overlapping": 0},
        "sha256": {},
    }
    for name in sorted(found.problems):
        with (out / f"{name}.jsonl").open("rb") as file:
            about["sha256"][name] = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomically(out / "split.json", f"{json.dumps(about, indent=1)}\n".encode())
