"""ProcessBench and PRMBench as examinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.errors import DataError
from reasonrl.eval.exams.record import Entries, Examined, Pooled, Unit
from reasonrl.eval.exams.scores import Scored
from reasonrl.prm.prmbench import CLEAN, GROUPS, RIGHT_ONLY, Judged, category_of, prm_score
from reasonrl.prm.processbench import SEPARATOR, best_threshold, first_below
from reasonrl.prm.steps import spans_of, steps_from_pieces


def examine_processbench(rows: Sequence[Mapping[str, Any]], scored: Scored, threshold: float) -> Examined:
    """One subset's F1: the harmonic mean of the shares of exact finds among rows with and without an error.

    Args:
        rows: of `reasonrl.prm.processbench.read_processbench`.
        scored: their step scores; a row that could not be read, or was cut before its first wrong step, is not found.
        threshold: a step that scores below it is wrong.
    """
    units = []
    for row in rows:
        scores, label = scored.scores.get(row["id"]), row["first_error"]
        found = float(scores is not None and first_below(scores, threshold) == label)
        kind = "erroneous" if label != -1 else "correct"
        pool: Entries = {"scores": [found], "labels": [int(label != -1)]}
        units.append(Unit(row["id"], {f"accuracy[{kind}]": found}, {"rows": pool}))
    about = {**scored.about(), "threshold": threshold, "always_right": {"f1": 0.0}}
    return Examined(units, "solutions", {"f1": Pooled("harmonic", "rows")}, ["f1"], about, _unread(scored))


def gsm8k_threshold(rows: Sequence[Mapping[str, Any]], scored: Scored) -> float:
    """The threshold that is best on a subset, by custom on GSM8K."""
    return best_threshold([scored.scores.get(row["id"], []) for row in rows], [row["first_error"] for row in rows])


def read_prmbench(path: Path) -> list[dict[str, Any]]:
    """The solution records of a file of PRMBench, with `category` and `wrong_steps` (1-based).

    Rows have `modified_question`, `modified_process` (texts of steps), `error_steps` and `classification`.

    Raises:
        DataError: the file cannot be read, or a row is none of PRMBench's.
    """
    records = []
    for number, (place, row) in enumerate(read_paths(path, None, None, None)):
        if isinstance(row, BadRow):
            raise DataError(f"{place}: {row.reason}")
        steps, wrong = row.get("modified_process"), row.get("error_steps")
        if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step for step in steps):
            raise DataError(f"{place}: modified_process is {steps!r}, expected a list of texts")
        if not isinstance(wrong, list) or not all(isinstance(one, int) and 1 <= one <= len(steps) for one in wrong):
            raise DataError(f"{place}: error_steps is {wrong!r}, expected numbers of steps from 1 to {len(steps)}")
        pieces = [step + SEPARATOR for step in steps[:-1]] + [steps[-1]]
        problem = row.get("modified_question") or row.get("original_question")
        if not isinstance(problem, str):
            raise DataError(f"{place}: there is no modified_question")
        records.append(
            {
                "id": str(row.get("idx", number)),
                "problem": problem,
                "text": "".join(pieces),
                "steps": spans_of(steps_from_pieces(pieces)),
                "category": category_of(row),
                "wrong_steps": wrong,
            }
        )
    return records


def examine_prmbench(rows: Sequence[Mapping[str, Any]], scored: Scored, threshold: float) -> Examined:
    """PRMScore of all rows and by kind of fault.

    Args:
        rows: of `read_prmbench`; rows without a fault are not counted.
        scored: their step scores; rows that could not be read or were cut are left out and counted.
        threshold: from which score on a step is called right.

    Raises:
        DataError: no row with a fault could be read.
    """
    units, judged, cut = [], [], 0
    for row in rows:
        scores = scored.scores.get(row["id"])
        if row["category"] == CLEAN or scores is None:
            continue
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            cut += 1
            continue
        wrong = set(row["wrong_steps"])
        pool: Entries = {"scores": known, "labels": [int(place + 1 not in wrong) for place in range(len(known))]}
        units.append(Unit(row["id"], {}, {"steps": pool, row["category"]: pool}))
        judged.append(Judged(row["category"], row["wrong_steps"], [score >= threshold for score in known]))
    if not units:
        raise DataError("prmbench: no row with a fault could be read")
    there = {row.category for row in judged}
    kinds = [name for names in GROUPS.values() for name in names if name in there]
    whole = "f1" if there == {RIGHT_ONLY} else "macro_f1"
    figures = {"prm_score": Pooled(whole, "steps", threshold)}
    figures |= {
        f"prm_score[{kind}]": Pooled("f1" if kind == RIGHT_ONLY else "macro_f1", kind, threshold) for kind in kinds
    }
    figures["macro_f1[always right]"] = Pooled("macro_f1_always", "steps", threshold)
    about = {**scored.about(), "threshold": threshold, "left_out_cut": cut, "prm_score": prm_score(judged)}
    warnings = [*_unread(scored), *([f"{cut} rows are longer than max_length and left out"] if cut else [])]
    return Examined(units, "solutions", figures, ["prm_score"], about, warnings)


def _unread(scored: Scored) -> list[str]:
    if not scored.faults:
        return []
    first = next(iter(scored.faults.values()))
    return [f"{len(scored.faults)} rows could not be read, the first: {first}"]
