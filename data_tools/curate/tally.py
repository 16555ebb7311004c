"""What a step of curation did to the rows: how many came and stayed, and why the others did not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from reasonrl.data_tools.overlap import problem_text

EXAMPLES = 3
LONGEST = 160
"""Characters of an example's problem."""


class Tally:
    """Counts of one step; every dropped row's id and reason goes to a file.

    Args:
        path: of that file, JSONL; None writes none.

    Attributes:
        read, kept: rows.
        repeated: rows that are there a second time on purpose.
        dropped: by reason.
        examples: for each reason the first few: `id`, `place` or other particulars, the beginning of the problem.
        figures: what else the step has to say.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.read = self.kept = self.repeated = 0
        self.dropped: dict[str, int] = {}
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.figures: dict[str, Any] = {}
        self._file: IO[str] | None = path.open("w", encoding="utf-8", errors="replace") if path is not None else None

    def drop(self, reason: str, row: Mapping[str, Any], **particulars: Any) -> None:
        """Count one row that goes.

        Args:
            reason: in few words, the same for rows that go for the same reason.
            row: it; `id` and problem are noted.
            particulars: further figures, such as `loss=3.1`.
        """
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        noted = {"id": row.get("id"), **particulars}
        if self._file is not None:
            self._file.write(json.dumps({**noted, "reason": reason}, ensure_ascii=False, default=str) + "\n")
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            text = problem_text(row)
            examples.append({**noted, "problem": text[:LONGEST] + "…" * (len(text) > LONGEST)})

    def close(self) -> None:
        """Finish the file of dropped rows."""
        if self._file is not None:
            self._file.close()

    def as_dict(self) -> dict[str, Any]:
        """Plain figures for JSON; reasons by how often they were met."""
        return {
            "read": self.read,
            "kept": self.kept,
            "repeated": self.repeated,
            "dropped": dict(sorted(self.dropped.items(), key=lambda item: -item[1])),
            "examples": self.examples,
            "figures": self.figures,
        }


def line_of(name: str, found: Mapping[str, Any]) -> str:
    """One line for people: `deduplicate: 900 of 1,000 rows kept; 100 x near-duplicate (p17, p18, p40, …)`."""
    parts = [f"{found['kept']:,} of {found['read']:,} rows kept"]
    if found["repeated"]:
        parts[0] += f", {found['repeated']:,} of them again"
    for reason, count in found["dropped"].items():
        known = [str(one["id"] if one["id"] is not None else one.get("place")) for one in found["examples"][reason]]
        parts.append(f"{count:,} x {reason} ({', '.join(known)}{', …' if count > len(known) else ''})")
    return f"{name}: {'; '.join(parts)}"
