"""A product of rewards, evaluated part by part: what an earlier part puts to zero, later ones are not asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.combining import Journal, check_rows, labels_of, part_of
from reasonrl.rewards.early import begin, instant_score


class GateReward:
    """The product of its parts, such as `stop * format * math`.

    Parts are called in order, each with the samples alone whose product is not yet 0: put cheap parts first and judges
    last. 0 wins over None whichever comes first; otherwise one None makes the product None. Each part goes to
    `log_extra` as `reward_<name>` (None where it was not asked) and to `log_metric` as `reward/<name>`, the mean over
    the samples that it was asked about.

    Args:
        parts: at least one reward spec.
        base_dir: where a relative `file.py:function` starts.
    """

    token_level = False

    def __init__(self, parts: Sequence[Any], base_dir: str | Path | None = None) -> None:
        if not isinstance(parts, (list, tuple)) or not parts:
            raise RewardError(f"reward 'gate': parts={parts!r} -> give a list of rewards, such as [stop, format, math]")
        self.parts = [part_of(part, "gate", base_dir) for part in parts]
        self.labels = labels_of(self.parts)
        self.__name__ = "*".join(f"({p.__name__})" if "+" in p.__name__ else p.__name__ for p in self.parts)
        self._known: set[str] = set()

    def __call__(
        self, prompts: Any = None, completions: Sequence[Any] = (), completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """One product a completion."""
        journal = Journal(prompts, completions, completion_ids, columns, self._known)
        factors: list[list[float | None]] = [[] for _ in completions]
        for label, part in zip(self.labels, self.parts, strict=True):
            alive = [place for place, of_one in enumerate(factors) if 0 not in of_one]
            if not alive:
                break
            scores = journal.call(part, label, alive)
            journal.score(label, scores, alive)
            for place, score in zip(alive, scores, strict=True):
                factors[place].append(score)
        journal.hand_on()
        return [_product(of_one) for of_one in factors]

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the first part that takes time, unless a part before it puts the product to 0; see `early`.

        What stands behind that part may never be asked, and waits for the call.
        """
        for part in self.parts:
            if not getattr(part, "instant", False):
                begin(part, prompt, completion, row)
                return
            try:
                score = instant_score(part, prompt, completion, row)
            except RewardError:  # the call says it
                return
            if score == 0:
                return

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Ask every part."""
        for part in self.parts:
            check_rows(part, rows)


def _product(factors: Sequence[float | None]) -> float | None:
    if 0 in factors:
        return 0.0
    there = [factor for factor in factors if factor is not None]
    return None if len(there) < len(factors) else math.prod(there, start=1.0)
