"""Annotation against a bare aiohttp loop: solutions a second with a judge of 50 ms at equal concurrency, and the memory
that a million steps take.

    python benchmarks/annotation.py                     # ratios at 16 and 64
    python benchmarks/annotation.py --steps 1000000     # growth of resident memory, with an oracle as the judge
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from reasonrl.prm.annotation import JudgeSpec, Reading, annotate
from reasonrl.prm.judges import EndpointJudge, Task
from reasonrl.prm.segment import lines

KINDS = ["right", "right", "error", "propagation", "cessation", "right"] * 2
SECONDS = 0.05


def row_of(number: int) -> dict[str, Any]:
    """A solution of twelve steps; the judge gives the same labels to all."""
    text = "".join(
        f"Step {place} of solution {number}: some words of reasoning and 1 + 1 = 2.\n" for place in range(12)
    )
    return {"id": f"s{number}", "problem": f"Problem {number}?", "answer": "2", "text": text, "correct": True}


def rows_of(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """So many rows, made anew at each call."""
    return ((f"row {number}", row_of(number)) for number in range(count))


def serve(port: Any) -> None:
    """The judge, in a process of its own."""
    from aiohttp import web

    entries = [{"step": place, "reason": "as asked", "kind": kind} for place, kind in enumerate(KINDS, start=1)]

    async def handle(request: web.Request) -> web.Response:
        asked = await request.json()
        found = re.search(r"marked (\w{12})", asked["messages"][0]["content"])
        code = "" if found is None else found[1]
        await asyncio.sleep(SECONDS)
        message = {"role": "assistant", "content": json.dumps({"code": code, "steps": entries})}
        usage = {"prompt_tokens": 500, "completion_tokens": 300}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return web.json_response({"id": "x", "model": "judge", "choices": choices, "usage": usage})

    async def run() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.sleep(3600)

    asyncio.run(run())


def settings(port: int, concurrency: int) -> dict[str, Any]:
    """The judge's endpoint."""
    return {"base_url": f"http://127.0.0.1:{port}/v1", "model": "judge", "max_concurrency": concurrency}


def bare(port: int, concurrency: int, count: int) -> float:
    """Solutions a second of a loop that posts the very prompts, and reads nothing of the replies."""
    import aiohttp

    judge = EndpointJudge(settings(port, concurrency))
    reading = Reading(lines, policy=None)
    solutions: Any = reading.items(list(rows_of(count)))
    prompts = [question.prompt for question in judge._questions((Task(one) for one in solutions), {})]
    bodies = [{"model": "judge", "messages": [{"role": "user", "content": text}]} for text in prompts]

    async def run() -> float:
        gate = asyncio.Semaphore(concurrency)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(body: Any) -> None:
                async with gate, session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as reply:
                    await reply.read()

            began = time.perf_counter()
            await asyncio.gather(*map(one, bodies))
            return count / (time.perf_counter() - began)

    return asyncio.run(run())


def ours(port: int, concurrency: int, count: int) -> float:
    """Solutions a second of an annotation, from the first row to the last file."""
    spec = JudgeSpec("endpoint", {"endpoint": settings(port, concurrency)})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        summary = annotate(Path(folder), lambda: rows_of(count), lambda: Reading(lines, policy=None), [spec])
        assert summary.totals["solutions"] == count
        return count / (time.perf_counter() - began)


def throughput(rounds: int, seconds: float) -> None:
    """The ratio at 16 and 64, alternately measured."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    for concurrency in (16, 64):
        count = int(concurrency / SECONDS * seconds)
        ours(port, concurrency, concurrency)  # whatever is imported first
        pairs = [(bare(port, concurrency, count), ours(port, concurrency, count)) for _ in range(rounds)]
        for one, two in pairs:
            print(f"at {concurrency}: bare {one:.0f}/s, annotation {two:.0f}/s, ratio {two / one:.3f}", flush=True)
        print(f"at {concurrency}: median ratio {statistics.median(two / one for one, two in pairs):.3f}", flush=True)
    server.terminate()


def memory(steps: int) -> None:
    """Growth of resident memory over so many steps, after the first twentieth."""
    process, seen = psutil.Process(), []
    count = steps // 12

    def note(done: int, total: int | None, words: str) -> None:
        if done % 1000 == 0:
            seen.append((done, process.memory_info().rss))

    rows = lambda: ((place, {**row, "labels": [1] * 12}) for place, row in rows_of(count))  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        annotate(Path(folder), rows, lambda: Reading(lines, policy=None), [JudgeSpec("oracle")], report=note)
    first = next(rss for done, rss in seen if done >= count // 20)
    print(
        f"{count * 12:,} steps in {time.perf_counter() - began:.0f} s; resident memory {first / 2**20:.0f} MiB after a"
        f" twentieth, at most {max(rss for _, rss in seen) / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement, at full speed")
    parser.add_argument("--steps", type=int, help="measure memory over so many steps instead")
    arguments = parser.parse_args()
    if arguments.steps:
        memory(arguments.steps)
    else:
        throughput(arguments.rounds, arguments.seconds)
