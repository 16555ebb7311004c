"""Turns at the upstream, and thinking parted from the answer while it comes."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from reasonrl.pacore.compaction import after_think
from reasonrl.pacore.server.gate import FairGate
from reasonrl.pacore.server.splitting import Splitter


def served(limit: int, waiting: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The order in which calls of (client, request) are let in, one at a time."""
    order = []

    async def one(gate, client, request):
        async with gate.turn(client, request):
            order.append((client, request))
            await asyncio.sleep(0)

    async def run():
        gate = FairGate(limit)
        await asyncio.gather(*(one(gate, *who) for who in waiting))
        assert gate.inside == gate.waiting == 0

    asyncio.run(run())
    return order


def test_clients_take_turns_and_so_do_their_requests():
    waiting = [("a", "a1")] * 6 + [("a", "a2")] * 2 + [("b", "b1")] * 2
    order = served(1, waiting)
    assert order[0] == ("a", "a1")  # it was free
    assert [client for client, _ in order[1:6]] == ["a", "b", "a", "b", "a"]
    assert order[1:4:2] == [("a", "a1"), ("a", "a2")]
    assert sorted(order) == sorted(waiting)


def test_who_gives_up_loses_no_turn():
    async def run():
        gate = FairGate(2)

        async def hold(seconds):
            async with gate.turn("a", 1):
                await asyncio.sleep(seconds)

        tasks = [asyncio.ensure_future(hold(0.01)) for _ in range(40)]
        await asyncio.sleep(0.005)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.inside == 0 and gate.waiting == 0
        async with asyncio.timeout(1):
            await asyncio.gather(hold(0), hold(0), hold(0))

    asyncio.run(run())


def parted(parts: list[str], thinks: bool) -> tuple[str, str]:
    splitter = Splitter("</think>", thinks)
    pieces = list(itertools.chain.from_iterable(map(splitter.add, parts)))
    return tuple("".join(text for kind, text in pieces if kind == which) for which in ("reasoning", "content"))


ANSWERS = st.text("a <>/tkhin\n", max_size=30).filter(lambda text: "</think>" not in text and "<think>" not in text)


@given(ANSWERS, ANSWERS, st.lists(st.integers(1, 7), max_size=40), st.booleans())
def test_however_it_comes_the_answer_is_the_compacted_one(thinking, answer, sizes, opened):
    whole = f"{'<think>' * opened}{thinking}</think>{answer}"
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size
    said = parted([*parts, whole[start:]], thinks=True)
    assert said[1] == after_think(whole).text
    assert said[0].strip() == thinking.strip()


@given(ANSWERS, st.lists(st.integers(1, 5), max_size=40))
def test_plain_answers_come_as_they_are(answer, sizes):
    parts, start = [], 0
    for size in sizes:
        parts.append(answer[start : start + size])
        start += size
    reasoning, said = parted([*parts, answer[start:]], thinks=False)
    # An end that may still become an opening tag is held back.
    assert reasoning == "" and (said == answer.strip() or "<think>".startswith(answer.strip()))
