"""The reflective error world: chains with planted errors that propagate, are repaired, and seem to be repaired.

Every step's label is known exactly, twice: from the writer's books (`reflective_law.py`, which shows the form of a
problem and of a solution) and from a reader of the text (`reflective_reader.py`), which also labels what models write.

    row = get_world("reflective").rows(1, preset="prm")[0]
    row["text"], row["steps"], row["labels"]          # a solution record with its labels
    read_trace(row["problem"], row["text"]).labels    # the same labels, from the text alone

Train, validation and test are disjoint by construction: the split of a problem is a hash of its text.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.data_tools.worlds.arithmetic import check_asked, split_of
from reasonrl.data_tools.worlds.reflective_law import (
    LETTERS,
    MOVES,
    OPERATIONS,
    Law,
    Trace,
    draw_chain,
    operators_of,
    text_of,
    value_of,
)
from reasonrl.data_tools.worlds.reflective_reader import Reading, answer_of, gold_of, read_problem, read_trace
from reasonrl.errors import DataError

PRESETS: dict[str, dict[str, float]] = {
    "prm": {"hard_facts": 0.30, "slip": 0.65, "repair": 0.15, "false_repair": 0.15, "recheck": 0.05},
    "bcpg": {"hard_facts": 0.45, "slip": 0.60, "repair": 0.15, "false_repair": 0.18, "recheck": 0.03},
}
"""Settings of the miniature studies. In both, a redo says little about the step that it is: the share of right steps
among redone ones lies within 8 points of the share among all.
"""


class ReflectiveWorld:
    """Problems of the world with a solution each by a `Law`, its steps and their labels."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        preset: str = "prm",
        operations: int | Sequence[int] = 8,
        hard_facts: float | None = None,
        slip: float | None = None,
        easy_slip: float = 0.02,
        repair: float | None = None,
        false_repair: float | None = None,
        recheck: float | None = None,
        teacher_seed: int = 0,
        each: int = 1,
        operators: int = len(OPERATIONS),
    ) -> list[dict[str, Any]]:
        """Write `n` solutions, `each` of them to a problem.

        Args:
            n: number of rows; problems may repeat in `train`, never in `validation` and `test`.
            split: `train`, `validation` or `test`; the three share no problem.
            seed: of the problems and of their solutions.
            preset: `prm` or `bcpg`, which sets the shares below where they are None.
            operations: of a problem, 1 to 26, or several numbers to draw from; this is the difficulty of a row.
            hard_facts: share of the 210 facts that have one fixed wrong value.
            slip: probability that a hard fact is written with it.
            easy_slip: probability that another fact is written with some wrong value.
            repair: while an error is open, probability at each turn of redoing the first wrong step rightly.
            false_repair: likewise, of redoing a later step, or of repeating the error where there is none.
            recheck: on a sound chain, probability at each turn of a needless redo.
            teacher_seed: of which facts are hard and what they are mistaken for.
            each: solutions of a problem, one after the other; n must be a multiple of it.
            operators: of how many of the 21 operations problems are made: fewer mean fewer facts to know.

        Returns:
            Rows with `id`, `problem_id`, `problem`, `answer` (text), `solution` and `text` (the same), `steps`
            (`[start, end]` in characters), `labels`, `moves` (a word a step, of `MOVES`), `correct`, `difficulty`
            (operations), `slips` (errors of its own) and `extracted` (the answer it gives).

        Raises:
            DataError: an argument is out of range, or the split has fewer distinct problems than asked for.
        """
        lengths = _lengths(operations)
        given = {"hard_facts": hard_facts, "slip": slip, "repair": repair}
        given |= {"false_repair": false_repair, "recheck": recheck}
        check_asked("reflective", n, split)
        if isinstance(each, bool) or not isinstance(each, int) or each < 1 or n % each:
            raise DataError(f"reflective: each = {each!r} solutions a problem do not divide n = {n} rows")
        law = law_of(preset, {**given, "easy_slip": easy_slip}, teacher_seed, operators)
        among = operators_of(operators)
        draw = random.Random(f"reflective/{split}/{seed}")
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        misses = 0
        while len(rows) < n:
            chain = draw_chain(draw, draw.choice(lengths), among)
            problem = text_of(chain)
            if split_of(problem) != split or (split != "train" and problem in seen):
                misses += 1
                if misses > 1000 * (n + 1):
                    raise DataError(
                        f"reflective: the {split} split holds fewer than {n} distinct problems of {lengths} operations"
                        " -> ask for fewer rows or for more operations"
                    )
                continue
            seen.add(problem)
            for _ in range(each):
                trace = law.write(chain, random.Random(f"reflective/law/{seed}/{split}/{len(rows)}"))
                rows.append(_row(trace, str(value_of(chain)), split, len(rows), each > 1))
        return rows


def law_of(
    preset: str = "prm",
    shares: Mapping[str, float | None] | None = None,
    teacher_seed: int = 0,
    operators: int = len(OPERATIONS),
) -> Law:
    """The law of a preset, with some of its shares replaced (None leaves the preset's), over some of the operations.

    Raises:
        DataError: an unknown preset or share, a share outside 0 to 1, or a number of operations that there are not.
    """
    if isinstance(operators, bool) or not isinstance(operators, int) or not 1 <= operators <= len(OPERATIONS):
        raise DataError(f"reflective: operators = {operators!r}, allowed are 1 to {len(OPERATIONS)}")
    if preset not in PRESETS:
        raise DataError(f"reflective: preset = {preset!r}, allowed are {', '.join(PRESETS)}")
    settings: dict[str, Any] = {**PRESETS[preset], "easy_slip": 0.02}
    for name, share in (shares or {}).items():
        if name not in settings:
            raise DataError(f"reflective: there is no share {name!r}, allowed are {', '.join(settings)}")
        if share is not None:
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise DataError(f"reflective: {name} = {share!r}, allowed are 0 to 1")
            settings[name] = share
    if settings["repair"] + settings["false_repair"] > 1:
        raise DataError(
            f"reflective: repair + false_repair = {settings['repair'] + settings['false_repair']:g}, but both are"
            " chances of one turn -> together at most 1"
        )
    return Law(**settings, teacher_seed=teacher_seed, operators=operators)


def _lengths(operations: Any) -> list[int]:
    several = isinstance(operations, Sequence) and not isinstance(operations, str)
    lengths = list(operations) if several else [operations]
    if not lengths or any(
        isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= len(LETTERS) for length in lengths
    ):
        raise DataError(
            f"reflective: operations = {operations!r}, allowed are 1 to {len(LETTERS)}, or a list of such to draw from"
        )
    return lengths


def _row(trace: Trace, answer: str, split: str, number: int, several: bool) -> dict[str, Any]:
    problem_id = f"reflective/{split}/{trace.problem}"
    return {
        "id": f"{problem_id}/{number}" if several or split == "train" else problem_id,
        "problem_id": problem_id,
        "problem": trace.problem,
        "answer": answer,
        "solution": trace.text,
        "text": trace.text,
        "steps": [list(span) for span in trace.steps],
        "labels": list(trace.labels),
        "moves": list(trace.moves),
        "correct": trace.correct,
        "extracted": str(trace.answer),
        "difficulty": len(trace.problem.split(" ")) - 1,
        "slips": sum(trace.own_error),
    }


__all__ = [
    "MOVES",
    "PRESETS",
    "Law",
    "Reading",
    "ReflectiveWorld",
    "Trace",
    "answer_of",
    "gold_of",
    "law_of",
    "read_problem",
    "read_trace",
]
