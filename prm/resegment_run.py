"""Segmenting whole data sets: rows in, rows with steps out, in shards that outlive kills."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import PlacedRow
from reasonrl.errors import DataError, StageFailed
from reasonrl.observe.records import RecordWriter, encode_record, iter_records
from reasonrl.prm.annotation.rows import Reading, chunks
from reasonrl.prm.judges.base import Solution
from reasonrl.prm.resegment import LLMSegmenter, Segmented, Text, emit, pieces_of
from reasonrl.prm.steps import Step, spans_of, steps_from_spans

ROWS, ASKED, COUNTS = "rows", "asked", "counts"
PATIENCE = 20
"""When so many answers in a row (or twice as many as are under way at once) are none, the model is not asked on."""


def segment_rows(
    folder: Path,
    rows: Callable[[], Iterable[PlacedRow]],
    columns: Mapping[str, str],
    segmenter: Callable[[str], list[Step]] | LLMSegmenter,
    *,
    separator: str | None = None,
    shard_size: int = 500,
    report: Callable[[int, int | None], None] = lambda done, total: None,
    at_safe_point: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Give every row steps; goes on from what is there.

    Args:
        folder: gets `rows/<shard>.jsonl`, the product; `asked/<shard>.jsonl`, every answer as it came; and
            `counts/<shard>.json`.
        rows: gives the input anew at each call.
        columns: our name -> theirs; `solution` names the text.
        segmenter: of one text, or a model that is asked about many at once.
        separator: write each text anew with this between its steps (`resegment.emit`), into `text` and `solution`; what
            it was stands in `original_text`. None leaves texts as they are.
        shard_size: rows a file.
        report: takes rows done and all of them.
        at_safe_point: may raise to stop; everything kept stays.

    Returns:
        Counts over all shards: `rows`, `steps`, `characters`, `fallen_back`, `set_aside`, and what was asked and cost.

    Raises:
        StageFailed: the model gives no answers.
        EndpointSettingsError, BudgetSpent, Rejected: of the model; what is kept stays.
    """
    total = sum(1 for _ in rows())
    reading = Reading(lambda text: [Step(0, len(text))], columns, again=True, policy=None)
    model = str(segmenter.settings()["judge"]) if isinstance(segmenter, LLMSegmenter) else None
    sums: Counter[str] = Counter()
    for number, chunk in enumerate(chunks(rows(), shard_size)):
        at_safe_point()
        shard = _Shard(folder, number)
        if shard.done:
            reading.pass_over(chunk)
        else:
            items = reading.items(chunk)
            solutions = [item if isinstance(item, Solution) else None for item in items]
            aside = [f"{item.id}: {item.reason}" for item in items if hasattr(item, "reason")]
            steps = shard.steps_of(solutions, segmenter, at_safe_point)
            shard.seal(solutions, steps, aside, separator, model)
        sums.update(shard.counts())
        report(min(total, (number + 1) * shard_size), total)
    for stale in folder.glob(f"{COUNTS}/*.json"):
        if int(stale.stem) >= math.ceil(total / shard_size):
            stale.unlink()
            (folder / ROWS / f"{stale.stem}.jsonl").unlink(missing_ok=True)
    return dict(sums)


class _Shard:
    """Some rows, worked on together."""

    def __init__(self, folder: Path, number: int) -> None:
        name = f"{number:06d}"
        self.rows, self.asked = folder / ROWS / f"{name}.jsonl", folder / ASKED / f"{name}.jsonl"
        self.count_file = folder / COUNTS / f"{name}.json"

    @property
    def done(self) -> bool:
        return self.count_file.is_file()

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.count_file.read_text(encoding="utf-8"))
        return {name: value for name, value in found.items() if name != "first_aside"}

    def steps_of(
        self,
        solutions: Sequence[Solution | None],
        segmenter: Callable[[str], list[Step]] | LLMSegmenter,
        at_safe_point: Callable[[], None],
    ) -> dict[int, Segmented]:
        """Of every solution by its place. A model's answers are kept as they come; where it had none, a later run asks
        again.
        """
        if not isinstance(segmenter, LLMSegmenter):
            return {
                place: Segmented(place, tuple(segmenter(one.text)))
                for place, one in enumerate(solutions)
                if one is not None
            }
        marks = [None if one is None else _mark(one) for one in solutions]
        # Nobody need be asked how to cut what is one piece.
        found = {
            place: Segmented(place, tuple(pieces))
            for place, one in enumerate(solutions)
            if one is not None and len(pieces := pieces_of(one.text)) < 2
        }
        for line in iter_records(self.asked):
            place = line["place"]
            if place < len(marks) and marks[place] == line["hash"] and not line["failure"]:
                found[place] = Segmented(place, tuple(steps_from_spans(line["steps"])))
        log = RecordWriter(self.asked)

        def keep(one: Segmented) -> None:
            usage = one.usage
            tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            line = {"place": one.place, "hash": marks[one.place], "failure": one.failure, "steps": spans_of(one.steps)}
            log.write({**line, "asked": usage.asked, **tokens, "cost": usage.cost})

        missing = (
            Text(place, one.problem, one.text)
            for place, one in enumerate(solutions)
            if one is not None and place not in found
        )
        patience, in_a_row = max(PATIENCE, 2 * segmenter.client.config.max_concurrency), 0
        try:
            for one in segmenter.many(missing, keep):
                found[one.place] = one
                in_a_row = in_a_row + 1 if one.failure else 0
                if in_a_row >= patience:
                    raise StageFailed(
                        f"segment: the model gave no answer {in_a_row} times in a row, the last: {one.failure} -> see"
                        " that it is there and answers as asked; what it has answered is kept"
                    )
                at_safe_point()
        finally:
            log.close()
        return found

    def seal(
        self,
        solutions: Sequence[Solution | None],
        steps: Mapping[int, Segmented],
        aside: Sequence[str],
        separator: str | None,
        model: str | None,
    ) -> None:
        """Write the rows in order, and then what they amount to: the shard is done with that."""
        counts: Counter[str] = Counter(rows=0, steps=0, characters=0, fallen_back=0, set_aside=len(aside))
        first = aside[0] if aside else None
        self.rows.parent.mkdir(parents=True, exist_ok=True)
        staging = self.rows.with_suffix(".partial")
        with staging.open("wb") as file:
            for place, one in enumerate(solutions):
                if one is None:
                    continue
                cut = steps[place]
                try:
                    row = _row(one, cut, separator)
                    if model is not None:
                        row["segmented_by"] = "rules" if cut.failure else model
                except DataError as problem:
                    counts["set_aside"] += 1
                    first = first or f"{one.id}: {problem}"
                    continue
                file.write(encode_record(row))
                counts.update(rows=1, steps=len(row["steps"]), characters=len(row["text"]))
                counts["fallen_back"] += bool(cut.failure)
        staging.replace(self.rows)
        for line in iter_records(self.asked):
            counts.update({name: line[name] for name in ("asked", "prompt_tokens", "completion_tokens", "cost")})
        self.count_file.parent.mkdir(parents=True, exist_ok=True)
        half = self.count_file.with_suffix(".partial")
        half.write_text(json.dumps({**counts, "first_aside": first}), encoding="utf-8")
        half.replace(self.count_file)


def _row(solution: Solution, cut: Segmented, separator: str | None) -> dict[str, Any]:
    text, steps = solution.text, list(cut.steps)
    row = {name: value for name, value in solution.row.items() if name not in ("labels", "soft", "reasons", "kinds")}
    row |= {"id": solution.id, "problem": solution.problem, "answer": solution.answer}
    if separator is not None:
        row["original_text"] = text
        text, steps = emit(text, steps, separator)
        row["solution"] = text
    return {**row, "text": text, "steps": spans_of(steps)}


def _mark(solution: Solution) -> str:
    return hashlib.sha256(json.dumps([solution.problem, solution.text]).encode()).hexdigest()[:16]
