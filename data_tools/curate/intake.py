"""The first step: rows of all sources in our columns, with ids that no two share, and pictures that can be opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.data_tools.curate.pictures import PictureRules
from reasonrl.data_tools.curate.rules import reason_not_to_keep
from reasonrl.data_tools.curate.spool import written
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.files import BadRow, PlacedRow
from reasonrl.data_tools.layout import canonical_row
from reasonrl.data_tools.loading import content_hash
from reasonrl.data_tools.pictures import at_home, pictures_of
from reasonrl.errors import DataError


@dataclass(frozen=True)
class Intake:
    """One source of rows.

    Attributes:
        rows: (place, row) as they are read.
        columns: our name -> theirs.
        cap: at most so many usable rows, the first ones; None: all.
        keep: a condition over numeric columns, such as `level <= 3`.
        curated: the rows have been through a curation, and say themselves what their `source` is.
    """

    rows: Iterable[PlacedRow]
    columns: Mapping[str, str] = field(default_factory=dict)
    cap: int | None = None
    keep: str | None = None
    curated: bool = False


def take_in(
    sources: Mapping[str, Intake],
    tally: Tally,
    home: Path,
    require: Sequence[str] = ("problem",),
    pictures: PictureRules | None = None,
) -> Iterator[dict[str, Any]]:
    """The usable rows of sources, one after the other; the column `source` holds the name of each one's.

    A row's id is its own, else a hash of its content; one that was there before gets a number.

    Args:
        sources: by name.
        tally: counts the rows that cannot be used; each is named by its place.
        home: folder for pictures that are no files yet.
        require: columns that a row must have.
        pictures: what they may be.
    """
    looks = pictures or PictureRules()
    met: dict[int, int] = {}
    for source, intake in sources.items():
        taken = 0
        unwanted = None if intake.keep is None else reason_not_to_keep(intake.keep)
        for place, raw in intake.rows:
            if intake.cap is not None and taken >= intake.cap:
                break
            tally.read += 1
            row = raw if isinstance(raw, BadRow) else canonical_row(raw, intake.columns, require)
            if isinstance(row, BadRow):
                tally.drop(row.reason, raw if isinstance(raw, Mapping) else {}, place=place, source=source)
                continue
            if unwanted is not None and (reason := unwanted(row)) is not None:
                tally.drop(reason, row, place=place, source=source)
                continue
            others = {key: value for key, value in row.items() if key not in ("id", "source")}
            name = row.get("source", source) if intake.curated else source
            row = {"id": _name(row, met), "source": name, **others}
            try:
                if given := pictures_of(row):
                    near = Path(place.rpartition(":")[0]).parent
                    row["images"] = looks.taken_in([at_home(one, near) for one in given], home)
                    row.pop("image", None)
                written(row)
            except DataError as problem:
                tally.drop(str(problem), row, place=place, source=source)
                continue
            taken += 1
            yield row


def _name(row: Mapping[str, Any], met: dict[int, int]) -> str:
    name = str(row["id"]) if row.get("id") is not None else content_hash(row)
    # Hashes instead of the names themselves: a million of these fit into a hundred megabytes.
    count = met[hash(name)] = met.get(hash(name), 0) + 1
    return name if count == 1 else f"{name}-{count}"
