"""Verdicts in worker processes that can be killed.

with RewardPool(workers=4) as pool:
    verdicts = pool.map([("1/2", r"so it is \\boxed{0.5}"), ("3", "nothing")])   # in order
    future = pool.submit("3", r"\\boxed{3}")                                       # a concurrent.futures.Future
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.pool_dispatch import Dispatcher
from reasonrl.rewards.pool_state import NOBODY, FutureListener, Listener, Outcome, PoolCounters, PoolSettings
from reasonrl.rewards.verdict import Verdict

__all__ = ["PoolCounters", "RewardPool", "close_shared_pools", "default_workers", "shared_pool"]

GRADER = "reasonrl.rewards.math:verify"
TIME_LIMIT = 2.0


class RewardPool:
    """Persistent worker processes that grade texts, each item under its own deadline.

    An item's clock starts when a worker begins it; time in the queue does not count. An item that runs over is killed
    with its worker and gets `timeout`; one in which two workers died gets `crash`; if the gold does the same with a
    trivial answer it is `bad_gold`. Items behind it in the same worker are graded as if nothing had happened.

    Workers are forked by a template, a fresh program of one thread, never by this process: it may hold a GPU and
    threads. They see no GPU, run one thread each, have their own session (Ctrl-C does not reach them) and end when
    this process ends, however it does. Equal questions are graded once: verdicts are cached, and those in work shared.

    Every method may be called from any thread. A pool belongs to the process that made it.

    Args:
        workers: how many; None takes `default_workers()`.
        time_limit: seconds an item may take, by the wall clock. Its worker is killed a tenth later, so that an alarm
            of the grader's own at the limit comes first. An item that was ready to run but has had less than a tenth of
            its limit as CPU time (a machine with far too much to do) is given up to three times the limit.
        memory_limit_mb: address space of a worker, MiB; None leaves it unlimited.
        max_items_per_worker: items after which a worker is replaced.
        cache_size: verdicts kept; 0 keeps none.
        max_pending: items that may wait or be in work; `submit` and `map` block while there are more.
        grader: `module:function`, called with (gold, response, policy) and, if it has a parameter `limit`, with the
            time limit; gives a Verdict. The module is imported in the template with this process's `sys.path`; pairs
            (gold, response) in its `POOL_WARM_UP` are graded before the first worker is forked.
        start_timeout: seconds the template may take until it is ready.

    Raises:
        RewardError: an argument out of range. A grader that cannot be loaded is reported to whoever waits for a
            verdict, with the end of the worker's standard error.
    """

    def __init__(
        self,
        workers: int | None = None,
        time_limit: float = TIME_LIMIT,
        memory_limit_mb: int | None = 2048,
        max_items_per_worker: int = 20_000,
        cache_size: int = 100_000,
        max_pending: int = 10_000,
        grader: str = GRADER,
        start_timeout: float = 120.0,
    ) -> None:
        workers = default_workers() if workers is None else workers
        least = {
            "workers": (workers, 1),
            "max_items_per_worker": (max_items_per_worker, 1),
            "cache_size": (cache_size, 0),
            "max_pending": (max_pending, 1),
            "memory_limit_mb": (64 if memory_limit_mb is None else memory_limit_mb, 64),
        }
        for name, (value, smallest) in least.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise RewardError(f"reward pool: {name}={value!r} must be a whole number of at least {smallest}")
        for name, seconds in (("time_limit", time_limit), ("start_timeout", start_timeout)):
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e6:
                raise RewardError(f"reward pool: {name}={seconds!r} must be a number of seconds above 0")
        if not isinstance(grader, str) or len([part for part in grader.split(":") if part]) != 2:
            raise RewardError(f"reward pool: grader={grader!r} must be 'module:function'")
        self.settings = PoolSettings(
            workers,
            float(time_limit),
            memory_limit_mb,
            max_items_per_worker,
            cache_size,
            max_pending,
            grader,
            float(start_timeout),
        )
        self._process = os.getpid()
        self._dispatcher = Dispatcher(self.settings)
        self._dispatcher.start()
        _LIVE.add(self)

    # --- one by one ---

    def submit(self, gold: str, response: str, policy: str = "default") -> Future[Verdict]:
        """A future of the verdict; blocks while `max_pending` items wait.

        Raises:
            RewardError: an argument is not text, the policy is unknown to the default grader, the pool is closed or
                broken, or belongs to another process. The future raises it too, if the pool closes or breaks before the
                verdict is made.
        """
        listener = FutureListener()
        self._ask(gold, response, policy, listener)
        return listener.future

    def offer(self, gold: str, response: str, policy: str = "default") -> Future[Verdict] | None:
        """A future of the verdict; None where there is no room now. Never waits; raises as `submit` does."""
        listener = FutureListener()
        return listener.future if self._ask(gold, response, policy, listener, block=False) else None

    def prefetch(self, gold: str, response: str, policy: str = "default") -> bool:
        """Begin a verdict that will be asked for later, and is then in the cache or under way. Never waits.

        Returns:
            Whether it was begun; not where there is no room, or no cache to keep it.

        Raises:
            RewardError: as `submit`.
        """
        return self.settings.cache_size > 0 and self._ask(gold, response, policy, NOBODY, block=False)

    async def averify(self, gold: str, response: str, policy: str = "default") -> Verdict:
        """The verdict, awaited; the event loop goes on meanwhile, also while `max_pending` items wait."""
        listener = FutureListener()
        while not self._ask(gold, response, policy, listener, block=False):
            await self._room()
        return await asyncio.wrap_future(listener.future)

    # --- many ---

    def map(self, pairs: Iterable[tuple[str, str]], policy: str = "default") -> list[Verdict]:
        """The verdicts on (gold, response) pairs, in their order; raises as `submit` does."""
        gathered = _Gathered()
        try:
            for place, pair in enumerate(pairs):
                gold, response = _texts(place, pair)
                self._ask(gold, response, policy, gathered.listener(place))
            return gathered.wait()
        except BaseException:  # Ctrl-C too: nobody waits for the rest any more
            gathered.abandoned = True
            raise

    @staticmethod
    def as_completed(futures: Iterable[Future[Verdict]], timeout: float | None = None) -> Iterator[Future[Verdict]]:
        """The futures as they are resolved (`concurrent.futures.as_completed`)."""
        return concurrent.futures.as_completed(list(futures), timeout)

    async def astream(
        self, pairs: Iterable[tuple[str, str]], policy: str = "default"
    ) -> AsyncIterator[tuple[int, Verdict]]:
        """(place, verdict) of every pair, as the verdicts come. Pairs are taken only as there is room for them."""
        waiting: set[asyncio.Task[tuple[int, Verdict]]] = set()

        async def one(place: int, gold: str, response: str) -> tuple[int, Verdict]:
            return place, await self.averify(gold, response, policy)

        try:
            for place, pair in enumerate(pairs):
                gold, response = _texts(place, pair)
                waiting.add(asyncio.create_task(one(place, gold, response)))
                if len(waiting) >= min(self.settings.max_pending, 1024):
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()

    # --- the pool itself ---

    def counters(self) -> PoolCounters:
        """What has been done so far; also after `close`."""
        return self._dispatcher.queue.counters()

    def grow(self, workers: int) -> None:
        """Has at least so many workers from now on."""
        self._check_process()
        if workers > self._dispatcher.target:
            self._dispatcher.target = workers
            self._dispatcher.ring()

    def close(self) -> None:
        """Ends the workers; whoever still waits for a verdict gets a RewardError. May be called again."""
        if os.getpid() == self._process:
            self._dispatcher.stop(RewardError("the reward pool was closed before this verdict was made"))
            _LIVE.discard(self)

    @property
    def closed(self) -> bool:
        """Whether it takes no more items: closed, broken, or made by another process."""
        return os.getpid() != self._process or self._dispatcher.queue.error is not None

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RewardError(
                f"this reward pool belongs to process {self._process}, and this is its fork {os.getpid()}"
                " -> make a pool of its own here (shared_pool() does)"
            )

    def _ask(self, gold: str, response: str, policy: str, listener: Listener, block: bool = True) -> bool:
        self._check_process()
        for name, text in (("gold", gold), ("response", response), ("policy", policy)):
            if not isinstance(text, str):
                raise RewardError(f"{name} is {text!r:.100}, a {type(text).__name__}, where text was expected")
        if self.settings.grader == GRADER and policy not in POLICIES:
            raise RewardError(f"policy {policy!r} is unknown{near(policy, POLICIES)}")
        return self._dispatcher.queue.ask(gold, response, policy, listener, block)

    async def _room(self) -> None:
        """Waits, without blocking the event loop, until there may be room."""
        loop = asyncio.get_running_loop()
        there = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
                loop.call_soon_threadsafe(there.set)

        self._dispatcher.queue.when_there_is_room(wake)
        try:
            await there.wait()
        except asyncio.CancelledError:
            self._dispatcher.queue.waits_no_more(wake)
            raise


def _texts(place: int, pair: Any) -> tuple[str, str]:
    """The gold and the response of the pair at this place.

    Raises:
        RewardError: it is no pair of texts.
    """
    if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
        raise RewardError(
            f"pair {place}: {pair!r:.100} is a {type(pair).__name__} where (gold, response) was expected -> give two"
            " texts a pair"
        )
    for name, text in zip(("gold", "response"), pair, strict=True):
        if not isinstance(text, str):
            raise RewardError(
                f"pair {place}: {name} is {text!r:.100}, a {type(text).__name__}, where text was expected"
            )
    return pair[0], pair[1]


class _Gathered:
    """The verdicts of one `map`."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.wanted = 0
        self.changed = threading.Condition()
        self.complete = False
        self.abandoned = False

    def listener(self, place: int) -> Listener:
        """Who waits for the verdict at this place."""
        self.wanted += 1
        return _Place(self, place)

    def wait(self) -> list[Verdict]:
        """All of them, in order."""
        with self.changed:
            self.complete = True
            while len(self.outcomes) < self.wanted:
                self.changed.wait()
        verdicts = []
        for place in range(self.wanted):
            outcome = self.outcomes[place]
            if isinstance(outcome, BaseException):
                raise RewardError(str(outcome)) from outcome
            verdicts.append(outcome)
        return verdicts


class _Place:
    __slots__ = ("gathered", "place")

    def __init__(self, gathered: _Gathered, place: int) -> None:
        self.gathered, self.place = gathered, place

    def gone(self) -> bool:
        return self.gathered.abandoned

    def tell(self, outcome: Outcome) -> None:
        gathered = self.gathered
        gathered.outcomes[self.place] = outcome
        if gathered.complete and len(gathered.outcomes) >= gathered.wanted:
            with gathered.changed:
                gathered.changed.notify()


# --- one pool for everybody in this process ---

_LIVE: weakref.WeakSet[RewardPool] = weakref.WeakSet()
_SHARED: dict[float, RewardPool] = {}
_SHARED_LOCK = threading.Lock()


def default_workers() -> int:
    """One less than the CPUs this process may use, at least 1 and at most 4: the caller has work of its own."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(1, cpus - 1))


def shared_pool(workers: int | None = None, time_limit: float = TIME_LIMIT) -> RewardPool:
    """The pool of this process for the math verifier, made at the first call and closed at exit.

    There is one for each time limit; it has as many workers as the largest call asked for. A fork of this process gets
    its own, and one that was closed or broke is made anew.
    """
    count = default_workers() if workers is None else workers
    with _SHARED_LOCK:
        pool = _SHARED.get(float(time_limit))
        if pool is None or pool.closed:
            pool = _SHARED[float(time_limit)] = RewardPool(count, time_limit)
    pool.grow(count)
    return pool


def close_shared_pools() -> None:
    """Closes the shared pools; the next call of `shared_pool` makes a new one."""
    with _SHARED_LOCK:
        pools = list(_SHARED.values())
        _SHARED.clear()
    for pool in pools:
        pool.close()


def shared_counters() -> list[PoolCounters]:
    """The counters of this process's shared pools."""
    with _SHARED_LOCK:
        return [pool.counters() for pool in _SHARED.values() if not pool.closed]


def shared_kills(time_limit: float) -> int:
    """Workers that the shared pool of this time limit has killed; 0 where there is no such pool."""
    with _SHARED_LOCK:
        pool = _SHARED.get(float(time_limit))
    return 0 if pool is None or pool.closed else pool.counters().kills


@atexit.register
def _close_all() -> None:
    for pool in list(_LIVE):
        pool.close()


def _after_fork() -> None:
    """In a forked child: the pools are the parent's; locks may be held by threads that are not here."""
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    _SHARED.clear()
    for pool in list(_LIVE):
        pool._dispatcher.forget()
    _LIVE.clear()


os.register_at_fork(after_in_child=_after_fork)
