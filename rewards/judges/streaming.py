"""Asking a judge more questions than memory should hold: they are taken as there is room, answers come as they end."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from reasonrl.rewards.judges.asking import Answer, Question, Sampling, ask, first_request

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointClient
    from reasonrl.endpoints.request import Request

Keep = Callable[[Question, Answer], None]
_LOOK = 5.0
_GATHER = 0.01
"""Seconds for which answers are gathered before the caller's thread is woken: both threads share one interpreter lock,
and the loop should have it while replies and requests are under way."""


def stream_answers(
    client: EndpointClient, questions: Iterable[Question], sampling: Sampling, keep: Keep | None = None
) -> Iterator[tuple[Question, Answer]]:
    """Each question with its answer as it comes, in no order; for more questions than memory should hold.

    Questions are taken as there is room (twice the endpoint's `max_concurrency`; eight times with `keep`, whose callers
    write files between two answers). What is under way when the caller stops iterating is dropped. An error that ends
    it all is raised after what is under way has come: it is paid for.

    Args:
        client: whom to ask.
        questions: any iterable.
        sampling: of all of them.
        keep: called with each answer, in the thread of the endpoints' loop, before another question takes its place:
            at no moment are more than `max_concurrency` questions begun and not kept, which is what a kill can cost.

    Raises:
        EndpointSettingsError, BudgetSpent, Rejected: as `ask_all`.
    """
    concurrency = client.config.max_concurrency
    room = (8 if keep is not None else 2) * concurrency
    desk = _Desk(client, sampling, keep)
    running = client.start(desk.serve(concurrency))
    source, taken, more = iter(questions), 0, True
    try:
        while True:
            while more and taken < room and not desk.problems:
                if question := next(source, None):
                    taken += 1
                    desk.put(question)
                more = question is not None
            if desk.problems:
                taken -= desk.withdraw()
            if not taken:
                break
            for answered in desk.answered():
                taken -= 1
                if isinstance(answered, tuple):
                    yield answered
            if running.done() and (problem := running.exception()) is not None:
                raise problem
        if desk.problems:
            raise desk.problems[0]
    finally:
        running.cancel()


class _Desk:
    """Where the caller's thread puts questions, and as many workers as may ask at once take them, in the loop."""

    def __init__(self, client: EndpointClient, sampling: Sampling, keep: Keep | None) -> None:
        self.client, self.sampling, self.keep = client, sampling, keep
        self.waiting: deque[tuple[Question, Request]] = deque()
        self.problems: list[BaseException] = []
        """What ends it all; the first counts."""
        self._idle: deque[asyncio.Future[None]] = deque()
        self._ended: queue.SimpleQueue[list[tuple[Question, Answer] | None]] = queue.SimpleQueue()
        self._batch: list[tuple[Question, Answer] | None] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, question: Question) -> None:
        """From the caller's thread."""
        self.waiting.append((question, first_request(self.client, question, self.sampling)))
        # A worker says that it is idle before it looks for the last time, so none sleeps while a question waits.
        if self._idle and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def withdraw(self) -> int:
        """Take back what nobody has begun; how many those are. From the caller's thread."""
        count = 0
        while self.waiting:
            try:
                self.waiting.popleft()
            except IndexError:
                break
            count += 1
        return count

    def answered(self) -> list[tuple[Question, Answer] | None]:
        """What has ended since, after some waiting if nothing has; None for one without an answer."""
        try:
            return self._ended.get(timeout=_LOOK)
        except queue.Empty:
            return []

    async def serve(self, workers: int) -> None:
        """Answer until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(self._loop))

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            while self.problems or not self.waiting:
                news = loop.create_future()
                self._idle.append(news)
                if self.problems or not self.waiting:
                    await news
                else:
                    self._idle.remove(news)
            try:
                question, request = self.waiting.popleft()
            except IndexError:  # it was withdrawn
                continue
            try:
                answer = await ask(self.client, question, self.sampling, request)
                if self.keep is not None:
                    self.keep(question, answer)
            except Exception as problem:
                self.problems.append(problem)
                self._hand_over(None)
            else:
                self._hand_over((question, answer))

    def _wake(self) -> None:
        if self._idle and not (news := self._idle.popleft()).done():
            news.set_result(None)

    def _hand_over(self, outcome: tuple[Question, Answer] | None) -> None:
        self._batch.append(outcome)
        if len(self._batch) == 1:
            assert self._loop is not None
            self._loop.call_later(_GATHER, self._pass_on)

    def _pass_on(self) -> None:
        batch, self._batch = self._batch, []
        self._ended.put(batch)
