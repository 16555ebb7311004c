"""The samples of a report as the page carries them: compressed, in parts that are opened when they are looked at."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.eval.report_data import FLAGS, SuiteView, column_of, flags_of, gold_of, group_columns
from reasonrl.observe.play_page import play_html

PART_CHARACTERS = 400_000
"""Texts of about so many characters are compressed together: a few milliseconds to open."""
MOST_BYTES = 120_000_000
"""The page carries texts up to so many bytes (compressed, as base64); of samples beyond it the figures alone."""
SHOWN = 120
"""Characters of an extracted answer in the list; the whole is with the text."""
OUTCOMES = ("wrong", "correct", "unscored")


@dataclass
class Embedded:
    """What the page carries.

    Attributes:
        index: base64 of the gzipped JSON with all but the texts (`pack`).
        parts: the same of lists of texts, opened one by one.
        left_out: samples whose texts the page would have been too large for.
    """

    index: str
    parts: list[str]
    left_out: int


@dataclass
class _Parts:
    """Texts gathered into parts; `add` says where one went, None if the page is full."""

    most_bytes: int
    packed: list[str] = field(default_factory=list)
    waiting: list[Any] = field(default_factory=list)
    size: int = 0
    total: int = 0

    def add(self, texts: Sequence[str]) -> tuple[int, int] | None:
        if self.total > self.most_bytes:
            return None
        place = len(self.packed), len(self.waiting)
        self.waiting.append(list(texts))
        self.size += sum(map(len, texts))
        if self.size > PART_CHARACTERS:
            self.close()
        return place

    def close(self) -> None:
        if self.waiting:
            self.packed.append(pack(self.waiting))
            self.total += len(self.packed[-1])
            self.waiting, self.size = [], 0


def embed(views: Iterable[SuiteView], most_bytes: int = MOST_BYTES) -> Embedded:
    """The samples of suites for the page; equal samples give equal bytes.

    Args:
        views: the suites.
        most_bytes: of texts, compressed and as base64.
    """
    parts = _Parts(most_bytes)
    verdicts: dict[str, int] = {}
    endings: dict[str, int] = {}
    suites, samples, left_out = [], [], 0
    for number, view in enumerate(views):
        places = {key: place for place, key in enumerate(view.problems)}
        columns = group_columns(view.problems)
        problems = []
        for key, problem in view.problems.items():
            where = parts.add([str(problem.get("prompt") or ""), gold_of(view, {"id": key})])
            groups = [column_of(problem, name) for name in columns]
            problems.append([key, where, groups, gold_of(view, {"id": key})[:SHOWN]])
        parts.close()
        for row in view.rows:
            where = parts.add(_texts(row, view.problems.get(row["id"], {})))
            left_out += where is None
            marked = flags_of(row, gold_of(view, row))
            samples.append(
                [
                    number,
                    places.get(row["id"], -1),
                    int(row["metric"] == "greedy"),
                    row["index"],
                    2 if row["correct"] is None else int(row["correct"]),
                    verdicts.setdefault(row["verdict"], len(verdicts)),
                    endings.setdefault(str(row["finish_reason"]), len(endings)),
                    row["length"],
                    sum(1 << place for place, name in enumerate(FLAGS) if name in marked),
                    (row.get("extracted") or "")[:SHOWN],
                    row["score"],
                    where,
                ]
            )
        parts.close()
        suites.append({"name": view.name, "columns": columns, "problems": problems})
    index = {
        "suites": suites,
        "samples": samples,
        "outcomes": list(OUTCOMES),
        "verdicts": list(verdicts),
        "endings": list(endings),
        "flags": [[name, text] for name, text in FLAGS.items()],
    }
    return Embedded(pack(index), parts.packed, left_out)


def _texts(row: Mapping[str, Any], problem: Mapping[str, Any]) -> list[str]:
    """What is shown of a sample: its text, the extracted answer, the verdict's reason; of a play its markup, too."""
    play = play_html({"answer": problem.get("answer"), **row})
    return [row["text"], row.get("extracted") or "", row.get("reason") or "", *([] if play is None else [play])]


def pack(value: Any) -> str:
    """Base64 of gzipped JSON; what base64 writes ends no script element and needs no escape."""
    return base64.b64encode(gzip.compress(json.dumps(value, separators=(",", ":")).encode(), 6, mtime=0)).decode()


def unpack(text: str) -> Any:
    """The value of `pack`."""
    return json.loads(gzip.decompress(base64.b64decode(text)))
