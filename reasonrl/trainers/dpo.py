"""Pairs of logged samples, and TRL's DPO on them: the tokens that are learned from are those that were sampled."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import DataError
from reasonrl.trainers.logged_rows import LoggedSample


@dataclass(frozen=True)
class Pairs:
    """Pairs and what they were made of.

    Attributes:
        rows: `prompt_ids`, `chosen_ids` and `rejected_ids` of every pair, as TRL's collator takes them.
        problems: with a pair.
        one_sided: problems without one, all of whose answers are right, or all wrong.
    """

    rows: list[dict[str, Any]]
    problems: int
    one_sided: int


def make_pairs(samples: Sequence[LoggedSample], at_most: int | None, seed: int) -> Pairs:
    """A right and a wrong answer to the same problem, in shuffled order; each is in as many pairs as any other of its
    kind, give or take one, and no pair comes twice.

    Args:
        samples: of all problems.
        at_most: pairs a problem; None: as many as the problem has right or wrong answers, whichever are more.
        seed: of the order.

    Raises:
        DataError: no problem has both a right and a wrong answer.
    """
    groups: dict[str, tuple[list[LoggedSample], list[LoggedSample]]] = {}
    for sample in samples:
        groups.setdefault(sample.group, ([], []))[sample.wrong].append(sample)
    rows, problems = [], 0
    for name, sides in groups.items():
        if not all(sides):
            continue
        problems += 1
        draw = random.Random(f"{seed}/{name}")
        right, wrong = (draw.sample(side, len(side)) for side in sides)
        count = max(len(right), len(wrong))
        for number in range(count if at_most is None else min(at_most, len(right) * len(wrong))):
            # When both sides begin anew together, the wrong one goes on by one.
            turn = number // math.lcm(len(right), len(wrong))
            one, other = right[number % len(right)], wrong[(number + turn) % len(wrong)]
            rows.append(
                {
                    "prompt_ids": one.prompt_ids.tolist(),
                    "chosen_ids": one.completion_ids.tolist(),
                    "rejected_ids": other.completion_ids.tolist(),
                }
            )
    if not rows:
        raise DataError(
            f"dpo: none of {len(groups)} problems has both a right and a wrong answer -> keep: 0 < pass_rate < 1 in the"
            " rollout, and more samples a problem"
        )
    return Pairs(rows, problems, len(groups) - problems)
