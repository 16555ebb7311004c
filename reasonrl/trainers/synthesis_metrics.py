"""Figures of training on synthesis episodes (`reasonrl.pacore.episodes`): what the messages were worth, and whether
responses make use of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasonrl.pacore.episodes import cross_checks

if TYPE_CHECKING:
    from reasonrl.trainers.meter import Meter
    from reasonrl.trainers.step_metrics import Seen


def add_synthesis_sums(meter: Meter, seen: Seen, scored: list[bool], processes: int) -> None:
    """Adds the figures of a step to its sums; nothing where rows are no episodes.

    * `synthesis/messages`: of an episode; `synthesis/input_accuracy`: share of them that are right, episodes without
      messages or with unscored ones left out,
    * `synthesis/cross_check_rate`: share of responses that speak of the references or of other answers,
    * `synthesis/emergent_correctness`: share of right responses among those whose messages are all wrong (Emergent
      Correctness Rate, arXiv 2601.05593, figure 5); `synthesis/emergent_count`: their number.

    Args:
        meter: takes the sums.
        seen: what was drawn on this rank.
        scored: whether each sample has a score.
        processes: of the training; a count is shared out among them.
    """
    if not seen.rows or "messages_right" not in seen.rows[0]:
        return
    shown = [int(row["shown"] or 0) for row in seen.rows]
    meter.add("synthesis/messages", float(sum(shown)), len(shown))
    known = [
        (row["messages_right"], count)
        for row, count in zip(seen.rows, shown, strict=True)
        if count and row["messages_right"] is not None
    ]
    meter.add("synthesis/input_accuracy", float(sum(right / count for right, count in known)), len(known))
    meter.add("synthesis/cross_check_rate", float(sum(cross_checks(one.text) > 0 for one in seen.samples)), len(shown))
    if seen.verdicts is None:
        return
    flags = zip(seen.rows, shown, seen.verdicts, seen.finished.tolist(), scored, strict=True)
    emergent = [
        verdict == "correct" and stopped
        for row, count, verdict, stopped, counts in flags
        if counts and count and row["messages_right"] == 0
    ]
    meter.add("synthesis/emergent_correctness", float(sum(emergent)), len(emergent))
    meter.add("synthesis/emergent_count", float(len(emergent)), 1 / processes)
