"""What became of the rows of a source: kept, set aside and why. Nothing is dropped silently."""

from __future__ import annotations

from dataclasses import dataclass, field

_EXAMPLES = 3


@dataclass
class RowReport:
    """The count of a source's rows.

    Attributes:
        source: the files, hub dataset or world, in words.
        read: rows met, broken ones included.
        kept: rows handed on.
        dropped: bad rows by reason.
        examples: for each reason, where the first few stand (`file:line`, or `file:row n` counted from 1).
        filtered: good rows that the `keep` expression took out.
        beyond_limit: good rows past `limit`.
        repeated: good rows whose problem and answer stand in the source more than once (they are kept).
    """

    source: str
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    filtered: int = 0
    beyond_limit: int = 0
    repeated: int = 0

    @property
    def n_dropped(self) -> int:
        """Bad rows, all reasons together."""
        return sum(self.dropped.values())

    def drop(self, reason: str, place: str) -> None:
        """Count one bad row at `place`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        places = self.examples.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(place)

    def reasons(self) -> list[str]:
        """One line a reason, most frequent first: `12 x empty answer (train.jsonl:3, train.jsonl:9, …)`."""
        lines = []
        for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1]):
            more = ", …" if count > len(self.examples[reason]) else ""
            lines.append(f"{count} x {reason} ({', '.join(self.examples[reason])}{more})")
        return lines

    def __str__(self) -> str:
        parts = [f"{self.kept} of {self.read} rows kept"]
        if self.filtered:
            parts.append(f"{self.filtered} filtered by keep")
        if self.beyond_limit:
            parts.append(f"{self.beyond_limit} beyond limit")
        if self.repeated:
            parts.append(f"{self.repeated} repeated")
        if self.dropped:
            parts.append(f"{self.n_dropped} bad: " + "; ".join(self.reasons()))
        return f"{self.source}: " + ", ".join(parts)
