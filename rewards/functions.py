"""Reward functions: objects called the TRL way, `f(prompts, completions, completion_ids, **columns) -> list[float |
None]`.

They are classes with a `__name__`, so that they pickle, and they run unchanged in TRL's `reward_funcs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.columns import GOLD_COLUMNS, column_named
from reasonrl.rewards.compare import POLICIES
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.early import Begun
from reasonrl.rewards.grading import Graded, begin_grading, check_pool_arguments, grade, kills_so_far
from reasonrl.rewards.pool import TIME_LIMIT
from reasonrl.rewards.verdict import Verdict

Log = Callable[..., None]


class MathReward:
    """1 for a right answer, 0 for a wrong one or none, None where the gold cannot be compared
    (`verdict.SCORE_OF_STATUS`).

    Args:
        policy: what counts as the same answer; a name in `compare.POLICIES`.
        gold: the column with the golds; None takes `answer`, or `solution` where there is no `answer` (TRL's layout).
        workers: processes that grade, killed and replaced when a completion hangs one (`pool.RewardPool`); None takes
            one less than there are CPUs, at most 4; 0 grades in this process.
        time_limit: seconds a completion may take there.
    """

    token_level = False

    def __init__(
        self,
        policy: str = "default",
        gold: str | None = None,
        workers: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        if policy not in POLICIES:
            raise RewardError(f"reward 'math': policy {policy!r} is unknown{near(policy, POLICIES)}")
        check_pool_arguments(workers, time_limit, "reward 'math'")
        self.__name__ = "math"
        self.policy = policy
        self.gold = gold
        self.workers = workers
        self.time_limit = time_limit
        self._begun: Begun[Verdict] = Begun()

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the verdict on one sample in the pool; see `early`. Nothing with `workers=0`."""
        with contextlib.suppress(RewardError):  # whatever is wrong, the call says it
            gold = row[column_named("math", self.gold, GOLD_COLUMNS, row)]
            if isinstance(gold, str):
                if self._begun.since is None:
                    self._begun.since = kills_so_far(self.workers, self.time_limit)
                begin_grading(gold, text_of(completion), self.policy, self.workers, self.time_limit)

    def forget(self) -> None:
        """Begin the counts anew; see `early`. Verdicts are in the pool, which keeps them as long as it has room."""
        self._begun.clear()

    def verdicts(self, completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        """One verdict a completion; the columns as in a call."""
        return self._graded(completions, columns).verdicts

    def _graded(self, completions: Sequence[Any], columns: dict[str, Any]) -> Graded:
        golds = columns[column_named("math", self.gold, GOLD_COLUMNS, columns)]
        if len(golds) != len(completions):
            raise RewardError(f"reward 'math': {len(completions)} completions, but {len(golds)} golds")
        bad = {place: _bad_gold(gold) for place, gold in enumerate(golds) if not isinstance(gold, str)}
        pairs = [(gold, text_of(completions[place])) for place, gold in enumerate(golds) if place not in bad]
        before, self._begun.since = self._begun.since, None
        graded = grade(pairs, self.policy, self.workers, self.time_limit, before)
        made = iter(graded.verdicts)
        return Graded([bad[place] if place in bad else next(made) for place in range(len(golds))], graded.kills)

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Log | None = None,
        log_metric: Log | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores; the columns `verdict`, `extracted` and `verify_seconds` go to `log_extra`, the share of each status
        and what the verdicts cost to `log_metric`.
        """
        graded = self._graded(completions, columns)
        verdicts = graded.verdicts
        if log_extra is not None:
            log_extra("verdict", [verdict.status for verdict in verdicts])
            log_extra("extracted", [verdict.extracted or "" for verdict in verdicts])
            log_extra("verify_seconds", [verdict.seconds for verdict in verdicts])
        if log_metric is not None:
            for name, value in graded.metrics().items():
                log_metric(name, value)
        return [verdict.score for verdict in verdicts]


def _bad_gold(gold: Any) -> Verdict:
    if isinstance(gold, (int, float)) and not isinstance(gold, bool):
        raise RewardError(
            f"reward 'math': the gold {gold!r} is a number where text was expected -> load the rows with load_rows,"
            " which writes it out"
        )
    return Verdict("bad_gold", None, None, repr(gold)[:200], f"the gold is a {type(gold).__name__}, not text")
