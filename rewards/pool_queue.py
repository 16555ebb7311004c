"""What a pool has been asked and what it knows: the queue, questions in work, verdicts, and which golds are to blame.

When an item ran out of time or crashed, its gold is tried once against a trivial answer. If that ends the same way the
gold is to blame: the item and every later one with this gold become `bad_gold`, without another try.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from reasonrl.errors import RewardError
from reasonrl.rewards.pool_state import (
    NOBODY,
    Key,
    Listener,
    PoolCounters,
    PoolSettings,
    Recorder,
    Task,
    VerdictCache,
    key_of,
)
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict

TRIVIAL = r"\boxed{0}"
"""What a gold is tried against."""
BYTES_AT_ONCE = 1 << 20
MOST_GOLDS = 10_000


class TaskQueue:
    """Tasks from question to verdict. The dispatcher's thread takes, judges and delivers; every thread may ask.

    Args:
        settings: the pool's.
        ring: wakes the dispatcher; called with the lock held.
    """

    def __init__(self, settings: PoolSettings, ring: Callable[[], None]) -> None:
        self.settings = settings
        self.ring = ring
        self.recorder = Recorder()
        self.error: RewardError | None = None
        self.worked_by: int | None = None  # the dispatcher's thread
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._wakers: deque[Callable[[], None]] = deque()
        self._pending: deque[Task] = deque()
        self._open: dict[Key, Task] = {}
        self._cache = VerdictCache(settings.cache_size)
        self._golds: OrderedDict[tuple[str, str], bool | list[tuple[Task, Verdict]]] = OrderedDict()
        self._finished: list[tuple[Task, Verdict]] = []

    # --- asking: every thread ---

    def ask(self, gold: str, response: str, policy: str, listener: Listener, block: bool) -> bool:
        """Queues a question, joins one in work, or answers from the cache; False if there is no room and it may not
        block.

        Raises:
            RewardError: the pool is closed or broken.
        """
        # Without a cache no key outlives its texts, and they are their own key.
        key = key_of(gold, response, policy) if self.settings.cache_size else (gold, response, policy)
        with self._lock:
            while True:
                if self.error is not None:
                    raise RewardError(str(self.error))
                known = self._cache.get(key)
                if known is not None:
                    if listener is not NOBODY:
                        self.recorder.hit(known)
                    break
                task = self._open.get(key)
                if task is not None:
                    task.listeners.append(listener)
                    self.recorder.cache_hits += listener is not NOBODY
                    return True
                if len(self._open) < self.settings.max_pending or self._cannot_wait():
                    task = self._open[key] = Task(key, gold, response, policy)
                    task.listeners.append(listener)
                    self._pending.append(task)
                    self.ring()
                    return True
                if not block:
                    return False
                self._room.wait()
        listener.tell(known)
        return True

    def _cannot_wait(self) -> bool:
        """A callback of a future asks: were the dispatcher's thread to wait for room, nobody would make any."""
        return threading.get_ident() == self.worked_by

    def when_there_is_room(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once there is room for a question: now, or later from the dispatcher's thread."""
        with self._lock:
            if len(self._open) >= self.settings.max_pending and self.error is None:
                self._wakers.append(wake)
                return
        wake()

    def waits_no_more(self, wake: Callable[[], None]) -> None:
        """Somebody who waited for room has gone; if he was woken already, the next is woken in his place."""
        with self._lock:
            try:
                self._wakers.remove(wake)
            except ValueError:
                self._make_room()

    def counters(self) -> PoolCounters:
        """What has been done so far."""
        with self._lock:
            return self.recorder.snapshot(len(self._open))

    # --- work: the dispatcher's thread ---

    @property
    def busy(self) -> bool:
        """Whether a question is open."""
        return bool(self._open)

    def __len__(self) -> int:
        """Tasks that no worker has."""
        return len(self._pending)

    def take(self, most: int) -> list[Task]:
        """Up to `most` tasks for a worker. What nobody wants any more is dropped, and what has a gold known to be bad
        is judged here.
        """
        taken: list[Task] = []
        size = 0
        with self._lock:
            while self._pending and len(taken) < most and size < BYTES_AT_ONCE:
                task = self._pending.popleft()
                if task.done:
                    continue
                if task.unwanted():
                    task.done = True
                    self._open.pop(task.key, None)
                    self._make_room()
                elif self._golds and not task.check_of_gold and self._golds.get((task.gold, task.policy)) is True:
                    self._finish(task, _bad_gold(task, 0.0))
                else:
                    size += len(task.response)
                    taken.append(task)
        return taken

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Puts tasks that were taken and not begun in front of the queue, in their order."""
        with self._lock:
            self._pending.extendleft(reversed(list(tasks)))

    def judge(self, task: Task, verdict: Verdict) -> None:
        """A verdict has been made; after a timeout or a crash the gold is asked before it is given out."""
        stuck = verdict.status in ("timeout", "crash")
        if not stuck and not task.check_of_gold:
            self._finish(task, verdict)
            return
        gold = (task.gold, task.policy)
        if task.check_of_gold:
            task.done = True
            waiting = self._golds[gold]
            self._golds[gold] = stuck
            assert isinstance(waiting, list)
            for waiter, theirs in waiting:
                self._finish(waiter, _bad_gold(waiter, theirs.seconds) if stuck else theirs)
        elif gold not in self._golds:
            self._check_gold(gold, task, verdict)
        else:
            known = self._golds[gold]
            if isinstance(known, list):
                known.append((task, verdict))
            else:
                self._finish(task, _bad_gold(task, verdict.seconds) if known else verdict)

    def _check_gold(self, gold: tuple[str, str], task: Task, verdict: Verdict) -> None:
        self._golds[gold] = [(task, verdict)]
        check = Task(b"", task.gold, TRIVIAL, task.policy, check_of_gold=True)
        if task.response == TRIVIAL:
            self.judge(check, verdict)
            return
        with self._lock:
            self.recorder.gold_checks += 1
            self._pending.appendleft(check)
        if len(self._golds) > MOST_GOLDS:
            oldest = next((key for key, known in self._golds.items() if not isinstance(known, list)), None)
            if oldest is not None:
                del self._golds[oldest]

    def _finish(self, task: Task, verdict: Verdict) -> None:
        if not task.done:
            task.done = True
            self._finished.append((task, verdict))

    def deliver(self) -> int:
        """Gives the finished verdicts to whoever waits; how many there were."""
        if not self._finished:
            return 0
        finished, self._finished = self._finished, []
        keep = self.settings.cache_size > 0
        with self._lock:
            for task, verdict in finished:
                self._open.pop(task.key, None)
                if keep:
                    self._cache.put(task.key, verdict)
                self.recorder.graded(verdict, sum(listener is not NOBODY for listener in task.listeners))
            self._make_room()
        for task, verdict in finished:  # not open any more: nobody can join it
            for listener in task.listeners:
                listener.tell(verdict)
        return len(finished)

    def fail(self, error: RewardError) -> None:
        """Takes no more questions; `end` tells those who wait."""
        with self._lock:
            self.error = self.error or error

    def end(self) -> None:
        """Tells everybody who still waits what `fail` was given."""
        with self._lock:
            error = self.error = self.error or RewardError("the reward pool was closed")
            tasks = list(self._open.values())
            self._open.clear()
            self._pending.clear()
            self._make_room()
        for task in tasks:
            for listener in task.listeners:
                listener.tell(error)

    def renew_locks(self) -> None:
        """In a forked child, where a thread that is not there may have held them."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)

    def _make_room(self) -> None:
        """With the lock held: wakes the threads that wait to ask, and as many coroutines as there is room for."""
        self._room.notify_all()
        room = self.settings.max_pending - len(self._open) if self.error is None else len(self._wakers)
        while self._wakers and room > 0:
            room -= 1
            self._wakers.popleft()()


def verdict_on(task: Task, status: Status, reason: str, seconds: float) -> Verdict:
    """The pool's own verdict on an item that gave none."""
    return Verdict(status, SCORE_OF_STATUS[status], None, task.gold[:4000], reason, seconds)


def _bad_gold(task: Task, seconds: float) -> Verdict:
    reason = "the gold cannot be graded: against a trivial answer too it ran over the limit or crashed"
    return verdict_on(task, "bad_gold", reason, seconds)
