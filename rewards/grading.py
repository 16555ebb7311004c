"""Many verdicts at once: the first few in this process, the rest in the shared pool."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from reasonrl.errors import RewardError
from reasonrl.rewards.pool import TIME_LIMIT, close_shared_pools, shared_kills, shared_pool
from reasonrl.rewards.pool_state import quantile
from reasonrl.rewards.verdict import Verdict, status_shares

__all__ = ["Graded", "begin_grading", "check_pool_arguments", "close_shared_pools", "grade", "kills_so_far"]

FEW = 8
"""So many verdicts are made in this process before a pool is worth its start."""

_made_here = 0
_left_for_later = 0


@dataclass(frozen=True)
class Graded:
    """Verdicts in the order of their pairs.

    Attributes:
        verdicts: one a pair.
        kills: workers that were killed meanwhile; 0 in this process.
    """

    verdicts: list[Verdict]
    kills: int = 0

    def metrics(self) -> dict[str, float]:
        """Scalars for a log: the share of each status, what the verdicts cost, and workers killed; empty of none."""
        if not self.verdicts:
            return {}
        seconds = sorted(verdict.seconds for verdict in self.verdicts)
        shares = status_shares([verdict.status for verdict in self.verdicts])
        # Under `time/`, as all that differs between two runs of the same.
        costs = {"time/verdict_p99": quantile(seconds, 0.99), "time/verdict_max": seconds[-1]}
        return {**shares, **costs, "time/verdict_kills": float(self.kills)}


def check_pool_arguments(workers: int | None, time_limit: float, who: str) -> None:
    """Raises RewardError, naming `who`, if these cannot be given to `grade`."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise RewardError(f"{who}: workers={workers!r} must be a whole number: 0 grades in this process, null chooses")
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not 0 < time_limit < 1e6:
        raise RewardError(f"{who}: time_limit={time_limit!r} must be a number of seconds above 0")


def begin_grading(
    gold: str, response: str, policy: str = "default", workers: int | None = None, time_limit: float = TIME_LIMIT
) -> None:
    """Begin a verdict in the shared pool that `grade` will be asked for; arguments as there.

    The first few are left for `grade`, which may make them in this process, and so is what the pool cannot take.
    """
    global _left_for_later
    if workers == 0:
        return
    if workers is None and _made_here + _left_for_later < FEW:
        _left_for_later += 1
        return
    shared_pool(workers, time_limit).prefetch(gold, response, policy)


def kills_so_far(workers: int | None, time_limit: float) -> int:
    """Workers that the shared pool of `grade` has killed; 0 where there is none yet."""
    return 0 if workers == 0 else shared_kills(time_limit)


def grade(
    pairs: Sequence[tuple[str, str]],
    policy: str = "default",
    workers: int | None = None,
    time_limit: float = TIME_LIMIT,
    kills_before: int | None = None,
) -> Graded:
    """Verdicts on (gold, response) pairs.

    Args:
        pairs: texts.
        policy: what counts as the same answer.
        workers: processes of the shared pool; None takes the usual number, once this process has more to grade than a
            few; 0 grades here, where nothing can be killed.
        time_limit: seconds a pair may take in the pool (`pool.RewardPool`).
        kills_before: `kills_so_far` when the first of these verdicts was begun; None if none was.

    Raises:
        RewardError: as `RewardPool` does.
    """
    global _made_here
    here = workers == 0 or (workers is None and _made_here + len(pairs) <= FEW)
    # Outside the main thread no alarm rings; there a pool that can kill is worth its start for a single pair.
    if here and (workers == 0 or threading.current_thread() is threading.main_thread()):
        from reasonrl.rewards.math import verify

        _made_here += len(pairs)
        return Graded([verify(gold, response, policy) for gold, response in pairs])
    pool = shared_pool(workers, time_limit)
    before = pool.counters().kills if kills_before is None else kills_before
    verdicts = pool.map(pairs, policy)
    return Graded(verdicts, max(0, pool.counters().kills - before))
