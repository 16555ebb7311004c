"""Best-of-N among samples by step scores: expectations over subsets, beside random pick, votes and pass@k."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasonrl.errors import DataError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.best_of_n import Candidate, best_of_n
from reasonrl.eval.exams.record import Examined, Unit
from reasonrl.eval.exams.scores import Scored

Row = Mapping[str, Any]
Judge = Callable[[Sequence[Row]], Sequence[Any]]
"""Gives `reasonrl.eval.scoring.Judgement` of sample rows."""


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Samples by problem: by `problem_id`, or by the problem's text where there is none."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        key = row.get("problem_id")
        found.setdefault(str(row.get("problem") if key is None else key), []).append(row)
    return found


def examine_best_of(
    rows: Sequence[Row],
    scored: Scored,
    *,
    k: Sequence[int],
    aggregations: Sequence[str],
    judge: Judge,
    seed: int = 0,
) -> Examined:
    """Best-of-N's figures.

    Args:
        rows: sample rows, several a problem. Samples that could not be verified (`correct` null) are left out and
            counted; those that could not be scored rank lowest.
        scored: their step scores.
        k: sizes of subsets; problems with fewer samples are left out of all figures and counted, never filled up.
        aggregations: rules for one score of a sample's steps; the first is the headline's.
        judge: reads the answers of rows that have neither `class` nor `extracted`, and verdicts of rows without
            `correct`.
        seed: of the subsets that votes are counted on, where there are too many.

    Raises:
        DataError: no problem has as many samples as the largest k.
    """
    read = _read(rows, judge)
    problems = by_problem([row for row in rows if read[row["id"]][1] is not None])
    largest = max(k)
    enough = {name: samples for name, samples in problems.items() if len(samples) >= largest}
    if not enough:
        most = max(map(len, problems.values()), default=0)
        raise DataError(
            f"best_of: k goes up to {largest}, and no problem has so many verified samples (the most: {most})"
            " -> lower k, or sample more"
        )
    candidates = [
        [Candidate(read[one["id"]][0], bool(read[one["id"]][1]), scored.scores.get(one["id"], ())) for one in samples]
        for samples in enough.values()
    ]
    found = best_of_n(candidates, sorted(set(k)), aggregations, seed=seed)
    units = [Unit(name, {key: values[place] for key, values in found.items()}) for place, name in enumerate(enough)]
    kept = [row for samples in enough.values() for row in samples]
    about = {
        **scored.about(),
        "unverified": sum(right is None for _, right in read.values()),
        "problems_left_out": len(problems) - len(enough),
        "n_samples": len(kept),
        "samples_without_answer": sum(read[row["id"]][0] is None for row in kept),
        "k": sorted(set(k)),
        "aggregations": list(aggregations),
    }
    first = aggregations[0]
    headline = ["random", *(f"rm@{size}[{first}]" for size in sorted(set(k))[-2:]), f"maj@{largest}", f"pass@{largest}"]
    return Examined(units, "problems", {}, headline, about, _warnings(about, largest))


def _read(rows: Sequence[Row], judge: Judge) -> dict[str, tuple[str | None, bool | None]]:
    """Answer class and verdict by sample id."""
    found: dict[str, tuple[str | None, bool | None]] = {}
    asked: list[Row] = []
    for row in rows:
        right = row.get("correct")
        if right is None and row.get("verdict") is not None:
            found[row["id"]] = (None, None)  # it was judged, and could not be
        elif right is None or ("class" not in row and "extracted" not in row):
            asked.append(row)
        elif "class" in row:
            found[row["id"]] = (row["class"], bool(right))
        else:
            found[row["id"]] = (answer_class(row["extracted"], bool(right)), bool(right))
    for row, judgement in zip(asked, judge(asked) if asked else (), strict=True):
        right = judgement.right if row.get("correct") is None else bool(row["correct"])
        found[row["id"]] = (answer_class(judgement.extracted, right), right)
    return found


def _warnings(about: Mapping[str, Any], largest: int) -> list[str]:
    warnings = []
    if about["unread"]:
        warnings.append(
            f"{about['unread']} samples could not be read and rank lowest, the first: {about['first_fault']}"
        )
    if about["unverified"]:
        warnings.append(f"{about['unverified']} samples could not be verified and are left out")
    if about["problems_left_out"]:
        warnings.append(f"{about['problems_left_out']} problems have fewer than {largest} samples and are left out")
    if about["n_samples"] and about["samples_without_answer"] == about["n_samples"]:
        warnings.append("no sample has an answer that votes could be counted by: maj and weighted_maj are 0")
    if about["cut"]:
        warnings.append(f"{about['cut']} samples are longer than max_length: those that end beyond it rank lowest")
    return warnings
