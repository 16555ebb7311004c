"""Step scores of many solutions, kept on disk as they come, so that a killed examination goes on from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reasonrl.errors import DataError
from reasonrl.observe.records import RecordWriter, iter_records
from reasonrl.prm.steps import spans_of

if TYPE_CHECKING:
    from reasonrl.prm.scoring import StepScorer

SCORES = "scores.jsonl"
CHUNK = 512

Steps: TypeAlias = list[float | None]
Segmenter = Callable[[str], Sequence[Any]]
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Scored:
    """Step scores by solution id.

    Attributes:
        scores: P(step is right), None beyond a cut; of solutions that could be read.
        faults: why, of those that could not.
    """

    scores: Mapping[str, Steps]
    faults: Mapping[str, str]

    @property
    def cut(self) -> int:
        """Solutions with steps beyond a cut."""
        return sum(None in steps for steps in self.scores.values())

    def about(self) -> dict[str, Any]:
        """For an entry of the results."""
        first = next(iter(self.faults.values()), None)
        return {"unread": len(self.faults), "cut": self.cut} | ({} if first is None else {"first_fault": first})


def with_steps(row: Mapping[str, Any], segmenter: Segmenter | None) -> dict[str, Any]:
    """A solution record with `text`, and with steps if it has none and there is what makes them."""
    record = dict(row)
    if record.get("text") is None:
        record["text"] = record.get("solution")
    if record.get("steps") is None and segmenter is not None and record["text"]:
        record["steps"] = spans_of(segmenter(record["text"]))
    return record


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    scorer: Callable[[], StepScorer],
    *,
    segmenter: Segmenter | None = None,
    messages: Callable[[Mapping[str, Any]], Any] | None = None,
    on_progress: OnProgress = lambda done: None,
    at_safe_point: Callable[[], None] = lambda: None,
) -> Scored:
    """Scores the rows that `<folder>/scores.jsonl` does not hold yet.

    Args:
        rows: solution records with distinct `id`.
        folder: of the suite; its file belongs to one model and one set of rows.
        scorer: loads the model; asked only if something is to be scored.
        segmenter: makes the steps of rows that have none.
        messages: makes a row's conversation.
        on_progress: is told how many rows are done.
        at_safe_point: called between chunks; may raise.
    """
    path = folder / SCORES
    found: dict[str, Mapping[str, Any]] = {line["id"]: line for line in iter_records(path)}
    todo = [row for row in rows if row["id"] not in found]
    on_progress(len(rows) - len(todo))
    if todo:
        writer = RecordWriter(path)
        try:
            model = scorer()
            if messages is not None:
                model.encoder.messages = messages
            for start in range(0, len(todo), CHUNK):
                for line in _lines(todo[start : start + CHUNK], model, segmenter):
                    found[line["id"]] = line
                    writer.write(line)
                on_progress(len(rows) - len(todo) + min(start + CHUNK, len(todo)))
                at_safe_point()
        finally:
            writer.close()
    asked = [found[row["id"]] for row in rows]
    return Scored(
        {line["id"]: line["scores"] for line in asked if line["scores"] is not None},
        {line["id"]: line["error"] for line in asked if line["scores"] is None},
    )


def _lines(rows: Sequence[Mapping[str, Any]], model: StepScorer, segmenter: Segmenter | None) -> list[dict[str, Any]]:
    lines, encoded = [], []
    for row in rows:
        line: dict[str, Any] = {"id": row["id"], "scores": None}
        lines.append(line)
        try:
            encoded.append((line, model.encoder(with_steps(row, segmenter))))
        except DataError as error:
            line["error"] = str(error)
    for (line, _), steps in zip(encoded, model.score_encoded([one for _, one in encoded]), strict=True):
        line["scores"] = [None if score is None else round(score, 7) for score in steps]
    return lines


def given_scores(rows: Sequence[Mapping[str, Any]], column: str) -> Scored:
    """The scores that rows bring themselves: a list, one a step, or a single number.

    Raises:
        DataError: a score is no number from 0 to 1; or no row has any.
    """
    scores: dict[str, Steps] = {}
    faults: dict[str, str] = {}
    for row in rows:
        value = row.get(column)
        steps = list(value) if isinstance(value, (list, tuple)) else [value]
        if value is None:
            faults[row["id"]] = f"row {row['id']!r} has no {column!r}"
            continue
        for score in steps:
            if score is not None and (
                isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1
            ):
                raise DataError(
                    f"row {row['id']!r}: {column} holds {score!r}, but a score is a number from 0 to 1 -> pass logits"
                    " through a sigmoid"
                )
        scores[row["id"]] = steps
    if not scores:
        raise DataError(f"no row has a column {column!r} -> name the one that holds the scores")
    return Scored(scores, faults)
