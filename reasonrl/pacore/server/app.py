"""The application: routes, keys, limits, and clients that go away."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from reasonrl.endpoints import EndpointClient
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.server.answering import Answering
from reasonrl.pacore.server.asked import Asked, Offer, read_asked
from reasonrl.pacore.server.errors import ApiError
from reasonrl.pacore.server.gate import FairGate
from reasonrl.pacore.server.metrics import Metrics
from reasonrl.pacore.server.replies import Chunks, completion, event

PING_SECONDS = 15.0
"""A stream that is silent for so long is given a comment, so that nobody on the way takes it for dead."""

LET_GO_BYTES, LET_GO_SECONDS = 64 * 2**20, 5.0
"""How much of a body that is too large is still read, and for how long."""


@dataclass(frozen=True)
class Limits:
    """What the server lets in.

    Attributes:
        keys: of clients; none lets everybody in.
        max_body: bytes of a request.
        max_requests: under way at once; more are told to come back.
        upstream: calls at the upstream at once.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    max_body: int = 32 * 2**20
    max_requests: int = 1024
    upstream: int = 256


class Service:
    """What the routes share.

    Args:
        offer: models and plans.
        client: of the upstream; made here, used in the endpoints' loop alone.
        limits: what is let in.
    """

    def __init__(self, offer: Offer, client: EndpointClient, limits: Limits) -> None:
        self.offer, self.client, self.limits = offer, client, limits
        self.gate = FairGate(limits.upstream)
        self.metrics = Metrics(self.gate)
        self.under_way = 0
        self.created = int(time.time())

    def who(self, request: Request) -> str:
        """The client, by its key or its address.

        Raises:
            ApiError: 401.
        """
        if not self.limits.keys:
            return request.client.host if request.client is not None else ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        for key in self.limits.keys:
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
                return key
        raise ApiError(401, "no valid API key -> send it as `Authorization: Bearer KEY`", code="invalid_api_key")

    async def body(self, request: Request) -> Any:
        """The decoded body.

        Raises:
            ApiError: 413 beyond `max_body`, 400 for what is no JSON.
        """
        most = self.limits.max_body
        too_large = ApiError(413, f"the body is larger than {most} bytes -> send less", code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            await _let_go(request.stream())
            raise too_large
        parts, size = [], 0
        stream = request.stream()
        async for part in stream:
            size += len(part)
            if size > most:
                await _let_go(stream)
                raise too_large
            parts.append(part)
        try:
            return json.loads(b"".join(parts))
        except (ValueError, RecursionError) as problem:
            raise ApiError(400, f"the body is no JSON: {problem}", code="invalid_json") from None

    async def chat(self, request: Request) -> Response:
        """Answers a chat completion."""
        asked: Asked | None = None
        try:
            who = self.who(request)
            asked = read_asked(await self.body(request), self.offer)
            if self.under_way >= self.limits.max_requests:
                raise ApiError(
                    429, f"{self.under_way} requests are under way -> come back later", code="busy", retry_after=5
                )
            answering = Answering(asked, self.client, self.gate, self.metrics, who)
        except ApiError as problem:
            return self.refused(problem, asked.level if asked is not None else "none")
        except PacoreError as problem:
            return self.refused(ApiError(400, str(problem)), "none")
        return _Reply(self, asked, answering)

    def refused(self, problem: ApiError, level: str) -> Response:
        """An error as the API defines it."""
        self.metrics.requests.labels(level, str(problem.status)).inc()
        headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # A body that was not read to its end would be taken for the next request.
        if problem.status == 413:
            headers["Connection"] = "close"
        return JSONResponse(problem.body(), problem.status, headers)


async def _let_go(stream: AsyncIterator[bytes]) -> None:
    """Reads on, a little while: a client that is still sending would see a closed connection instead of the refusal."""
    left = LET_GO_BYTES
    with suppress(ClientDisconnect, TimeoutError):
        async with asyncio.timeout(LET_GO_SECONDS):
            async for part in stream:
                left -= len(part)
                if left < 0:
                    return


class _Reply(Response):
    """A reply that is worked out while it is sent, and given up when the client goes away."""

    def __init__(self, service: Service, asked: Asked, answering: Answering) -> None:
        self.service, self.asked, self.answering = service, asked, answering
        self.name = f"chatcmpl-{uuid.uuid4().hex}"
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics, began = self.service.metrics, time.monotonic()
        self.service.under_way += 1
        metrics.in_flight.inc()
        work = asyncio.ensure_future((self._stream if self.asked.stream else self._whole)(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                status = work.result()
                metrics.requests.labels(self.asked.level, str(status)).inc()
                metrics.seconds.labels(self.asked.level).observe(time.monotonic() - began)
            else:
                metrics.left.inc()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self.service.under_way -= 1
            metrics.in_flight.dec()

    async def _whole(self, send: Send) -> int:
        try:
            outcome, reasoning = await self.answering.whole()
        except ApiError as problem:
            await _send(send, problem.status, json.dumps(problem.body()).encode())
            return problem.status
        await _send(send, 200, completion(self.asked, outcome, reasoning, self.name))
        return 200

    async def _stream(self, send: Send) -> int:
        chunks, out = Chunks(self.asked, self.name), _EventStream(send)
        try:
            async with aclosing(self.answering.pieces()) as pieces, out:
                async for piece in pieces:
                    await out.send(chunks.piece(piece), first=chunks.first())
        except ApiError as problem:
            if not out.begun:
                await _send(send, problem.status, json.dumps(problem.body()).encode())
            else:
                await out.end(event(problem.body()))
            return problem.status
        outcome = self.answering.outcome
        assert outcome is not None
        await out.send(b"", first=chunks.first())
        await out.end(chunks.end(outcome))
        return 200


class _EventStream:
    """Sends events; where none comes for long, a comment. The head goes out with the first of either, so that what
    fails at once is still answered by its status.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self._spoken = False
        self._lock = asyncio.Lock()
        self._last = time.monotonic()

    async def send(self, data: bytes, first: bytes = b"") -> None:
        """Send an event, after `first` if none was sent before."""
        async with self._lock:
            if not self._spoken:
                data, self._spoken = first + data, True
            await self._out(data)

    async def end(self, data: bytes) -> None:
        """Send the last one."""
        await self._send({"type": "http.response.body", "body": data})

    async def _out(self, data: bytes) -> None:
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers.append((b"x-accel-buffering", b"no"))
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._last = time.monotonic()
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(max(self._last + PING_SECONDS - time.monotonic(), 0.01))
            if time.monotonic() - self._last >= PING_SECONDS:
                async with self._lock:
                    await self._out(b": still at work\n\n")

    async def __aenter__(self) -> _EventStream:
        self._pinging = asyncio.ensure_future(self._ping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pinging.cancel()
        await asyncio.gather(self._pinging, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def make_app(service: Service) -> FastAPI:
    """The application over a service."""
    app = FastAPI(title="reasonrl pacore", docs_url=None, redoc_url=None)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.chat(request)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return _with_key(service, request, lambda: _models(service))

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        def find() -> dict[str, Any]:
            for one in _models(service)["data"]:
                if one["id"] == name:
                    return one
            raise ApiError(404, f"there is no model {name!r}", param="model", code="model_not_found")

        return _with_key(service, request, find)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "requests": service.under_way, "waiting": service.gate.waiting})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def failed(request: Request, problem: Exception) -> Response:
        status = getattr(problem, "status_code", 500)
        words = {404: "there is no such path", 405: "this path does not take this method"}.get(status, "internal error")
        return service.refused(ApiError(status, words), "none")

    handler: Callable[[Request, Exception], Awaitable[Response]] = failed
    for status in (404, 405, 500):
        app.add_exception_handler(status, handler)
    return app


def _models(service: Service) -> dict[str, Any]:
    names = [*service.offer.names(), service.offer.model]
    data = [{"id": name, "object": "model", "created": service.created, "owned_by": "reasonrl"} for name in names]
    return {"object": "list", "data": data}


def _with_key(service: Service, request: Request, made: Callable[[], dict[str, Any]]) -> Response:
    try:
        service.who(request)
        return JSONResponse(made())
    except ApiError as problem:
        return service.refused(problem, "none")
