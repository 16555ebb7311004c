"""Rewards that begin with a sample before its batch is whole.

A trainer draws a batch sample by sample, and calls the rewards once it has all of them. A reward that works elsewhere
(in worker processes, in a sandbox, at an endpoint) can use the time between: it has a method

    begin(prompt, completion, row) -> None

which starts the work on one sample and returns without waiting. `row` holds what the call's columns will hold for this
sample: the data set's columns, `finish_reason` and `completion_ids`. The call then finds the work done or under way.
`begin` promises nothing: a sample may come without it, more often than once (equal texts), or never be asked for, and
what the call gives is the same with it and without. It may come from another thread than the call.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")
MOST = 100_000
"""Results kept for calls that may never come."""
_IDLE = 5.0


class EarlyReward(Protocol):
    """A reward with `begin`; see the module."""

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Start the work on one sample."""
        ...


def can_begin(reward: Any) -> bool:
    """Whether a reward has a `begin`."""
    return callable(getattr(reward, "begin", None))


def begin(reward: Any, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
    """Start a reward's work on one sample, if it can."""
    if can_begin(reward):
        reward.begin(prompt, completion, row)


def drop(reward: Any, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
    """Give up what `begin` began about one sample, in a reward and in its parts: it will not be asked for."""
    own = getattr(reward, "drop", None)
    if callable(own):
        own(prompt, completion, row)
    for part in parts_inside(reward):
        drop(part, prompt, completion, row)


def forget(reward: Any) -> None:
    """Give up what was begun and not taken, in a reward and in its parts: nobody will ask for it any more."""
    own = getattr(reward, "forget", None)
    if callable(own):
        own()
    for part in parts_inside(reward):
        forget(part)


def parts_inside(reward: Any) -> list[Any]:
    """The rewards that a reward is made of."""
    inside = [getattr(reward, "function", None), getattr(reward, "part", None), *getattr(reward, "parts", ())]
    inside += [part for part, _ in getattr(reward, "items", ())]
    inside += list(getattr(reward, "rewards", {}).values())
    return [part for part in inside if part is not None]


def wants_whole_batch(reward: Any) -> bool:
    """Whether a reward, or a part of it, says `whole_batch = True`: it compares all samples of a call."""
    if getattr(reward, "whole_batch", False):
        return True
    return any(wants_whole_batch(part) for part in parts_inside(reward))


def instant_score(reward: Any, prompt: Any, completion: Any, row: Mapping[str, Any]) -> float | None:
    """The score of one sample by a reward that says `instant = True`: it takes next to no time and depends on nothing
    but its arguments, so that asking twice is as good as once.
    """
    columns = {key: [value] for key, value in row.items()}
    scores: Sequence[float | None] = reward(prompts=[prompt], completions=[completion], **columns)
    return scores[0]


class Begun(Generic[Result]):
    """Results on their way, by what they are about, until a call takes them. Each is taken once: who begins the same
    twice gets it twice.

    It pickles empty, and is empty in a fork: what was begun belongs to the process that began it.

    Attributes:
        since: what the owner noted when the first of those here was begun; None when nothing is.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, deque[Future[Result]]] = OrderedDict()
        self._count = 0
        self._since: Any = None

    def put(self, key: Hashable, future: Future[Result]) -> None:
        """Keep a result; beyond `MOST` the oldest is given up."""
        self._here()
        with self._lock:
            self._kept.setdefault(key, deque()).append(future)
            self._count += 1
            given_up = self._pop(next(iter(self._kept))) if self._count > MOST else None
        if given_up is not None:
            given_up.cancel()

    def take(self, key: Hashable) -> Future[Result] | None:
        """A result that was begun; None if there is none."""
        self._here()
        with self._lock:
            return self._pop(key) if key in self._kept else None

    def __len__(self) -> int:
        self._here()
        return self._count

    def clear(self) -> None:
        """Give up all of them: what has not begun does not, and what runs is left alone."""
        self._here()
        with self._lock:
            given_up = [future for waiting in self._kept.values() for future in waiting]
            self._kept.clear()
            self._count, self._since = 0, None
        for future in given_up:
            future.cancel()

    @property
    def since(self) -> Any:
        self._here()
        return self._since

    @since.setter
    def since(self, value: Any) -> None:
        self._here()
        self._since = value

    def _pop(self, key: Hashable) -> Future[Result]:
        waiting = self._kept[key]
        future = waiting.popleft()
        if not waiting:
            del self._kept[key]
        self._count -= 1
        return future

    def _here(self) -> None:
        if self._process != os.getpid():
            self._forget()

    def __reduce__(self) -> Any:
        return type(self), ()


class Hands:
    """A few daemon threads: work left in them does not hold up the end of the process. Pickles without its work.

    Args:
        count: threads; started as they are needed, ended when there was nothing to do for some seconds.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count, self.name = count, name
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Have the work done; a future of what comes of it, which may be cancelled until it is begun."""
        if self._process != os.getpid():
            self._forget()
        future: Future[Result] = Future()
        self._work.put((future, work))
        with self._lock:
            self._open += 1
            if self._threads < min(self.count, self._open):
                self._threads += 1
                threading.Thread(target=self._run, name=self.name, daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            try:
                future, work = self._work.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if not self._work.empty():  # it came this moment
                        continue
                    self._threads -= 1
                    return
            _do(future, work)
            with self._lock:
                self._open -= 1
            del future, work  # not kept alive by an idle thread

    def __reduce__(self) -> Any:
        return type(self), (self.count, self.name)


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as problem:  # whoever waits for it is told
        future.set_exception(problem)
    else:
        future.set_result(result)
