"""The thread of a pool that gives items to workers, takes verdicts, and watches the clock of every item.

Rules of blame. An item is blamed only if its worker's slot names it: for a timeout when its worker was killed for it,
for a crash when two workers died in it. Items that were given to the same worker and had not begun go back to the
front of the queue as they were. When an item was blamed, its gold is tried once against a trivial answer; if that ends
the same way the gold is to blame, and every item with it becomes `bad_gold`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.pool_process import Template, Worker
from reasonrl.rewards.pool_state import Key, Outcome, PoolSettings, Recorder, Task, VerdictCache, key_of
from reasonrl.rewards.pool_wire import BrokenFrame, verdict_of
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict

TRIVIAL = r"\boxed{0}"
"""What a gold is tried against."""
TICK = 0.02
"""Seconds between two looks at the clocks while anything is in work."""
AHEAD = 0.02
"""Seconds of work that a worker is given ahead, so that it never waits for this thread."""
MOST_AHEAD = 128
BYTES_AHEAD = 1 << 20
GATHER = 0.0005
"""Seconds this thread rests after verdicts came, while every worker has work: fewer wake-ups for the same items."""
STEAL_AFTER = 0.05
"""An item in work for so long loses the items behind it to idle workers."""
SILENCE = 30.0
"""Seconds that a worker may owe verdicts without having an item in work."""
FALSE_STARTS = 3
MOST_GOLDS = 10_000


class Dispatcher(threading.Thread):
    """See the module. What other threads touch is guarded by `lock`; the rest belongs to this thread."""

    def __init__(self, settings: PoolSettings) -> None:
        super().__init__(name="reasonrl-pool", daemon=True)
        self.settings = settings
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        self.pending: deque[Task] = deque()
        self.open_tasks: dict[Key, Task] = {}
        self.waiting_for_room: deque[Callable[[], None]] = deque()
        self.cache = VerdictCache(settings.cache_size)
        self.recorder = Recorder()
        self.broken: RewardError | None = None
        self.closing = False
        self.target = settings.workers
        self._bell, self._waker = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._waker, False)
        self._rung = False
        self._selector = selectors.DefaultSelector()
        self._template: Template | None = None
        self._workers: dict[int, Worker] = {}
        self._numbers = 0
        self._items = 0
        self._mean = 0.01
        self._false_starts = 0
        self._next_look = 0.0
        self._golds: OrderedDict[Key, bool | list[tuple[Task, Verdict]]] = OrderedDict()
        self._finished: list[tuple[Task, Verdict]] = []

    # --- called by other threads ---

    def ring(self) -> None:
        """Wakes this thread; called with the lock held."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._waker, b"!")

    def stop(self, error: RewardError) -> None:
        """Ends everything; whoever waits gets the error."""
        with self.lock:
            self.closing = True
            self.broken = self.broken or error
            if self.is_alive():
                self.ring()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def forget(self) -> None:
        """In a forked child: closes what was inherited, so that the workers' end is seen when the parent goes."""
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        for worker in self._workers.values():
            worker.close()
        if self._template is not None:
            self._template.link.close()
            os.close(self._template.tail.descriptor)
        os.close(self._bell)
        os.close(self._waker)

    # --- the thread ---

    def run(self) -> None:
        """Until the pool is closed or cannot go on."""
        try:
            self._selector.register(self._bell, selectors.EVENT_READ, self._on_bell)
            self._start_template()
            while not self.closing:
                self._turn()
        except Exception as problem:  # a fault of ours must reach whoever waits, not end a thread in silence
            if not isinstance(problem, RewardError):
                problem = RewardError(f"the reward pool failed: {type(problem).__name__}: {problem}")
            with self.lock:
                self.broken = self.broken or problem
        finally:
            self._end()

    def _turn(self) -> None:
        ready = self._selector.select(self._patience())
        came = len(self._finished)
        for key, _ in ready:
            key.data()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            self._watch(now)
        self._hire()
        self._assign()
        self._deliver()
        if ready and came == 0 and self._all_busy():
            time.sleep(GATHER)

    def _patience(self) -> float | None:
        busy = self.open_tasks or any(worker.dying or not worker.ready for worker in self._workers.values())
        template = self._template
        return TICK if busy or template is None or not template.ready else None

    def _all_busy(self) -> bool:
        working = [worker for worker in self._workers.values() if not worker.dying]
        return len(working) >= self.target and all(len(worker.assigned) > 1 for worker in working)

    def _on_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 64)
        with self.lock:
            self._rung = False

    # --- the template ---

    def _start_template(self) -> None:
        self._template = template = Template(self.settings)
        self._selector.register(template.link, selectors.EVENT_READ, self._on_template)
        self._selector.register(template.tail.descriptor, selectors.EVENT_READ, self._on_template_errors)

    def _on_template_errors(self) -> None:
        assert self._template is not None
        if not self._template.tail.read():
            self._selector.unregister(self._template.tail.descriptor)

    def _on_template(self) -> None:
        assert self._template is not None
        messages, gone = self._template.receive()
        for message in messages:
            if message[0] == "ready":
                self._template.ready = True
            elif message[0] == "failed":
                raise self._no_start(message[1])
            elif message[1] in self._workers:
                worker = self._workers[message[1]]
                if message[0] == "forked":
                    worker.pid = message[2]
                elif message[0] == "ended":
                    worker.exit = message[2]
                    self._bury(worker)
        if gone:
            self._template_gone()

    def _template_gone(self) -> None:
        """It was killed, or could not start; without it nothing can be forked, and its workers have died with it."""
        template = self._template
        assert template is not None
        template.tail.read()
        if not template.ready or self._false_starts >= FALSE_STARTS:
            raise self._no_start(f"its process ended with status {template.process.wait()}")
        self._false_starts += 1
        for worker in list(self._workers.values()):
            worker.killed_for = -1  # nobody's fault
            self._bury(worker)
        self._selector.unregister(template.link)
        with contextlib.suppress(KeyError):
            self._selector.unregister(template.tail.descriptor)
        template.end(0)
        self._start_template()

    def _no_start(self, why: str) -> RewardError:
        assert self._template is not None
        self._template.tail.read()
        said = self._template.tail.text().strip()[-1500:]
        return RewardError(
            f"the reward pool cannot start a worker for {self.settings.grader!r}: {why}"
            + (f"; it wrote:\n{said}" if said else "")
        )

    # --- workers ---

    def _hire(self) -> None:
        template = self._template
        assert template is not None
        if not template.ready:
            if time.monotonic() - template.started > self.settings.start_timeout:
                raise self._no_start(f"it was not ready after {self.settings.start_timeout:g} s")
            return
        active = sum(not worker.dying for worker in self._workers.values())
        for _ in range(self.target - active):
            self._numbers += 1
            try:
                worker = template.fork(self._numbers)
            except OSError as problem:
                raise RewardError(f"the reward pool cannot make a worker: {problem}") from problem
            self._workers[worker.number] = worker
            self._selector.register(worker.link, selectors.EVENT_READ, partial(self._on_worker, worker))
            self._selector.register(worker.tail.descriptor, selectors.EVENT_READ, partial(self._on_errors, worker))

    def _on_errors(self, worker: Worker) -> None:
        if not worker.closed and not worker.tail.read():
            self._selector.unregister(worker.tail.descriptor)

    def _on_worker(self, worker: Worker) -> None:
        if worker.closed:
            return
        try:
            frames, gone = worker.receive()
            for frame in frames:
                self._take(worker, frame)
        except (BrokenFrame, TypeError, ValueError, LookupError):
            gone = True  # it writes nonsense: whatever it was doing has broken it
        if worker.unsent:
            worker.flush()
        if gone and not worker.dying:
            self._dismiss(worker)

    def _take(self, worker: Worker, frame: list[Any]) -> None:
        worker.heard = time.monotonic()
        if frame[0] == "ready":
            worker.ready = True
            return
        number, fields, worker.peak_kb, retire = frame
        verdict = verdict_of(fields)
        self.recorder.peak_kb = max(self.recorder.peak_kb, worker.peak_kb)
        worker.taken += 1
        task = worker.assigned.pop(number, None)
        self._false_starts = 0
        self._mean += 0.05 * (min(verdict.seconds, 0.1) - self._mean)
        if task is not None:
            self._judge(task, verdict)
        if retire or worker.taken >= self.settings.max_items_per_worker:
            worker.retiring = True
            with self.lock:
                self.recorder.recycled += 1
            self._give_back(worker, 0)
            self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        """Has a worker killed; it is buried when the template says how it ended."""
        worker.dying = True
        worker.measure()
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.link)
        assert self._template is not None
        self._template.kill(worker)

    def _bury(self, worker: Worker) -> None:
        """After a worker's end: takes what it still said, then settles what it owed."""
        if not worker.dying:
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.link)
        dying, worker.dying = worker.dying, True
        worker.tail.read()
        with contextlib.suppress(BrokenFrame, TypeError, ValueError, LookupError):
            for frame in worker.receive()[0]:
                if frame[0] != "ready" and (task := worker.assigned.pop(frame[0], None)) is not None:
                    self._judge(task, verdict_of(frame[1]))
        running, start = worker.slot.running()
        culprit = worker.assigned.pop(running, None)
        self._give_back(worker, 0)
        if culprit is not None:
            if worker.killed_for == running:
                seconds = time.monotonic() - start
                limit = f"took longer than the limit of {self.settings.time_limit:g} s: its worker was killed"
                self._judge(culprit, _verdict("timeout", culprit.gold, limit, seconds))
            elif worker.killed_for:
                self._requeue([culprit])
            else:
                self._crashed(worker, culprit, time.monotonic() - start)
        elif not dying or not worker.ready:
            self._false_start(worker)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.tail.descriptor)
        with self.lock:
            self.recorder.peak_kb = max(self.recorder.peak_kb, worker.peak_kb)
        del self._workers[worker.number]
        worker.close()

    def _crashed(self, worker: Worker, culprit: Task, seconds: float) -> None:
        culprit.crashes += 1
        with self.lock:
            self.recorder.crashes += 1
            self.recorder.retries += culprit.crashes < 2
        if culprit.crashes < 2:
            self._requeue([culprit])  # what an earlier item left behind may have killed it
        else:
            reason = f"two workers died in it; the last {worker.how_it_ended()}"
            self._judge(culprit, _verdict("crash", culprit.gold, reason, seconds))

    def _false_start(self, worker: Worker) -> None:
        """A worker ended without an item in work; after some in a row it is no accident."""
        self._false_starts += 1
        with self.lock:
            self.recorder.crashes += 1
        if self._false_starts >= FALSE_STARTS:
            raise RewardError(
                f"the reward pool cannot keep a worker for {self.settings.grader!r}: the last one"
                f" {worker.how_it_ended()} -> with memory_limit_mb = {self.settings.memory_limit_mb}, is there"
                " memory enough to load the grader?"
            )

    def _give_back(self, worker: Worker, after: int) -> None:
        """Puts the items behind `after` back in front of the queue, and tells the worker to leave them."""
        back = [number for number in worker.assigned if number > after]
        if back:
            worker.slot.skip(back[-1])
            self._requeue([worker.assigned.pop(number) for number in back])

    def _requeue(self, tasks: list[Task]) -> None:
        with self.lock:
            self.pending.extendleft(reversed(tasks))

    # --- clocks ---

    def _watch(self, now: float) -> None:
        limit = self.settings.kill_after
        for worker in list(self._workers.values()):
            if worker.dying:
                assert self._template is not None
                self._template.kill(worker)  # again: the first time its queue may have been full
                continue
            running, start = worker.slot.running()
            if not running:
                if worker.assigned and now - worker.heard > SILENCE:
                    worker.killed_for = -1
                    self._kill(worker)
                continue
            age = now - start
            if age > STEAL_AFTER:
                worker.look(running, start)
                self._steal(worker, running)
            if age > limit and not (age < 3 * limit and worker.starved(running, start, limit, now)):
                worker.killed_for = running
                self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        with self.lock:
            self.recorder.kills += 1
        self._dismiss(worker)

    def _steal(self, worker: Worker, running: int) -> None:
        if len(worker.assigned) > 1 and not self.pending:
            others = (other for other in self._workers.values() if other is not worker)
            if any(other.ready and not other.dying and not other.assigned for other in others):
                self._give_back(worker, running)

    # --- items ---

    def _assign(self) -> None:
        if not self.pending:
            return
        workers = [worker for worker in self._workers.values() if worker.ready and not worker.dying]
        depth = max(1, min(MOST_AHEAD, int(AHEAD / self._mean)))
        wanting = [worker for worker in workers if len(worker.assigned) <= depth // 2 and not worker.unsent]
        with self.lock:
            share = max(1, min(depth, len(self.pending) // max(1, 2 * len(workers))))
            batches: list[tuple[Worker, list[Task]]] = []
            for worker in sorted(wanting, key=lambda worker: len(worker.assigned)):
                batches.append((worker, self._next_tasks(share)))
        for worker, tasks in batches:
            if tasks:
                self._give(worker, tasks)

    def _next_tasks(self, most: int) -> list[Task]:
        """Takes tasks from the queue; those that nobody wants or that are settled are dropped."""
        taken: list[Task] = []
        size = 0
        while self.pending and len(taken) < most and (not taken or size < BYTES_AHEAD):
            task = self.pending.popleft()
            if task.done:
                continue
            if task.unwanted():
                task.done = True
                self.open_tasks.pop(task.key, None)
                self._make_room()
                continue
            size += len(task.response)
            taken.append(task)
        return taken

    def _give(self, worker: Worker, tasks: list[Task]) -> None:
        items: list[list[Any]] = []
        if not worker.assigned:
            worker.heard = time.monotonic()
        for task in tasks:
            if not task.check_of_gold and self._golds.get(_key_of_gold(task)) is True:
                self._finish(task, _bad_gold(task, 0.0))
                continue
            self._items += 1
            worker.assigned[self._items] = task
            items.append([self._items, task.gold, task.response, task.policy])
        if items:
            worker.send(items)

    def _judge(self, task: Task, verdict: Verdict) -> None:
        """A verdict has been made; after a timeout or a crash the gold is asked first."""
        stuck = verdict.status in ("timeout", "crash")
        gold = _key_of_gold(task)
        if task.check_of_gold:
            task.done = True
            waiting = self._golds[gold]
            self._golds[gold] = stuck
            assert isinstance(waiting, list)
            for waiter, theirs in waiting:
                self._finish(waiter, _bad_gold(waiter, theirs.seconds) if stuck else theirs)
        elif not stuck:
            self._finish(task, verdict)
        elif gold not in self._golds:
            self._check_gold(gold, task, verdict)
        else:
            known = self._golds[gold]
            if isinstance(known, list):
                known.append((task, verdict))
            else:
                self._finish(task, _bad_gold(task, verdict.seconds) if known else verdict)

    def _check_gold(self, gold: Key, task: Task, verdict: Verdict) -> None:
        self._golds[gold] = [(task, verdict)]
        check = Task(gold, task.gold, TRIVIAL, task.policy, check_of_gold=True)
        if task.response == TRIVIAL:
            self._judge(check, verdict)
            return
        with self.lock:
            self.recorder.gold_checks += 1
            self.pending.appendleft(check)
        if len(self._golds) > MOST_GOLDS:
            oldest = next((key for key, known in self._golds.items() if not isinstance(known, list)), None)
            if oldest is not None:
                del self._golds[oldest]

    def _finish(self, task: Task, verdict: Verdict) -> None:
        if not task.done:
            task.done = True
            self._finished.append((task, verdict))

    def _deliver(self) -> None:
        """Gives the finished verdicts to whoever waits."""
        if not self._finished:
            return
        finished, self._finished = self._finished, []
        told = []
        with self.lock:
            for task, verdict in finished:
                self.open_tasks.pop(task.key, None)
                self.cache.put(task.key, verdict)
                self.recorder.graded(verdict, len(task.listeners))
                told.append((task.listeners, verdict))
            self._make_room()
        for listeners, verdict in told:
            _tell(listeners, verdict)

    def _make_room(self) -> None:
        """With the lock held: wakes those who wait to submit."""
        self.room.notify_all()
        while self.waiting_for_room and len(self.open_tasks) < self.settings.max_pending:
            self.waiting_for_room.popleft()()

    def _end(self) -> None:
        """Ends the processes, and tells everybody who still waits."""
        if self._template is not None:
            self._template.end()
        for worker in self._workers.values():
            worker.close()
        self._selector.close()
        with self.lock:
            error = self.broken = self.broken or RewardError("the reward pool was closed")
            tasks = list(self.open_tasks.values())
            self.open_tasks.clear()
            self.pending.clear()
            self._rung = True  # nobody rings any more
            os.close(self._bell)
            os.close(self._waker)
            self._make_room()
        for task in tasks:
            _tell(task.listeners, error)


def _tell(listeners: list[Any], outcome: Outcome) -> None:
    for listener in listeners:
        listener.tell(outcome)


def _key_of_gold(task: Task) -> Key:
    return key_of(task.gold, "", task.policy)


def _verdict(status: Status, gold: str, reason: str, seconds: float) -> Verdict:
    return Verdict(status, SCORE_OF_STATUS[status], None, gold[:4000], reason, seconds)


def _bad_gold(task: Task, seconds: float) -> Verdict:
    reason = "the gold itself cannot be graded: against a trivial answer it ran over the limit or crashed"
    return replace(_verdict("bad_gold", task.gold, reason, seconds))
