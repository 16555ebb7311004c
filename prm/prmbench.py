"""PRMBench (Song et al. 2025, arXiv:2501.03124): right and wrong steps of solutions with planted faults of nine kinds.

Step labels; the positive class is a right step. PRMScore is the mean of the F1 of the right and of the wrong steps,
counted over all steps of all rows; of `multi_solutions`, where no step is wrong, the F1 of right steps alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.step_metrics import class_f1

GROUPS: dict[str, tuple[str, ...]] = {
    "simplicity": ("redundancy", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
_SPELLINGS = {"redundency": "redundancy"}
RIGHT_ONLY = "multi_solutions"
REDUNDANT = ("redundancy", "circular")
CLEAN = "correct"


@dataclass(frozen=True)
class Judged:
    """One row with what a model said of it.

    Attributes:
        category: one of the nine kinds, or `correct` for a row without a fault, which is not counted.
        wrong_steps: 1-based indices of the wrong steps, as the rows have them.
        right: what the model says of every step: True for right.
        not_redundant: what a model that judges redundancy apart says; used for `redundancy` and `circular`.
    """

    category: str
    wrong_steps: Sequence[int]
    right: Sequence[bool]
    not_redundant: Sequence[bool] | None = None


def category_of(row: Mapping[str, Any]) -> str:
    """The row's kind, spelt in one way; raises DataError for one that PRMBench does not have."""
    name = str(row.get("classification") or row.get("category"))
    name = _SPELLINGS.get(name, name)
    if name != CLEAN and all(name not in names for names in GROUPS.values()):
        known = ", ".join(name for names in GROUPS.values() for name in names)
        raise DataError(f"prmbench: row {row.get('idx')!r} is of kind {name!r}, allowed are {known} and {CLEAN}")
    return name


def prm_score(rows: Iterable[Judged]) -> dict[str, Any]:
    """PRMScore of all rows, and by kind and group of kinds.

    Returns:
        `overall` (counted over all steps), `groups` (plain means of their kinds) and `kinds`, each a share of 1; kinds
        without rows are left out.

    Raises:
        DataError: a row has another number of judgements than steps, or there are no rows.
    """
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for number, row in enumerate(rows):
        if row.category == CLEAN:
            continue
        apart = row.category in REDUNDANT and row.not_redundant is not None
        said = row.not_redundant if apart and row.not_redundant is not None else row.right
        odd = [step for step in row.wrong_steps if not 1 <= step <= len(said)]
        if odd:
            raise DataError(f"prmbench: row {number} has step {odd[0]} wrong, but judgements of {len(said)} steps")
        wrong = set(row.wrong_steps)
        pairs.setdefault(row.category, []).extend((bool(yes), k + 1 not in wrong) for k, yes in enumerate(said))
    if not pairs:
        raise DataError("prmbench: there are no rows with a fault to judge")
    kinds = {name: _score(found, right_only=name == RIGHT_ONLY) for name, found in pairs.items()}
    groups = {
        group: sum(kinds[name] for name in names if name in kinds) / sum(name in kinds for name in names)
        for group, names in GROUPS.items()
        if any(name in kinds for name in names)
    }
    every = [pair for found in pairs.values() for pair in found]
    return {"overall": _score(every, right_only=set(pairs) == {RIGHT_ONLY}), "groups": groups, "kinds": kinds}


def _score(pairs: Sequence[tuple[bool, bool]], *, right_only: bool) -> float:
    said, true = [yes for yes, _ in pairs], [fine for _, fine in pairs]
    positive = class_f1(said, true, True)
    return positive if right_only else 0.5 * positive + 0.5 * class_f1(said, true, False)
