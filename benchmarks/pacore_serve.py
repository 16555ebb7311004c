"""The PaCoRe server in front of a simulated model server: what it adds to the critical path, what an upstream call
costs it, and how soon the calls of a client that leaves are free.

    python benchmarks/pacore_serve.py                    # 64 clients; upstream of 2 s, then of 50 ms
    python benchmarks/pacore_serve.py --level high       # rounds [32, 4]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

ROUNDS = {"low": (4,), "medium": (16,), "high": (32, 4)}
TEXT = f"<think>{'one thought after another, ' * 60}</think>{'It follows that the sum is even. ' * 20}The answer is 42."


def upstream(port: Any, seconds: float) -> None:
    """The model server, in a process of its own; `GET /now` says how many calls are under way."""
    import json

    from aiohttp import web

    now = 0
    choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}]
    usage = {"prompt_tokens": 500, "completion_tokens": 400}
    reply = json.dumps({"id": "x", "model": "toy", "choices": choices, "usage": usage}).encode()

    async def chat(request: web.Request) -> web.Response:
        nonlocal now
        await request.read()
        now += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            now -= 1
        return web.Response(body=reply, content_type="application/json")

    async def told(request: web.Request) -> web.Response:
        return web.json_response(now)

    async def run() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", chat)
        app.router.add_get("/now", told)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
        port.send(runner.addresses[0][1])
        await asyncio.sleep(3600)

    asyncio.run(run())


async def asked(url: str, clients: int, level: str, turns: int) -> list[float]:
    """Seconds of every request, each client asking one after another."""
    import aiohttp

    body = {"model": f"toy-pacore-{level}", "messages": [{"role": "user", "content": "What is 6 * 7?" * 20}], "seed": 1}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> list[float]:
            took = []
            for _ in range(turns):
                began = time.perf_counter()
                async with session.post(f"{url}/chat/completions", json=body) as reply:
                    assert reply.status == 200, await reply.text()
                    assert (await reply.json())["choices"][0]["message"]["content"].endswith("42.")
                took.append(time.perf_counter() - began)
            return took

        return [seconds for some in await asyncio.gather(*(one() for _ in range(clients))) for seconds in some]


async def left(url: str, port: int) -> float:
    """Seconds from a client's leaving until the upstream has none of its calls."""
    import aiohttp

    body = {"model": "toy-pacore-medium", "messages": [{"role": "user", "content": "?"}]}
    async with aiohttp.ClientSession() as session:

        async def now() -> int:
            async with session.get(f"http://127.0.0.1:{port}/now") as reply:
                return int(await reply.json())

        async def ask() -> None:
            async with aiohttp.ClientSession() as own, own.post(f"{url}/chat/completions", json=body) as reply:
                await reply.read()

        task = asyncio.ensure_future(ask())
        while await now() < 16:
            await asyncio.sleep(0.01)
        task.cancel()
        began = time.perf_counter()
        while await now() > 0:
            await asyncio.sleep(0.002)
        return time.perf_counter() - began


def measure(seconds: float, clients: int, level: str, turns: int) -> None:
    """One upstream speed."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=upstream, args=(there, seconds), daemon=True)
    server.start()
    port = here.recv()
    words = [sys.executable, "-m", "reasonrl", "pacore", "serve", "--upstream", f"http://127.0.0.1:{port}/v1"]
    options = ["--model", "toy", "--port", "0", "--concurrency", "4096"]
    process = subprocess.Popen([*words, *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().rsplit(" at ", 1)[1].strip()
    try:
        asyncio.run(asked(url, clients, level, 1))  # connections, and whatever is imported first
        cpu = psutil.Process(process.pid)
        used, began = sum(cpu.cpu_times()[:2]), time.perf_counter()
        took = asyncio.run(asked(url, clients, level, turns))
        wall, used = time.perf_counter() - began, sum(cpu.cpu_times()[:2]) - used
        calls = len(took) * (sum(ROUNDS[level]) + 1)
        path = seconds * (len(ROUNDS[level]) + 1)
        middle, slowest = statistics.median(took), max(took)
        print(
            f"upstream {seconds:g} s, {clients} clients, {level}: {len(took)} requests, none lost; critical path"
            f" {path:g} s, median {middle:.3f} s (+{100 * (middle / path - 1):.1f} %), slowest {slowest:.3f} s"
            f" (+{100 * (slowest / path - 1):.1f} %); {1000 * used / calls:.2f} ms of CPU a call,"
            f" {calls / wall:.0f} calls/s",
            flush=True,
        )
        if seconds >= 1:
            gone = [asyncio.run(left(url, port)) for _ in range(5)]
            print(f"a client leaves: 16 calls are free after {1000 * max(gone):.0f} ms at most, of 5")
    finally:
        process.kill()
        process.wait()
        server.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--level", choices=list(ROUNDS), default="low")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    for speed, times in ((2.0, given.turns), (0.05, 10 * given.turns)):
        measure(speed, given.clients, given.level, times)
