"""The client of OpenAI-compatible servers: asynchronous inside, with a synchronous face."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

from reasonrl.endpoints.calls import Calls
from reasonrl.endpoints.config import EndpointConfig
from reasonrl.endpoints.errors import EndpointError
from reasonrl.endpoints.loop import BackgroundLoop, background_loop
from reasonrl.endpoints.meter import EndpointCounters, Meter
from reasonrl.endpoints.reply import Reply
from reasonrl.endpoints.request import Request

Outcome = Reply | EndpointError
Result = TypeVar("Result")


@dataclass
class _Open:
    """A client's connections and the loop that they belong to."""

    loop: BackgroundLoop
    process: int
    calls: Calls | None = None

    async def close(self) -> None:
        calls, self.calls = self.calls, None
        if calls is not None:
            self.loop.open.discard(calls)
            await calls.close()


def _let_go(held: _Open) -> None:
    """A client that nobody holds any more closes its connections, in their own loop."""
    if held.calls is not None and held.process == os.getpid() and held.loop.thread.is_alive():
        held.loop.submit(held.close())


class EndpointClient:
    """Asks the servers of one `EndpointConfig`, from any thread and any event loop.

    All its requests run in one background event loop of the process, so that concurrency, pace and budget hold over all
    callers. Connections are made at the first request, again after unpickling (only the settings travel, counters start
    at 0), and again in a forked process. Every wait ends: a request after `timeout`, a call after `call_timeout` from
    when its turn has come, or after its own `deadline`.

    Args:
        config: settings, or a mapping of them.

    Errors of a call are those of `endpoints.errors`.
    """

    def __init__(self, config: EndpointConfig | Mapping[str, Any]) -> None:
        self.config = EndpointConfig.of(config)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._meter = Meter(self.config.price, self.config.budget)
        self._held: _Open | None = None

    async def asend(self, request: Request, *, deadline: float | None = None) -> Reply:
        """Ask, from any event loop; cancelling it drops the request, at the server too.

        Args:
            request: made by `chat` or `completion`.
            deadline: seconds from now to the reply, waiting for its turn included.
        """
        if asyncio.get_running_loop() is self._here().loop:
            return await self._send(request, deadline)  # no thread has to be woken
        return await asyncio.wrap_future(self.submit(request, deadline=deadline))

    def submit(self, request: Request, *, deadline: float | None = None) -> concurrent.futures.Future[Reply]:
        """Ask without waiting; the future raises the call's error, and cancelling it drops the request."""
        return self._here().submit(self._send(request, deadline))

    def send(self, request: Request, *, deadline: float | None = None) -> Reply:
        """Ask and wait."""
        future = self.submit(request, deadline=deadline)
        return self._here().wait(future)

    def start(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Start a coroutine in the endpoints' loop without waiting for it."""
        return self._here().submit(work)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine, such as one that awaits `asend` many times, in the endpoints' loop, and wait for it."""
        loop = self._here()
        return loop.wait(loop.submit(work))

    def stream(self, requests: Iterable[Request], *, window: int | None = None) -> Iterator[tuple[int, Outcome]]:
        """Ask many: (place, reply or error) as each one ends, in no order.

        Requests are taken from the iterable as there is room, so that it may be endless. What is under way when the
        caller stops iterating is dropped.

        Args:
            requests: any iterable.
            window: calls begun and not yet handed over; twice `max_concurrency` if None.
        """
        room = window if window is not None else 2 * self.config.max_concurrency
        waiting: dict[concurrent.futures.Future[Reply], int] = {}
        source = enumerate(requests)
        try:
            while True:
                while len(waiting) < room and (item := next(source, None)) is not None:
                    waiting[self.submit(item[1])] = item[0]
                if not waiting:
                    return
                loop = self._here()
                done, _ = concurrent.futures.wait(waiting, 5.0, concurrent.futures.FIRST_COMPLETED)
                if not done and not loop.thread.is_alive():
                    raise EndpointError("endpoint: the thread of the event loop is gone -> was the process shut down?")
                for future in done:
                    yield waiting.pop(future), _outcome(future)
        finally:
            for future in waiting:
                future.cancel()

    def map(self, requests: Iterable[Request], *, errors: str = "raise") -> list[Outcome]:
        """Ask many and wait for all; the outcomes in the order of the requests.

        Args:
            requests: finite.
            errors: `raise` the first one that comes up, or `return` each in its place.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f"errors={errors!r} -> 'raise' or 'return'")
        found: dict[int, Outcome] = {}
        for place, outcome in self.stream(requests):
            if isinstance(outcome, EndpointError) and errors == "raise":
                raise outcome
            found[place] = outcome
        return [found[place] for place in range(len(found))]

    def counters(self) -> EndpointCounters:
        """What this client has used up in this process."""
        if self._process != os.getpid():
            return Meter(self.config.price, self.config.budget).snapshot()
        return self._meter.snapshot()

    def close(self) -> None:
        """Close connections and cache; the next call opens them again."""
        held = self._held
        if held is not None and held.process == os.getpid() and held.loop.thread.is_alive():
            held.loop.wait(held.loop.submit(held.close()))

    def __enter__(self) -> EndpointClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = state["config"]
        self._forget()

    def __repr__(self) -> str:
        return f"EndpointClient(model={self.config.model!r}, base_url={', '.join(self.config.base_url)})"

    def _here(self) -> BackgroundLoop:
        """This process's loop; what a parent left in this client is not touched."""
        if self._process != os.getpid():
            self._forget()
        return background_loop()

    async def astream(self, request: Request) -> AsyncIterator[Mapping[str, Any]]:
        """Ask with `stream` and yield the events of the reply; only in the endpoints' own loop (`run`, `start`).

        A failing server is left for another until the first event has come; a fault after that is raised, since what
        was handed over cannot be taken back. Close the generator (`contextlib.aclosing`) to drop the request.

        Raises:
            EndpointError: called in another loop, or as `asend`.
        """
        if asyncio.get_running_loop() is not self._here().loop:
            raise EndpointError("endpoint: a stream is read in the endpoints' own event loop -> await it under run()")
        options = {"include_usage": True, **(request.body.get("stream_options") or {})}
        body = {**request.body, "stream": True, "stream_options": options}
        async with aclosing(self._calls().stream(replace(request, body=body))) as events:
            async for event in events:
                yield event

    async def _send(self, request: Request, deadline: float | None) -> Reply:
        return await self._calls().call(request, deadline)

    def _calls(self) -> Calls:
        # Runs in the loop's thread alone, so this needs no lock.
        if self._held is None or self._held.loop.loop is not asyncio.get_running_loop():
            self._held = _Open(background_loop(), os.getpid())
            weakref.finalize(self, _let_go, self._held).atexit = False
        if self._held.calls is None:
            self._held.calls = Calls(self.config, self._meter)
            self._held.loop.open.add(self._held.calls)
        return self._held.calls


def _outcome(future: concurrent.futures.Future[Reply]) -> Outcome:
    problem = future.exception()
    if problem is None:
        return future.result()
    if isinstance(problem, EndpointError):
        return problem
    raise problem
