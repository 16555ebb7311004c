"""The responses whose behaviours are counted: from an evaluation's record on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from reasonrl.errors import DataError, RunError
from reasonrl.plugins import near

Key: TypeAlias = tuple[str, str, int]
"""(problem id, `sample` or `greedy`, sample index)."""


@dataclass(frozen=True)
class Response:
    """One stored response.

    Attributes:
        id, metric, index: its key in the record.
        problem: what was asked: the problem, else the rendered prompt.
        text: all of it, thinking included.
        correct: whether it counts as right; None if it could not be scored.
    """

    id: str
    metric: str
    index: int
    problem: str
    text: str
    correct: bool | None

    @property
    def key(self) -> Key:
        """Its key in the record."""
        return self.id, self.metric, self.index

    @property
    def text_hash(self) -> str:
        """Tells another response under the same key from this one."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def suite_folders(directory: Path, suites: Sequence[str] = ()) -> dict[str, Path]:
    """The suites of an evaluation by name: the folders in `directory` that hold samples, or `directory` itself.

    Args:
        directory: the folder of an evaluation or of one of its suites.
        suites: only these; none takes all.

    Raises:
        RunError: no such folder, nothing evaluated in it, or no such suite.
    """
    if not directory.is_dir():
        raise RunError(f"{directory} is no folder -> name the folder of an evaluation, such as runs/name/stages/eval")
    if (directory / "samples.jsonl").is_file():
        found = {directory.name: directory}
    else:
        found = {path.parent.name: path.parent for path in sorted(directory.glob("*/samples.jsonl"))}
    if not found:
        raise RunError(
            f"{directory} holds no evaluation: there is no samples.jsonl in it or one folder below -> name the folder"
            " of an evaluation"
        )
    for name in suites:
        if name not in found:
            raise RunError(f"{directory} has no suite {name!r}{near(name, found)}")
    return {name: path for name, path in found.items() if not suites or name in suites}


def stored_responses(folder: Path, *, metric: str = "sample", per_problem: int | None = 1) -> list[Response]:
    """The responses of one suite, by problem and index.

    Args:
        folder: of the suite.
        metric: `sample` or `greedy`.
        per_problem: the first so many of each problem; None takes all.

    Raises:
        DataError: the record is damaged, or holds no such response.
    """
    from reasonrl.eval.samples import read_problems, read_samples

    problems = read_problems(folder)
    taken: dict[str, int] = {}
    found = []
    for row in read_samples(folder):
        if row["metric"] != metric or (per_problem is not None and taken.get(row["id"], 0) >= per_problem):
            continue
        taken[row["id"]] = taken.get(row["id"], 0) + 1
        known = problems.get(row["id"], {})
        asked = known.get("problem") or known.get("prompt") or ""
        found.append(Response(row["id"], metric, row["index"], str(asked), row["text"], row.get("correct")))
    if not found:
        other = "leave out --greedy" if metric == "greedy" else "give --greedy, or let the evaluation sample"
        raise DataError(f"{folder} holds no response of the kind {metric!r} -> {other}")
    return found
