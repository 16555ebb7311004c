"""One call: its turn, its requests, its retries. Runs in one event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from reasonrl.endpoints.cache import ReplyCache
from reasonrl.endpoints.config import EndpointConfig
from reasonrl.endpoints.errors import BadReply, DeadlinePassed, EndpointError, Rejected
from reasonrl.endpoints.meter import Meter
from reasonrl.endpoints.reply import Reply, read_reply
from reasonrl.endpoints.request import Request
from reasonrl.endpoints.servers import Pace, Server, Servers
from reasonrl.endpoints.transport import Transport

_log = logging.getLogger(__name__)
_BLAMELESS = (408, 409, 425, 429)
"""Statuses that may be retried and yet do not say that the server is ill."""


class Calls:
    """The state of one client in one event loop."""

    def __init__(self, config: EndpointConfig, meter: Meter) -> None:
        self.loop = asyncio.get_running_loop()
        self.config = config
        self.meter = meter
        self.transport = Transport(config)
        self.servers = Servers(config.base_url)
        self.pace = Pace(config.requests_per_minute)
        self.turn = asyncio.Semaphore(config.max_concurrency)
        self.cache = ReplyCache(config.cache) if config.cache is not None else None

    async def call(self, request: Request, deadline: float | None) -> Reply:
        """The reply to one request, from the cache or a server.

        Args:
            request: what is asked.
            deadline: seconds from now, waiting for a turn included; None for the settings' limits alone.
        """
        key = request.key(self.config.model, self.config.extra_body) if self.cache is not None else ""
        if self.cache is not None and (kept := self.cache.get(key)) is not None:
            self.meter.cached += 1
            return read_reply(kept, request)
        answered = False
        progress, whole = _Progress(), asyncio.timeout(deadline)
        try:
            async with whole, self.turn:
                self.meter.check()
                await self._pace()
                limit = asyncio.timeout(self.config.call_timeout)
                async with limit:
                    reply = await self._requests(request, key, limit.when() or float("inf"), progress)
            answered = True
            return reply
        except TimeoutError:
            name = "deadline" if whole.expired() else "call_timeout"
            seconds = deadline if whole.expired() else self.config.call_timeout
            raise DeadlinePassed(
                f"endpoint {self.config.base_url[0]}: no reply within {name}={seconds} s, {progress} -> raise {name},"
                " or lower max_concurrency"
            ) from None
        finally:
            if answered:
                self.meter.replies += 1
            else:
                self.meter.failures += 1

    async def close(self) -> None:
        """Close connections and the cache."""
        await self.transport.close()
        if self.cache is not None:
            self.cache.close()

    async def _requests(self, request: Request, key: str, until: float, progress: _Progress) -> Reply:
        while True:
            server = await self._server(until, progress)
            if progress.requests:
                await self._pace()
                self.meter.retries += 1
            self.meter.spend_request()
            progress.requests += 1
            try:
                return await self._one(server, request, key)
            except EndpointError as problem:
                await self._or_again(problem, server, progress)

    async def _or_again(self, problem: EndpointError, server: Server, progress: _Progress) -> None:
        """Wait until it is worth asking again, or raise the problem."""
        if not problem.retry or progress.requests > self.config.max_retries:
            if progress.requests > 1:
                problem.args = (f"{problem} ({progress.requests} requests)", *problem.args[1:])
            raise problem
        progress.last, progress.failed = str(problem), server
        await asyncio.sleep(self._pause(progress.requests))

    async def stream(self, request: Request) -> AsyncGenerator[Mapping[str, Any]]:
        """The events of one request with `stream`, never from the cache.

        Until the first event it is asked again like any other; a fault after that is raised.
        """
        answered, progress = False, _Progress()
        try:
            async with self.turn:
                self.meter.check()
                await self._pace()
                until = self.loop.time() + self.config.call_timeout
                while not answered:
                    server = await self._server(until, progress)
                    if progress.requests:
                        await self._pace()
                        self.meter.retries += 1
                    self.meter.spend_request()
                    progress.requests += 1
                    began = False
                    try:
                        async with aclosing(self._events(server, request)) as events:
                            async for event in events:
                                began = True
                                yield event
                        answered = True
                    except EndpointError as problem:
                        if began:
                            raise
                        await self._or_again(problem, server, progress)
        finally:
            if answered:
                self.meter.replies += 1
            else:
                self.meter.failures += 1

    async def _events(self, server: Server, request: Request) -> AsyncGenerator[Mapping[str, Any]]:
        started = self.loop.time()
        body = request.written(self.config.model, self.config.extra_body)
        server.in_flight += 1
        server.asked += 1
        usage: Any = None
        try:
            async for event in self.transport.events(server.url, request.path, body):
                usage = event.get("usage") or usage
                yield event
        except EndpointError as problem:
            self._note_fault(server, problem, started)
            raise
        finally:
            server.in_flight -= 1
        self.servers.succeeded(server, self.loop.time())
        self.meter.add_usage(usage, self.loop.time() - started)

    async def _pace(self) -> None:
        if (wait := self.pace.turn(self.loop.time())) > 0:
            await asyncio.sleep(wait)

    def _pause(self, requests: int) -> float:
        """Seconds after this many failed requests of a call; another server is asked at once, and idles not."""
        rounds, rest = divmod(requests, len(self.config.base_url))
        if rest:
            return 0.0
        return min(self.config.backoff * 2.0 ** (rounds - 1), self.config.max_backoff) * random.uniform(0.5, 1.0)

    async def _server(self, until: float, progress: _Progress) -> Server:
        while True:
            server, wait = self.servers.pick(self.loop.time(), progress.failed)
            if wait <= 0:
                return server
            if self.loop.time() + wait > until:
                raise DeadlinePassed(
                    f"endpoint {server.url}: it may be asked again in {wait:.0f} s, after call_timeout"
                    f" ({progress}) -> raise call_timeout, or come back later"
                )
            await asyncio.sleep(wait + random.uniform(0, 0.1 * wait))

    async def _one(self, server: Server, request: Request, key: str) -> Reply:
        started = self.loop.time()
        body = request.written(self.config.model, self.config.extra_body)
        server.in_flight += 1
        server.asked += 1
        try:
            got = await self.transport.post(server.url, request.path, body)
            now = self.loop.time()
            try:
                reply = read_reply(got.data, request, server.url, now - started)
            except (ValueError, TypeError, KeyError, AttributeError) as problem:
                raise BadReply(
                    f"endpoint {server.url}/{request.path}: status 200, but the reply is not the API's: {problem}:"
                    f" {got.text[:300]!r} -> does base_url lead to an OpenAI-compatible server?"
                ) from None
        except EndpointError as problem:
            self._note_fault(server, problem, started)
            raise
        finally:
            server.in_flight -= 1
        self.servers.succeeded(server, now)
        self.meter.add(reply)
        if self.cache is not None:
            self._keep(self.cache, key, request, got.text)
        return reply

    def _note_fault(self, server: Server, problem: EndpointError, started: float) -> None:
        now = self.loop.time()
        if isinstance(problem, BadReply):
            self.meter.bad_replies += 1
        if problem.retry_after is not None and problem.retry:
            self.servers.leave_alone(server, now + problem.retry_after)
        elif problem.retry and not (isinstance(problem, Rejected) and problem.status in _BLAMELESS):
            self.servers.failed(server, started, now)

    def _keep(self, cache: ReplyCache, key: str, request: Request, text: str) -> None:
        body = request.whole_body(self.config.model, self.config.extra_body)
        try:
            cache.put(key, request.path, body, text)
        except sqlite3.Error as problem:  # the reply itself is not lost: it is counted and handed on
            if not self.meter.not_stored:
                _log.warning("endpoint cache %s: a reply could not be stored: %s", cache.path, problem)
            self.meter.not_stored += 1


class _Progress:
    """How far a call has come, for the message if it runs out of time."""

    def __init__(self) -> None:
        self.requests = 0
        self.last = ""
        self.failed: Server | None = None

    def __str__(self) -> str:
        if not self.requests:
            return "and no request was sent: it waited for its turn"
        return f"{self.requests} requests sent" + (f", the last failure: {self.last}" if self.last else "")
