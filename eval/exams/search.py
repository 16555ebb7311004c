"""Guided search as an examination: what a policy answers when the model's scores choose its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.eval.exams.record import Examined, Unit
from reasonrl.observe.records import RecordWriter, iter_records

if TYPE_CHECKING:
    from reasonrl.prm.search import SearchResult, SearchSettings

FOUND = "found.jsonl"
BLOCK = 512
"""Problems that are searched together; a kill costs at most these."""

Row = Mapping[str, Any]
Search = Callable[[Sequence[Row], "SearchSettings"], Sequence["SearchResult"]]


def search_rows(
    rows: Sequence[Row],
    folder: Path,
    search: Search,
    settings: SearchSettings,
    candidates: Sequence[int],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    at_safe_point: Callable[[], None] = lambda: None,
) -> dict[int, list[dict[str, Any]]]:
    """Searches what `<folder>/found.jsonl` does not hold yet.

    Args:
        rows: problems with distinct `id`.
        folder: of the suite; its file belongs to one policy, model and set of settings.
        search: searches some problems (`reasonrl.prm.search.guided_search`).
        settings: of the searches; their `candidates` is replaced.
        candidates: a search for each.
        on_progress: is told how many of all problems' searches are done.
        at_safe_point: called between blocks; may raise.

    Returns:
        By number of candidates the solutions found, in the order of the rows: `id`, `candidates`, `text`, `steps`,
        `step_scores`, `score`, `finished` (the policy ended it) and `drawn_tokens`.
    """
    path = folder / FOUND
    found = {(line["candidates"], line["id"]): line for line in iter_records(path)}
    total = len(candidates) * len(rows)
    writer = RecordWriter(path)
    try:
        for size in candidates:
            todo = [row for row in rows if (size, row["id"]) not in found]
            for start in range(0, len(todo), BLOCK):
                on_progress(sum(key[0] in candidates for key in found), total)
                block = todo[start : start + BLOCK]
                results = search(block, replace(settings, candidates=size))
                for row, result in zip(block, results, strict=True):
                    line = _line(row["id"], size, result)
                    found[size, row["id"]] = line
                    writer.write(line)
                at_safe_point()
    finally:
        writer.close()
    return {size: [found[size, row["id"]] for row in rows] for size in candidates}


def _line(name: str, size: int, result: SearchResult) -> dict[str, Any]:
    best = result.best
    return {
        "id": name,
        "candidates": size,
        "text": best.text,
        "steps": best.steps,
        "step_scores": [None if score is None else round(score, 7) for score in best.step_scores],
        "score": round(best.score, 7),
        "finished": best.finished,
        "drawn_tokens": result.drawn_tokens,
    }


def examine_search(
    rows: Sequence[Row],
    found: Mapping[int, Sequence[Mapping[str, Any]]],
    judge: Callable[[Sequence[Row]], Sequence[Any]],
    about: Mapping[str, Any],
) -> Examined:
    """Share of problems whose found solution is right, by number of candidates: `search@N`.

    Args:
        rows: problems with their answers.
        found: of `search_rows`. A solution that the policy did not end within `max_steps` is wrong.
        judge: gives `reasonrl.eval.scoring.Judgement` of rows with `text`.
        about: more for the entry: the settings.

    Raises:
        DataError: no answer could be judged.
    """
    values: dict[str, dict[str, float]] = {row["id"]: {} for row in rows}
    unscored = 0
    costs: dict[str, dict[str, float]] = {}
    for size, lines in found.items():
        answered = [{**row, "text": line["text"]} for row, line in zip(rows, lines, strict=True)]
        for row, line, judgement in zip(rows, lines, judge(answered), strict=True):
            if judgement.right is None:
                unscored += 1
            else:
                values[row["id"]][f"search@{size}"] = float(judgement.right and line["finished"])
        costs[str(size)] = {
            "finished": fmean(line["finished"] for line in lines),
            "mean_steps": fmean(len(line["steps"]) for line in lines),
            "mean_drawn_tokens": fmean(line["drawn_tokens"] for line in lines),
        }
    units = [Unit(name, own) for name, own in values.items() if len(own) == len(found)]
    if not units:
        raise DataError("search: no solution could be judged: every gold answer is bad, or the grader failed")
    warnings = [f"{unscored} solutions could not be judged; their problems are left out"] if unscored else []
    warnings += [
        f"{100 * (1 - cost['finished']):.0f} % of the solutions found with {size} candidates have no end and are wrong"
        for size, cost in costs.items()
        if cost["finished"] < 0.9
    ]
    headline = [f"search@{size}" for size in found]
    return Examined(units, "problems", {}, headline, {**about, "searches": costs, "unscored": unscored}, warnings)
