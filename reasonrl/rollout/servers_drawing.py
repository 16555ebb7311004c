"""Drawing one batch over the servers in service: who gets which request, and what happens to one whose server fails.

A request is waiting, or it is on exactly one server; it is handed over once, when a server has finished it. So none is
lost and none comes twice, whatever happens to servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.rollout.dispatch import Call, EngineLoad, least_outstanding
from reasonrl.rollout.engine import Request, SamplingParams, Stamp, longest_first
from reasonrl.rollout.images import PromptKey
from reasonrl.rollout.servers_fleet import Fleet
from reasonrl.rollout.servers_http import Drawn, ServerFault, StatusFault, refusal
from reasonrl.rollout.servers_images import Outgoing
from reasonrl.rollout.servers_lanes import Lanes, dispatch_of
from reasonrl.rollout.servers_state import OpenCall, Server
from reasonrl.rollout.stamps import now
from reasonrl.rollout.stop_strings import StopStrings

#: Tokens that a server may gather before it sends them on: few enough to see what it still owes.
STREAM_INTERVAL = 16
_OF_TEXT = {"return_token_ids": True, "return_tokens_as_token_ids": True}
_LOOK = 1.0
_NEWEST = 0.02


@dataclass
class _Wanted:
    request: Request
    failures: int = 0
    last: str = ""
    avoid: Server | None = None


@dataclass(frozen=True)
class Arrival:
    """A finished sample: its request, what was drawn, who drew it and when, and the version of the weights it was drawn
    with.
    """

    request: Request
    drawn: Drawn
    server: Server
    version: int
    stamp: Stamp


@dataclass
class Expectation:
    """How many tokens a sample is expected to have: as predicted for it, else a moving average of those that came.

    `long_servers`: how many servers the latest batch kept for the predicted longest.
    """

    tokens: float | None = None
    long_servers: int = 0

    def of(self, request: Request, params: SamplingParams) -> float:
        """Where nothing is predicted, before the first sample, the most it may have."""
        tokens = self.tokens if request.expected is None else request.expected.tokens
        return float(params.max_tokens) if tokens is None else min(tokens, params.max_tokens)

    def learn(self, length: int) -> None:
        """Take in a finished sample."""
        self.tokens = length if self.tokens is None else (1 - _NEWEST) * self.tokens + _NEWEST * length


class Drawing:
    """One batch. Made and run in the fleet's loop.

    Args:
        fleet: the servers.
        requests: what to draw; those of one prompt should stand together.
        params: how.
        stop_ids: tokens that end a sample.
        most_open: requests that one server is given at once.
        expectation: of lengths.
        out: where arrivals go, at last None, or the error that ended it.
        outgoing: the requests' images, as they go out.
        stops: texts that end a sample.
    """

    def __init__(
        self,
        fleet: Fleet,
        requests: Sequence[Request],
        params: SamplingParams,
        stop_ids: frozenset[int],
        most_open: int,
        expectation: Expectation,
        out: queue.SimpleQueue[Arrival | BaseException | None],
        outgoing: Outgoing,
        stops: StopStrings,
    ) -> None:
        self.fleet, self.params, self.most_open, self.expectation, self.out = fleet, params, most_open, expectation, out
        self.wake = asyncio.Event()
        self._sampling, self._outgoing = _sampling(params, stop_ids, outgoing.never), outgoing
        self._stops = stops
        self._waiting, self._lanes = deque[_Wanted](), self._lanes_of(requests)
        if self._lanes is None:
            # Requests of one prompt side by side, in the order in which prompts first come.
            groups: dict[PromptKey, list[_Wanted]] = {}
            for request in longest_first(requests):
                groups.setdefault(outgoing.key(request), []).append(_Wanted(request))
            self._waiting.extend(wanted for group in groups.values() for wanted in group)
        expectation.long_servers = self._lanes.long_servers if self._lanes is not None else 0
        self._running: set[asyncio.Task[None]] = set()
        self._home: dict[PromptKey, Server] = {}
        self._numbers = 0
        self._failed: ModelError | None = None

    async def run(self) -> None:
        """Draw everything; the end, good or bad, is put into the queue."""
        try:
            await self._run()
        except BaseException as problem:
            self.out.put(problem)
            if not isinstance(problem, Exception):
                raise
        else:
            self.out.put(None)
        finally:
            for task in self._running:
                task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        seen_able = loop.time()
        while self._waiting or self._lanes or self._running:
            self.wake.clear()
            self._place()
            now = loop.time()
            if self.fleet.able() or self._running:
                seen_able = now
            elif (problem := self.fleet.hopeless()) is not None:
                raise problem
            elif now - seen_able > self.fleet.limits.recovery:
                raise ModelError(
                    f"rollout: no server has been able to draw for recovery_timeout={self.fleet.limits.recovery:g} s:"
                    f" {self.fleet.told()} -> see their logs, then resume the run"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self.wake.wait()
            if self._failed is not None:
                raise self._failed

    def _place(self) -> None:
        """Send waiting requests as long as a server has room: first what has no lane, then what stands in lanes."""
        able = self.fleet.able()
        if self._lanes is not None:
            self._waiting.extend(map(_Wanted, self._lanes.give_up(able)))
        while self._waiting and able:
            wanted = self._waiting[0]
            server = self._choose(wanted, able)
            if server is None:
                return
            self._waiting.popleft()
            self._send(wanted, server)
        for server in able if self._lanes is not None else ():
            while self._lanes and (request := self._lanes.next_for(server, len(server.open))) is not None:
                self._send(_Wanted(request), server)

    def _lanes_of(self, requests: Sequence[Request]) -> Lanes | None:
        # In one order in all processes that share the servers: the long samples of all go to the same ones.
        able = sorted(self.fleet.able(), key=lambda server: server.place)
        dispatch = dispatch_of(requests, len(able), self.most_open)
        return None if dispatch is None else Lanes(dispatch, requests, able, self.most_open)

    def _choose(self, wanted: _Wanted, able: list[Server]) -> Server | None:
        """The server that owes the fewest tokens; the one that has the prompt, while that costs nobody time: while its
        share of everything that is still to be drawn is not above the average.
        """
        if wanted.avoid in able and len(able) > 1:
            able = [server for server in able if server is not wanted.avoid]
        expected = self.expectation.of(wanted.request, self.params)
        owed = [sum(call.outstanding for call in server.open.values()) for server in able]
        home = self._home.get(self._outgoing.key(wanted.request))
        share = (sum(owed) + len(self._waiting) * expected) / len(able)
        place = least_outstanding(
            Call(wanted.request.id, "", expected, len(wanted.request.prompt_ids)),
            [EngineLoad(tokens, len(server.open)) for tokens, server in zip(owed, able, strict=True)],
            home=able.index(home) if home in able else None,
            most_open=self.most_open,
            patience_tokens=max(share - expected - min(owed), 0.0),
        )
        return None if place is None else able[place]

    def _send(self, wanted: _Wanted, server: Server) -> None:
        self._home.setdefault(self._outgoing.key(wanted.request), server)
        self._numbers += 1
        task = asyncio.create_task(self._attempt(wanted, server, self._numbers))
        started = asyncio.get_running_loop().time()
        server.open[self._numbers] = OpenCall(task, started, self.expectation.of(wanted.request, self.params))
        server.health.requests += 1
        self._running.add(task)
        task.add_done_callback(functools.partial(self._ended, server, self._numbers))

    def _ended(self, server: Server, number: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        server.open.pop(number, None)
        self.wake.set()

    async def _attempt(self, wanted: _Wanted, server: Server, number: int) -> None:
        call = server.open[number]
        loop = asyncio.get_running_loop()

        def heard(tokens: int) -> None:
            if tokens and not call.received:
                call.first_token = now()
            call.received += tokens
            server.last_heard = loop.time()

        request = wanted.request
        # vLLM keeps seeds in signed 64 bits.
        sampling = {**self._sampling, "seed": request.seed & (2**63 - 1)}
        prompt = self._outgoing.prompt(request)
        body = {**sampling, **_OF_TEXT, "prompt": request.prompt_ids} if prompt is None else prompt.body(sampling)
        body |= {"model": self.fleet.model_of(server), "stream": True}
        try:
            drawn = await server.api.draw(body, heard, prompt, self._stops)
        except asyncio.CancelledError:
            if not call.recalled:
                raise
            self._again(wanted, server, call.recalled)
        except StatusFault as fault:
            if fault.hopeless:
                self._failed = await refusal(server.api, fault, body["model"])
            else:
                self._failure(wanted, server, call, fault)
        except ServerFault as fault:
            self._failure(wanted, server, call, fault)
        except ModelError as problem:
            self._failed = problem
        except Exception as problem:  # a fault of ours: the reader gets it, instead of waiting for a sample
            self._failed = ModelError(f"rollout: {server.name}: {type(problem).__name__}: {problem}")
            self._failed.__cause__ = problem
        else:
            if call.recalled:  # it came together with the recall, and nobody can say by which weights it was drawn
                self._again(wanted, server, call.recalled)
                return
            server.health.samples += 1
            server.faults_in_a_row = server.restarts_in_a_row = 0
            self.expectation.learn(len(drawn.token_ids))
            server.open.pop(number, None)  # before the reader can look
            stamp = Stamp(str(server.place + 1), call.first_token, now())
            self.out.put(Arrival(request, drawn, server, self.fleet.version, stamp))

    def _failure(self, wanted: _Wanted, server: Server, call: OpenCall, fault: ServerFault) -> None:
        self.fleet.fault(server, call.started, fault)
        wanted.failures += 1
        if wanted.failures > self.fleet.limits.retries:
            self._failed = ModelError(
                f"rollout: request {wanted.request.id!r} failed {wanted.failures} times, at last on {server.name}:"
                f" {fault} -> see the server's log, then resume the run"
            )
            return
        self._again(wanted, server, str(fault))

    def _again(self, wanted: _Wanted, server: Server, why: str) -> None:
        server.health.retries += 1
        wanted.last, wanted.avoid = why, server
        if self._home.get(self._outgoing.key(wanted.request)) is server:
            del self._home[self._outgoing.key(wanted.request)]
        self._waiting.appendleft(wanted)


def next_arrival(arrivals: queue.SimpleQueue[Any], thread: threading.Thread, patience: float) -> Any:
    """What comes next, waited for as long as the thread lives that it comes from (looked at every `patience` seconds).

    Raises:
        ModelError: the thread is gone.
    """
    while True:
        try:
            return arrivals.get(timeout=patience)
        except queue.Empty:
            if not thread.is_alive():
                raise ModelError("rollout: the thread that talks to the servers is gone") from None


def _sampling(params: SamplingParams, stop_ids: frozenset[int], never: Mapping[str, float]) -> Mapping[str, Any]:
    """How to draw, in both endpoints' words, without the seed."""
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,  # the end tokens are among ours
        "logprobs": 0,
        "stream_interval": STREAM_INTERVAL,
        # What a checkpoint's generation config might bring.
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "skip_special_tokens": False,
        **({"logit_bias": never} if never else {}),
    }
