"""A real HTTP server in its own thread that answers as a test tells it to, well or badly."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Act:
    """What the server does with one request: waits, then answers, drops the connection halfway, or hangs."""

    text: str = "ok"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float = 0.0
    drop: bool = False
    hang: bool = False
    choices: int | None = None
    usage: bool = True


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float

    @property
    def prompt(self) -> str:
        """The text of the user's last turn, or of the prompt."""
        return self.body["messages"][-1]["content"] if "messages" in self.body else str(self.body["prompt"])


def answer(act: Act, seen: Seen) -> str:
    """A body of the API with `act.text` in every choice."""
    count = act.choices if act.choices is not None else seen.body.get("n", 1)
    chat = "messages" in seen.body
    ids = {"token_ids": [7, 8, 9], "prompt_token_ids": [1, 2]} if seen.body.get("return_token_ids") else {}
    logprobs = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    choices = []
    for index in range(count):
        item: dict[str, Any] = {"index": index, "finish_reason": "stop", **ids}
        item |= {"message": {"role": "assistant", "content": act.text}} if chat else {"text": act.text}
        if seen.body.get("logprobs") is not None:
            item["logprobs"] = {"content": logprobs} if chat else {"token_logprobs": [-0.5, -1.5]}
        choices.append(item)
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}} if act.usage else {}
    return json.dumps({"id": "x", "model": seen.body["model"], "choices": choices, **usage})


class ScriptedServer:
    """`script` gives the act for a request and its number, counted from 0. Use it in a `with`."""

    def __init__(self, script: Callable[[Seen, int], Act] = lambda seen, number: Act(), port: int = 0) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.now = self.most = self.left = 0
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        """The base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        assert self._ready.wait(10), "the server did not start"
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        seen = Seen(request.path, body, dict(request.headers), time.monotonic())
        number = len(self.seen)
        self.seen.append(seen)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            act = self.script(seen, number)
            await asyncio.sleep(3600 if act.hang else act.seconds)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.now -= 1
        text = act.body if act.body is not None else answer(act, seen)
        if act.drop:
            half = web.StreamResponse(headers={"Content-Length": str(len(text)), "Content-Type": "application/json"})
            await half.prepare(request)
            await half.write(text[: len(text) // 2].encode())
            assert request.transport is not None
            request.transport.abort()
            return half
        return web.Response(text=text, status=act.status, headers=act.headers, content_type="application/json")
