"""A simulated model server as a process of its own: what it answers depends on messages and seed alone.

python upstream.py          # prints its port; settings by POST /control, counts by GET /stats
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

WORDS = ["so", "the", "sum", "of", "both", "is", "odd", "while", "each", "half", "stays", "even", "and", "a", "step"]
DEFAULTS: dict[str, Any] = {
    "seconds": 0.0,  # of an answer
    "jitter": 0.0,  # further seconds, by seed
    "fail": 0.0,  # share of calls that fail, by seed
    "status": 500,
    "hang": False,
    "style": "tags",  # tags, plain, split (thinking apart from the answer)
    "window": None,  # characters of messages
    "die_after": None,  # chunks of a stream, then the connection is dropped
    "chunk_seconds": 0.0,
}


def digest_of(body: dict[str, Any]) -> int:
    """What the answer is made of."""
    said = json.dumps([body["messages"], body.get("seed"), body.get("temperature")], sort_keys=True)
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")


def spoken(body: dict[str, Any], style: str) -> tuple[str, str | None]:
    """(text, thinking taken apart) of an answer."""
    digest = digest_of(body)
    thinking = " ".join(WORDS[(digest >> shift) % len(WORDS)] for shift in range(0, 12 + digest % 20))
    answer = f"The answer is {digest % 9973}." + " It is checked." * (digest % 3)
    stop = body.get("stop")
    for word in [stop] if isinstance(stop, str) else stop or []:
        answer = answer.split(word)[0]
    if style == "split":
        return answer, thinking
    return (f"<think>{thinking}</think>{answer}" if style == "tags" else answer), None


async def serve() -> None:
    """Serve until killed."""
    from aiohttp import web

    settings = dict(DEFAULTS)
    stats = {"seen": 0, "now": 0, "most": 0, "left": 0, "answered": 0}
    bodies: list[dict[str, Any]] = []

    async def control(request: web.Request) -> web.Response:
        settings.update(DEFAULTS)
        settings.update(await request.json())
        stats.update(dict.fromkeys(stats, 0))
        bodies.clear()
        return web.json_response(settings)

    async def told(request: web.Request) -> web.Response:
        return web.json_response({**stats, "bodies": bodies[-200:]})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "toy", "object": "model", "max_model_len": 4096}]})

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        stats["seen"] += 1
        stats["now"] += 1
        stats["most"] = max(stats["most"], stats["now"])
        if len(bodies) < 2000:
            bodies.append(body)
        try:
            reply = await answer(request, body)
            stats["answered"] += 1
            return reply
        except (asyncio.CancelledError, ConnectionError):
            stats["left"] += 1
            raise
        finally:
            stats["now"] -= 1

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        digest = digest_of(body)
        if settings["hang"]:
            await asyncio.sleep(3600)
        await asyncio.sleep(settings["seconds"] + settings["jitter"] * (digest % 1000) / 1000)
        size = len(json.dumps(body["messages"]))
        if settings["window"] is not None and size > settings["window"]:
            message = f"This model's maximum context length is {settings['window']} characters, not {size}"
            return web.json_response({"error": {"message": message, "type": "BadRequestError"}}, status=400)
        if (digest >> 10) % 1000 < 1000 * settings["fail"]:
            return web.json_response({"error": {"message": "made to fail"}}, status=settings["status"])
        text, thinking = spoken(body, settings["style"])
        tokens = len(text.split()) + len((thinking or "").split())
        usage = {"prompt_tokens": size // 4, "completion_tokens": tokens, "total_tokens": size // 4 + tokens}
        finish = "stop"
        if body.get("max_tokens") is not None and tokens > body["max_tokens"]:
            text, finish = " ".join(text.split()[: body["max_tokens"]]), "length"
            usage["completion_tokens"] = body["max_tokens"]
        if body.get("stream"):
            return await stream(request, body, text, thinking, usage, finish)
        message = {"role": "assistant", "content": text, "reasoning_content": thinking}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return web.json_response({"id": "x", "model": body["model"], "choices": [choice], "usage": usage})

    async def stream(
        request: web.Request, body: dict[str, Any], text: str, thinking: str | None, usage: Any, finish: str
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)

        async def send(delta: dict[str, Any], reason: str | None = None) -> None:
            one = {
                "id": "x",
                "model": body["model"],
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            }
            await reply.write(f"data: {json.dumps(one)}\n\n".encode())

        await send({"role": "assistant"})
        pieces = [{"reasoning_content": (thinking or "")[i : i + 5]} for i in range(0, len(thinking or ""), 5)]
        pieces += [{"content": text[i : i + 5]} for i in range(0, len(text), 5)]
        for count, piece in enumerate(pieces):
            if settings["die_after"] is not None and count >= settings["die_after"]:
                assert request.transport is not None
                request.transport.abort()
                return reply
            await send(piece)
            if settings["chunk_seconds"]:
                await asyncio.sleep(settings["chunk_seconds"])
        await send({}, finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            last = {"id": "x", "model": body["model"], "choices": [], "usage": usage}
            await reply.write(f"data: {json.dumps(last)}\n\n".encode())
        await reply.write(b"data: [DONE]\n\n")
        return reply

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/control", control)
    app.router.add_get("/stats", told)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(3600)


class Upstream:
    """The process; use it in a `with`."""

    def __init__(self, port: int = 0) -> None:
        self.port = port

    def __enter__(self) -> Upstream:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        """The base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def set(self, **settings: Any) -> None:
        """New settings; the others go back to their defaults, counts to 0."""
        data = json.dumps(settings).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{self.port}/control", data, headers), timeout=10
        ).read()

    def stats(self) -> dict[str, Any]:
        """Counts since the last `set`."""
        return json.loads(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10).read())


if __name__ == "__main__":
    asyncio.run(serve())
