"""What a pool keeps: its settings, its tasks, finished verdicts, and counts."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Protocol

from reasonrl.rewards.verdict import STATUSES, Verdict

Key = bytes | tuple[str, str, str]
"""What tells one question from another: its digest, or its texts."""
Outcome = Verdict | BaseException

_WINDOW = 1 << 16
MOST_TEXT = 1 << 24
"""Characters in the verdicts of a cache: long answers push out more than their share."""


@dataclass(frozen=True)
class PoolSettings:
    """What a pool was asked for (`pool.RewardPool` says what each means)."""

    workers: int
    time_limit: float
    memory_limit_mb: int | None
    max_items_per_worker: int
    cache_size: int
    max_pending: int
    grader: str
    start_timeout: float

    @property
    def kill_after(self) -> float:
        """Seconds of an item after which its worker is killed: a grader's own alarm at the limit speaks first."""
        return self.time_limit + max(0.05, 0.1 * self.time_limit)


class Listener(Protocol):
    """Somebody who waits for a verdict."""

    def gone(self) -> bool:
        """Whether nobody wants the verdict any more."""

    def tell(self, outcome: Outcome) -> None:
        """The verdict, or why there is none."""


class _Nobody:
    """Who begins a verdict that somebody else will ask for: it goes to the cache."""

    __slots__ = ()

    def gone(self) -> bool:
        return False

    def tell(self, outcome: Outcome) -> None:
        pass


NOBODY = _Nobody()


class FutureListener:
    """Puts the outcome into a future."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[Verdict] = Future()

    def gone(self) -> bool:
        """The future was cancelled."""
        return self.future.cancelled()

    def tell(self, outcome: Outcome) -> None:
        """Resolves the future, unless it has been cancelled meanwhile."""
        try:
            if isinstance(outcome, Verdict):
                self.future.set_result(outcome)
            else:
                self.future.set_exception(outcome)
        except InvalidStateError:
            return


class Task:
    """One text to grade; equal texts asked for at the same time share one."""

    __slots__ = ("check_of_gold", "crashes", "done", "gold", "key", "listeners", "policy", "response")

    def __init__(self, key: Key, gold: str, response: str, policy: str, check_of_gold: bool = False) -> None:
        self.key, self.gold, self.response, self.policy = key, gold, response, policy
        self.check_of_gold = check_of_gold
        self.listeners: list[Listener] = []
        self.done = False
        self.crashes = 0

    def unwanted(self) -> bool:
        """Everybody who asked has gone."""
        if self.check_of_gold:
            return False
        listeners = self.listeners
        return listeners[0].gone() and all(listener.gone() for listener in listeners)


def key_of(gold: str, response: str, policy: str) -> Key:
    """A digest of one question to the grader: the cache need not hold the texts."""
    # The lengths keep apart what would run together; parts are joined before encoding, which is the dear step.
    text = f"{len(policy)},{len(gold)},{policy}{gold}{response}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class VerdictCache:
    """The verdicts used last: at most `size` of them, and of `MOST_TEXT` characters."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Key, Verdict] = OrderedDict()
        self._text = 0

    def get(self, key: Key) -> Verdict | None:
        """A kept verdict, with the seconds it took when it was made."""
        verdict = self._kept.get(key)
        if verdict is not None:
            self._kept.move_to_end(key)
        return verdict

    def put(self, key: Key, verdict: Verdict) -> None:
        """Keeps a verdict; a `fault` is not kept, for it says nothing about the texts."""
        if self.size == 0 or verdict.status == "fault" or key in self._kept:
            return
        self._kept[key] = verdict
        self._text += _text_of(verdict)
        while len(self._kept) > self.size or self._text > MOST_TEXT:
            self._text -= _text_of(self._kept.popitem(last=False)[1])

    def __len__(self) -> int:
        return len(self._kept)


def _text_of(verdict: Verdict) -> int:
    return len(verdict.extracted or "") + len(verdict.gold) + len(verdict.reason)


@dataclass(frozen=True)
class PoolCounters:
    """What a pool has done so far.

    Attributes:
        items: verdicts given, those from the cache included.
        statuses: how many of them had each status.
        cache_hits: verdicts that were there already, or were being made for somebody else.
        pending: texts that wait or are in work now.
        kills: workers killed because an item ran over its limit.
        crashes: workers that died by themselves.
        recycled: workers replaced because of their age or their memory.
        retries: items that were graded again after a crash.
        gold_checks: golds tried against a trivial answer after a timeout or a crash.
        seconds_p50, seconds_p99: of the items' own time, over the last 65,536 graded ones; 0.0 before the first.
        seconds_max: the longest of all.
        peak_worker_mb: most memory that a worker held, MiB.
    """

    items: int
    statuses: dict[str, int]
    cache_hits: int
    pending: int
    kills: int
    crashes: int
    recycled: int
    retries: int
    gold_checks: int
    seconds_p50: float
    seconds_p99: float
    seconds_max: float
    peak_worker_mb: float


class Recorder:
    """Counts, kept under the pool's lock."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.cache_hits = self.kills = self.crashes = self.recycled = self.retries = self.gold_checks = 0
        self.peak_kb = 0
        self.longest = 0.0
        self._seconds = array("d")
        self._next = 0

    def graded(self, verdict: Verdict, given: int) -> None:
        """One verdict was made and given to `given` who asked."""
        seconds = verdict.seconds
        self.statuses[verdict.status] += given
        if seconds > self.longest:
            self.longest = seconds
        if len(self._seconds) < _WINDOW:
            self._seconds.append(seconds)
        else:
            self._seconds[self._next] = seconds
            self._next = (self._next + 1) % _WINDOW

    def hit(self, verdict: Verdict) -> None:
        """One verdict was there already."""
        self.statuses[verdict.status] += 1
        self.cache_hits += 1

    def snapshot(self, pending: int) -> PoolCounters:
        """The counts as they are now."""
        ordered = sorted(self._seconds)
        return PoolCounters(
            items=sum(self.statuses.values()),
            statuses=dict(self.statuses),
            cache_hits=self.cache_hits,
            pending=pending,
            kills=self.kills,
            crashes=self.crashes,
            recycled=self.recycled,
            retries=self.retries,
            gold_checks=self.gold_checks,
            seconds_p50=quantile(ordered, 0.5),
            seconds_p99=quantile(ordered, 0.99),
            seconds_max=self.longest,
            peak_worker_mb=self.peak_kb / 1024,
        )


def quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of the sorted values do not exceed; 0.0 of none."""
    if not ordered:
        return 0.0
    place = -(-len(ordered) * share // 1)
    return ordered[min(len(ordered), max(1, int(place))) - 1]
