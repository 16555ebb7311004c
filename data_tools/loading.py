"""`load_rows`: from a file, a hub dataset or a synthetic world to clean rows with stable ids."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import BadRow, PlacedRow, read_paths
from reasonrl.data_tools.keeping import keep_rows
from reasonrl.data_tools.layout import CANONICAL, canonical_row
from reasonrl.data_tools.pictures import at_home, pictures_of
from reasonrl.data_tools.report import RowReport
from reasonrl.errors import DataError
from reasonrl.plugins import near


class Rows(list[dict[str, Any]]):
    """A list of rows that knows what became of the source's rows.

    Attributes:
        report: the count of kept, dropped and filtered rows.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], report: RowReport) -> None:
        super().__init__(rows)
        self.report = report


def load_rows(
    path: str | Path | Sequence[str | Path] | None = None,
    hub: str | None = None,
    world: str | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    format: str | None = None,
    split: str | None = None,
    columns: Mapping[Any, str] | None = None,
    keep: str | None = None,
    limit: int | None = None,
    n: int | None = None,
    seed: int = 0,
    shuffle: bool = False,
    name: str | None = None,
    revision: str | None = None,
    require: Sequence[str] = ("problem", "answer"),
    base_dir: str | Path | None = None,
) -> Rows:
    """The usable rows of one source.

    The order of work: read, map columns, set bad rows aside (counted in `.report`), give ids, `keep`, `shuffle`,
    `limit`.

    Args:
        path: a file, a folder, a glob pattern or a list of them. Exactly one of `path`, `hub` and `world` is given.
        hub: a dataset of the hub (`openai/gsm8k`), read through `datasets.load_dataset`.
        world: the name of a synthetic world.
        args: the world's own settings.
        format: `jsonl`, `json`, `csv`, `parquet`, an installed reader, or `file.py:function`; None goes by the file's
            ending.
        split: a folder's, a hub dataset's or a world's split; `train` where a hub dataset or a world needs one.
        columns: our name (`problem`, `answer`, `solution`, `prompt`, `id`, `reward`, `images`) -> their column; `a.b`
            reaches into nested ones.
        keep: an expression over the rows' numeric columns, such as `0.1 < solve_rate < 0.9`.
        limit: at most so many rows, the first ones (after shuffling).
        n: how many rows to make (worlds).
        seed: of the shuffling and of the world.
        shuffle: put the rows into an order drawn from `seed`.
        name: the hub dataset's configuration.
        revision: the hub dataset's revision.
        require: columns that a usable row must have; `prompt` (messages) stands in for `problem`.
        base_dir: where a custom reader `file.py:function` is looked for; the working directory if None.

    Returns:
        Rows with `id` (text, unique, the same on every reading), `problem`, `answer` and, where the source has them,
        `solution`, `prompt` (messages), `reward`, `images` (a list; paths as from the working directory), and the
        source's other columns.

    Raises:
        DataError: the source cannot be read, an argument does not fit it, or no usable row is left.
    """
    _check(path, hub, world, columns, limit)
    if world is not None:
        source, placed = f"world {world!r}", world_rows(world, args, split, n, seed)
    elif hub is not None:
        source, placed = f"hub dataset {hub!r}", _hub_rows(hub, name, split, revision)
    else:
        assert path is not None
        source = str(path) if isinstance(path, (str, Path)) else ", ".join(map(str, path))
        placed = read_paths(path, format, split, base_dir)
    report = RowReport(source)
    rows = _usable(placed, columns or {}, require, report)
    _give_ids(rows, report)
    if keep is not None:
        rows = keep_rows(rows, keep, report)
        if not rows:
            raise DataError(f"keep: {keep!r} leaves none of the {report.read} rows of {source} -> loosen it")
    if shuffle:
        random.Random(seed).shuffle(rows)
    if limit is not None and len(rows) > limit:
        report.beyond_limit = len(rows) - limit
        rows = rows[:limit]
    report.kept = len(rows)
    return Rows(rows, report)


def _check(path: Any, hub: Any, world: Any, columns: Mapping[Any, str] | None, limit: int | None) -> None:
    """Refuses arguments of `load_rows` that no source could make good."""
    given = [key for key, value in (("path", path), ("hub", hub), ("world", world)) if value is not None]
    if len(given) != 1:
        raise DataError(f"a data source is exactly one of path, hub and world; given: {', '.join(given) or 'none'}")
    for ours in columns or {}:
        if ours not in CANONICAL:
            raise DataError(
                f"columns: {ours!r} is not one of our columns{near(ours, CANONICAL)} (write our name first: {{problem:"
                " question})"
            )
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: allowed is a number of at least 1, or none")


def placed_rows(
    path: str | Path | Sequence[str | Path] | None = None,
    hub: str | None = None,
    *,
    format: str | None = None,
    split: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    base_dir: str | Path | None = None,
) -> Iterator[PlacedRow]:
    """The raw rows of files or of a hub dataset as they are read, one at a time; the arguments are `load_rows`'.

    Raises:
        DataError: the source cannot be read.
    """
    _check(path, hub, None, None, None)
    if hub is not None:
        return _hub_rows(hub, name, split, revision)
    assert path is not None
    return read_paths(path, format, split, base_dir)


def _usable(
    placed: Iterator[PlacedRow], columns: Mapping[str, str], require: Sequence[str], report: RowReport
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: list[str] = []
    for place, raw in placed:
        report.read += 1
        if not isinstance(raw, BadRow) and not seen:
            seen = list(raw)
        row = raw if isinstance(raw, BadRow) else canonical_row(raw, columns, require)
        if isinstance(row, BadRow):
            report.drop(row.reason, place)
        else:
            if "images" in row:
                # Paths are relative to the file that names them, where they are not to the working directory.
                row["images"] = at_home(row["images"], Path(place.rpartition(":")[0]).parent)
            rows.append(row)
    if not rows:
        why = "; ".join(report.reasons()) or "it holds no rows"
        hint = (
            f"; the columns of its first row: {', '.join(seen)} -> map them with `columns`, such as {{problem: …,"
            " answer: …}"
            if seen
            else ""
        )
        raise DataError(f"{report.source}: no usable row: {why}{hint}")
    return rows


def _give_ids(rows: list[dict[str, Any]], report: RowReport) -> None:
    """A row's own id where no other row has it, else a hash of what the row asks and answers; a repeated row is
    numbered.
    """
    own = Counter(str(row["id"]) for row in rows if "id" in row)
    met: Counter[str] = Counter()
    for place, row in enumerate(rows):
        digest = content_hash(row)
        met[digest] += 1
        report.repeated += met[digest] > 1
        if "id" in row and own[str(row["id"])] == 1:
            chosen = str(row["id"])
        else:
            chosen = digest if met[digest] == 1 else f"{digest}-{met[digest]}"
        rows[place] = {"id": chosen, **{key: value for key, value in row.items() if key != "id"}}


def content_hash(row: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a row's problem, prompt, answer and pictures (their bytes, or their path): the same
    wherever and in whatever company the row stands.
    """
    content = json.dumps(
        [row.get("problem"), row.get("prompt"), row.get("answer")], sort_keys=True, ensure_ascii=False, default=str
    )
    digest = hashlib.sha256(content.encode())
    for picture in pictures_of(row):
        known = picture.get("bytes") or picture.get("path") if isinstance(picture, Mapping) else picture
        if isinstance(picture, Mapping) and picture.get("world") is not None:
            known = json.dumps({**picture}, sort_keys=True)
        if isinstance(known, (bytes, str)):
            digest.update(known if isinstance(known, bytes) else known.encode())
        elif known is not None and hasattr(known, "tobytes"):
            digest.update(known.tobytes())
    return digest.hexdigest()[:16]


def world_rows(
    world: str, args: Mapping[str, Any] | None, split: str | None, n: int | None, seed: int
) -> Iterator[PlacedRow]:
    """The raw rows of a synthetic world; the arguments are `load_rows`'. Raises DataError if they do not fit it."""
    from reasonrl.data_tools.worlds import get_world

    if n is None:
        raise DataError(f"world {world!r}: a world makes as many rows as it is asked for -> set n")
    try:
        rows = get_world(world).rows(n, split=split or "train", seed=seed, **(args or {}))
    except TypeError as problem:
        raise DataError(f"world {world!r}: args {dict(args or {})} do not fit it: {problem}") from problem
    for number, row in enumerate(rows, start=1):
        yield f"{world}:row {number}", row


def _hub_rows(hub: str, name: str | None, split: str | None, revision: str | None) -> Iterator[PlacedRow]:
    import datasets

    chosen = split or "train"
    try:
        rows = datasets.load_dataset(hub, name=name, split=chosen, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as problem:  # the hub's own errors are OSErrors
        raise DataError(
            f"hub dataset {hub!r} (name={name!r}, split={chosen!r}, revision={revision!r}) cannot be read:"
            f" {type(problem).__name__}: {problem} -> check the id, name and split; without a network, download it"
            " beforehand and set path to the file or folder"
        ) from problem
    for number, row in enumerate(rows, start=1):
        yield f"{hub}[{chosen}]:row {number}", row
