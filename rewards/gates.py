"""A product of rewards, evaluated part by part: what an earlier part puts to zero, later ones are not asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.combining import Journal, check_rows, labels_of, part_of
from reasonrl.rewards.early import begin, drop, instant_score


class GateReward:
    """The product of its parts, such as `stop * format * math`.

    Parts are called in order, each with the samples alone whose product is not yet 0: put cheap parts first and judges
    last. 0 wins over None whichever comes first; otherwise one None makes the product None. Each part goes to
    `log_extra` as `reward_<name>` (None where it was not asked) and to `log_metric` as `reward/<name>`, the mean over
    the samples that it was asked about.

    Args:
        parts: at least one reward spec.
        begin_all: while samples are drawn, begin all parts of a sample at once, and not only the first one that takes
            time: the step ends sooner, and later parts work (judges: are paid) for samples that an earlier one then
            puts to 0. Parts before the first slow one still shut the gate.
        base_dir: where a relative `file.py:function` starts.
    """

    token_level = False

    def __init__(self, parts: Sequence[Any], begin_all: bool = False, base_dir: str | Path | None = None) -> None:
        if not isinstance(parts, (list, tuple)) or not parts:
            raise RewardError(f"reward 'gate': parts={parts!r} -> give a list of rewards, such as [stop, format, math]")
        self.parts = [part_of(part, "gate", base_dir) for part in parts]
        if not isinstance(begin_all, bool):
            raise RewardError(f"reward 'gate': begin_all={begin_all!r} -> give true or false")
        self.begin_all = begin_all
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
            self._drop(part, journal, set(range(len(factors))) - set(alive))
            if not alive:
                continue
            scores = journal.call(part, label, alive)
            journal.score(label, scores, alive)
            for place, score in zip(alive, scores, strict=True):
                factors[place].append(score)
        journal.hand_on()
        return [_product(of_one) for of_one in factors]

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the first part that takes time, unless a part before it puts the product to 0; see `early`.

        What stands behind that part may never be asked, and waits for the call; with `begin_all` it is begun too.
        """
        for place, part in enumerate(self.parts):
            if not getattr(part, "instant", False):
                for slow in self.parts[place:] if self.begin_all else [part]:
                    begin(slow, prompt, completion, row)
                return
            try:
                score = instant_score(part, prompt, completion, row)
            except RewardError:  # the call says it
                return
            if score == 0:
                return

    def _drop(self, part: Any, journal: Journal, places: set[int]) -> None:
        """What `begin_all` began about samples that this part is not asked about."""
        for place in sorted(places) if self.begin_all else ():
            drop(part, *journal.sample(place))

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Ask every part."""
        for part in self.parts:
            check_rows(part, rows)


def _product(factors: Sequence[float | None]) -> float | None:
    if 0 in factors:
        return 0.0
    there = [factor for factor in factors if factor is not None]
    return None if len(there) < len(factors) else math.prod(there, start=1.0)
