"""What a verifier says about one response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["correct", "wrong", "no_answer", "timeout", "crash", "bad_gold", "fault"]
"""`correct`, `wrong`; `no_answer`: nothing to compare was found; `timeout`, `crash`: the response's own doing;
`bad_gold`: the gold cannot be compared with anything; `fault`: ours."""

STATUSES: tuple[Status, ...] = get_args(Status)

SCORE_OF_STATUS: dict[Status, float | None] = {
    "correct": 1.0,
    "wrong": 0.0,
    "no_answer": 0.0,
    "timeout": 0.0,
    "crash": 0.0,
    "bad_gold": None,
    "fault": None,
}
"""None is no reward at all: the sample is masked and counted. Only what the response did not cause is None."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one verification: plain values only, so that it crosses processes.

    Attributes:
        status: one of STATUSES.
        score: 1.0, 0.0, or None where the response cannot be blamed (SCORE_OF_STATUS).
        extracted: the answer found in the response; None if there is none.
        gold: the gold as it was compared.
        reason: why, in a few words.
        seconds: time the verdict took.
    """

    status: Status
    score: float | None
    extracted: str | None
    gold: str
    reason: str
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """True for the status `correct` alone."""
        return self.status == "correct"


def scores_told(
    verdicts: Sequence[Verdict],
    log_extra: Callable[[str, Any], None] | None = None,
    log_metric: Callable[[str, Any], None] | None = None,
) -> list[float | None]:
    """The scores of a batch's verdicts; the columns `verdict` and `extracted` go to `log_extra`, the share of each
    status to `log_metric`.
    """
    if log_extra is not None:
        log_extra("verdict", [verdict.status for verdict in verdicts])
        log_extra("extracted", [verdict.extracted or "" for verdict in verdicts])
    if log_metric is not None:
        for name, value in status_shares([verdict.status for verdict in verdicts]).items():
            log_metric(name, value)
    return [verdict.score for verdict in verdicts]


def status_shares(found: Sequence[str], statuses: Sequence[str] = STATUSES) -> dict[str, float]:
    """`verdict/<status>` -> share of the verdicts found that have it, for a log; empty of none."""
    return {f"verdict/{status}": found.count(status) / len(found) for status in statuses} if found else {}
