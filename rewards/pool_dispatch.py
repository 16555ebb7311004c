"""The thread of a pool that gives items to workers, takes verdicts, and watches the clock of every item.

Rules of blame. An item is blamed only if its worker's slot names it: for a timeout when its worker was killed for it,
for a crash when two workers died in it. Items that were given to the same worker and had not begun go back to the
front of the queue as they were.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.pool_process import Template, Worker
from reasonrl.rewards.pool_queue import TaskQueue, verdict_on
from reasonrl.rewards.pool_state import PoolSettings, Task
from reasonrl.rewards.pool_wire import BrokenFrame, verdict_of

TICK = 0.02
"""Seconds between two looks at the clocks while anything is in work."""
AHEAD = 0.03
"""Seconds of work that a worker is given ahead, so that it never waits for this thread."""
MOST_AHEAD = 256
GATHER = 0.008
"""Seconds this thread rests after verdicts came, while every worker has work: fewer wake-ups for the same items."""
LONG = 0.05
"""Seconds after which an item in work is taken for a long one."""
SILENCE = 30.0
"""Seconds that a worker may owe verdicts without having an item in work."""
FALSE_STARTS = 3
"""Workers that may end in a row without an item to blame."""
_NONSENSE = (BrokenFrame, TypeError, ValueError, LookupError)


class Dispatcher(threading.Thread):
    """See the module. Other threads use `queue`, `ring`, `stop` and, in a forked child, `forget`."""

    def __init__(self, settings: PoolSettings) -> None:
        super().__init__(name="reasonrl-pool", daemon=True)
        self.settings = settings
        self.queue = TaskQueue(settings, self.ring)
        self.target = settings.workers
        self._closing = False
        self._bell, self._waker = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._waker, False)
        self._bell_lock = threading.Lock()
        self._rung = False
        self._selector = selectors.DefaultSelector()
        self._template: Template | None = None
        self._workers: dict[int, Worker] = {}
        self._workers_made = 0
        self._items_given = 0
        self._mean_seconds = 0.01
        self._false_starts = 0
        self._next_look = 0.0

    # --- called by other threads ---

    def ring(self) -> None:
        """Wakes this thread."""
        if self._rung:  # it has not looked yet, and will
            return
        with self._bell_lock:
            if not self._rung:
                self._rung = True
                with contextlib.suppress(BlockingIOError):
                    os.write(self._waker, b"!")

    def stop(self, error: RewardError) -> None:
        """Ends everything; whoever waits gets the error. Returns when the processes are gone."""
        self.queue.fail(error)
        self._closing = True
        self.ring()
        if threading.current_thread() is not self:
            self.join()

    def forget(self) -> None:
        """In a forked child: closes what was inherited, so that processes here and there see the other end close."""
        self.queue.renew_locks()
        self._rung = True
        for worker in self._workers.values():
            worker.close()
        if self._template is not None:
            self._template.close()

    # --- the thread ---

    def run(self) -> None:
        """Until the pool is closed or cannot go on."""
        self.queue.worked_by = threading.get_ident()
        try:
            self._selector.register(self._bell, selectors.EVENT_READ, self._on_bell)
            self._start_template()
            while not self._closing:
                self._turn()
        except Exception as problem:  # a fault of ours must reach whoever waits, not end a thread in silence
            if not isinstance(problem, RewardError):
                problem = RewardError(f"the reward pool failed: {type(problem).__name__}: {problem}")
            self.queue.fail(problem)
        finally:
            self._end()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + TICK
            self._watch(now)
        self._hire()
        self._assign()
        if self.queue.deliver() and self._all_busy():
            time.sleep(GATHER)

    def _patience(self) -> float | None:
        unsettled = any(worker.dying or not worker.ready for worker in self._workers.values())
        template = self._template
        return TICK if self.queue.busy or unsettled or template is None or not template.ready else None

    def _all_busy(self) -> bool:
        working = [worker for worker in self._workers.values() if not worker.dying]
        return len(working) >= self.target and all(len(worker.assigned) > 1 for worker in working)

    def _on_bell(self) -> None:
        with self._bell_lock:
            self._rung = False
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 64)

    def _end(self) -> None:
        with self._bell_lock:
            self._rung = True  # nobody rings any more
            os.close(self._bell)
            os.close(self._waker)
        if self._template is not None:
            self._template.end()
        for worker in self._workers.values():
            worker.close()
        self._selector.close()
        self.queue.end()

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
        if not template.ready or self._false_starts >= FALSE_STARTS:
            raise self._no_start(f"its process ended with status {template.process.wait()}")
        self._false_starts += 1
        for worker in list(self._workers.values()):
            worker.excused = True
            self._bury(worker)
        self._selector.unregister(template.link)
        self._unregister(template.tail.descriptor)
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
            self._workers_made += 1
            try:
                worker = template.fork(self._workers_made)
            except ConnectionError:  # it was killed a moment ago: the selector says so next, and a new one is made
                return
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
                self._heard(worker, frame)
        except _NONSENSE:
            gone = True  # whatever it was doing has broken it
        if gone and not worker.dying:
            self._dismiss(worker)
        elif worker.unsent:
            worker.flush()
            self._listen(worker)

    def _heard(self, worker: Worker, frame: list[Any]) -> None:
        worker.heard = time.monotonic()
        if frame[0] == "ready":
            worker.ready = True
            return
        retire = self._settle(worker, frame)
        if (retire or worker.taken >= self.settings.max_items_per_worker) and not worker.dying:
            worker.excused = True
            self.queue.recorder.recycled += 1
            self._give_back(worker, worker.assigned)
            self._dismiss(worker)

    def _settle(self, worker: Worker, frame: list[Any]) -> bool:
        """Takes verdicts; whether the worker asks to be replaced."""
        results, worker.peak_kb, retire = frame
        self.queue.recorder.peak_kb = max(self.queue.recorder.peak_kb, worker.peak_kb)
        worker.taken += len(results)
        self._false_starts = 0
        for number, fields in results:
            verdict = verdict_of(fields)
            self._mean_seconds += 0.02 * (min(verdict.seconds, 0.1) - self._mean_seconds)
            task = worker.assigned.pop(number, None)
            if task is not None:
                self.queue.judge(task, verdict)
        return bool(retire)

    def _dismiss(self, worker: Worker) -> None:
        """Has a worker killed; it is buried when the template says how it ended."""
        assert self._template is not None
        worker.dying = True
        worker.measure()
        self._unregister(worker.link)
        self._template.kill(worker)

    def _bury(self, worker: Worker) -> None:
        """After a worker's end: takes what it still said, then settles what it owed."""
        worker.dying = True
        self._unregister(worker.link)
        worker.tail.read()
        with contextlib.suppress(*_NONSENSE):
            for frame in worker.receive()[0]:
                if frame[0] != "ready":
                    self._settle(worker, frame)
        running, start = worker.slot.running()
        culprit = worker.assigned.pop(running, None)
        self._give_back(worker, worker.assigned)
        seconds = time.monotonic() - start
        if worker.excused:
            self.queue.give_back([culprit] if culprit else [])
        elif culprit is not None and worker.killed_for == running:
            reason = f"it took longer than the limit of {self.settings.time_limit:g} s, and its worker was killed"
            self.queue.judge(culprit, verdict_on(culprit, "timeout", reason, seconds))
        elif culprit is not None and not worker.killed_for:
            self._crashed(worker, culprit, seconds)
        elif not worker.killed_for:
            self._false_start(worker)
        self._unregister(worker.tail.descriptor)
        self.queue.recorder.peak_kb = max(self.queue.recorder.peak_kb, worker.peak_kb)
        del self._workers[worker.number]
        worker.close()

    def _crashed(self, worker: Worker, culprit: Task, seconds: float) -> None:
        self.queue.recorder.crashes += 1
        culprit.crashes += 1
        if culprit.crashes < 2:  # what an earlier item left behind may have killed it
            self.queue.recorder.retries += 1
            self.queue.give_back([culprit])
        else:
            reason = f"two workers ended in it; the last {worker.how_it_ended()}"
            self.queue.judge(culprit, verdict_on(culprit, "crash", reason, seconds))

    def _false_start(self, worker: Worker) -> None:
        """A worker ended by itself without an item in work; after some in a row it is no accident."""
        self._false_starts += 1
        self.queue.recorder.crashes += 1
        if self._false_starts >= FALSE_STARTS:
            raise RewardError(
                f"the reward pool cannot keep a worker for {self.settings.grader!r}: the last one"
                f" {worker.how_it_ended()} -> is memory_limit_mb = {self.settings.memory_limit_mb} enough to load the"
                " grader?"
            )

    def _give_back(self, worker: Worker, numbers: Iterable[int]) -> None:
        """Puts items that a worker has been given back in front of the queue."""
        self.queue.give_back([worker.assigned.pop(number) for number in list(numbers)])

    def _listen(self, worker: Worker) -> None:
        """Waits for what the worker says, and for room in its socket while there is more to send."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
        if self._selector.get_key(worker.link).events != wanted:
            self._selector.modify(worker.link, wanted, partial(self._on_worker, worker))

    def _unregister(self, file: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):  # it has been before
            self._selector.unregister(file)

    # --- clocks ---

    def _watch(self, now: float) -> None:
        assert self._template is not None
        limit = self.settings.kill_after
        for worker in list(self._workers.values()):
            if worker.dying:
                self._template.kill(worker)  # again: the first time its queue may have been full
                continue
            running, start = worker.slot.running()
            if not running:
                if worker.assigned and now - worker.heard > SILENCE:
                    worker.excused = True
                    self._dismiss(worker)
                continue
            age = now - start
            if age > LONG:
                worker.look(running)
                self._relieve(worker, running)
            if age > limit and not (age < 3 * limit and worker.starved(running, limit)):
                worker.killed_for = running
                self.queue.recorder.kills += 1
                self._dismiss(worker)

    def _relieve(self, worker: Worker, running: int) -> None:
        """Frees the items around one that takes long: those before it, whose verdicts the worker holds, and those
        behind it if somebody is idle.
        """
        self._give_back(worker, [number for number in worker.assigned if number < running])
        behind = [number for number in worker.assigned if number > running]
        others = (other for other in self._workers.values() if other is not worker)
        idle = any(other.ready and not other.dying and not other.assigned for other in others)
        if behind and idle and not len(self.queue):
            worker.slot.skip(behind[-1])
            self._give_back(worker, behind)

    # --- items ---

    def _assign(self) -> None:
        """Gives every worker enough to last until this thread's next turns, the emptiest first."""
        workers = [worker for worker in self._workers.values() if worker.ready and not worker.dying]
        depth = max(1, min(MOST_AHEAD, int(AHEAD / self._mean_seconds)))
        # Near the end of a batch little is given at once, so that the workers end together.
        share = max(1, min(depth, len(self.queue) // max(1, 2 * len(workers))))
        for worker in sorted(workers, key=lambda worker: len(worker.assigned)):
            left = self.settings.max_items_per_worker - worker.taken - len(worker.assigned)
            if left > 0 and len(worker.assigned) <= depth // 2 and not worker.unsent and len(self.queue):
                self._give(worker, self.queue.take(min(share, left)))

    def _give(self, worker: Worker, tasks: list[Task]) -> None:
        if not worker.assigned:
            worker.heard = time.monotonic()
        items = []
        for task in tasks:
            self._items_given += 1
            worker.assigned[self._items_given] = task
            items.append([self._items_given, task.gold, task.response, task.policy])
        if items:
            worker.send(items)
            self._listen(worker)
