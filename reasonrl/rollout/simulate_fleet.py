"""A fleet of engines in simulated time: discrete events of continuous batching, from dispatch to the last token.

Every running sample of an engine gains one token in PTL(batch) seconds; nothing changes between a call's admission and
the next end of a sample, so time jumps from event to event. A call that finds its engine full waits; a free place is
taken at once. Preemption for lack of memory and speculative decoding are not modelled.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from reasonrl.rollout.dispatch import Call, Dispatch, EngineLoad, least_outstanding
from reasonrl.rollout.latency import LatencyCurve


@dataclass(frozen=True)
class Job:
    """A call with what will turn out: its true number of response tokens (at least 1), and when it may be sent
    (seconds from the start).
    """

    call: Call
    tokens: int
    release: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """The machines.

    Attributes:
        servers: how many engines.
        curve: seconds a decode step by batch.
        max_batch: most samples an engine decodes together.
        prefill_seconds_per_token: an engine stands still so long for each prompt token that it has not cached. The
            first call of a group on an engine pays for its whole prompt, the later ones for nothing.
    """

    servers: int
    curve: LatencyCurve
    max_batch: int = 256
    prefill_seconds_per_token: float = 0.0

    def __post_init__(self) -> None:
        for name in ("servers", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}, but it must be at least 1")


@dataclass(frozen=True)
class Finish:
    """The end of a sample: its place among the jobs, its server, and when it began and ended (seconds)."""

    job: int
    server: int
    started: float
    finished: float


@dataclass(frozen=True)
class Timeline:
    """What happened.

    Attributes:
        finishes: every sample in the order in which they ended.
        makespan: seconds until the last one.
        busy: seconds that each server decoded or prefilled.
        tokens: response tokens of each server.
        prefix_hits: calls whose prompt their server had already.
    """

    finishes: tuple[Finish, ...]
    makespan: float
    busy: tuple[float, ...]
    tokens: tuple[int, ...]
    prefix_hits: int

    @property
    def idle(self) -> tuple[float, ...]:
        """Seconds that each server had nothing to do before the last sample ended."""
        return tuple(self.makespan - seconds for seconds in self.busy)

    @property
    def idle_share(self) -> tuple[float, ...]:
        """Idle seconds over the makespan, a server."""
        return tuple(seconds / self.makespan if self.makespan else 0.0 for seconds in self.idle)

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the calls whose prompt their server had already."""
        return self.prefix_hits / len(self.finishes) if self.finishes else 0.0


def run_dispatch(jobs: Sequence[Job], fleet: Fleet, dispatch: Dispatch) -> Timeline:
    """Run a step that was shared out beforehand, lane i on server i.

    Raises:
        ValueError: there are not as many lanes as servers, or the lanes do not hold each job's call exactly once.
    """
    if len(dispatch.lanes) != fleet.servers:
        raise ValueError(f"{len(dispatch.lanes)} lanes for {fleet.servers} servers -> one lane a server")
    places = {job.call.id: place for place, job in enumerate(jobs)}
    dealt = [[places[call.id] for call in lane.calls] for lane in dispatch.lanes]
    if len(places) != len(jobs) or sorted(place for lane in dealt for place in lane) != list(range(len(jobs))):
        raise ValueError("the dispatch must hold every job's call exactly once, and calls must have distinct ids")
    simulation = _Simulation(jobs, fleet)
    for server, lane in zip(simulation.servers, dispatch.lanes, strict=True):
        server.most = min(fleet.max_batch, lane.most_running or fleet.max_batch)
    for number, share in enumerate(dealt):
        simulation.expect(share, number)
    return simulation.run()


def run_online(
    jobs: Sequence[Job], fleet: Fleet, *, groups_together: bool = False, patience_tokens: float = math.inf
) -> Timeline:
    """Run a step whose calls, in the order given, each go to the engine with the fewest outstanding tokens as soon as
    one has room (`least_outstanding`).
    """
    simulation = _Simulation(jobs, fleet, online=True, groups_together=groups_together, patience=patience_tokens)
    simulation.expect(range(len(jobs)), None)
    return simulation.run()


@dataclass
class _Server:
    """An engine at its own last event: `clock` counts its decode steps, so a sample of L tokens that begins at clock c
    ends at c + L.
    """

    most: int
    now: float = 0.0
    clock: float = 0.0
    busy: float = 0.0
    tokens: int = 0
    version: int = 0
    running: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    prompts: set[str] = field(default_factory=set)


class _Simulation:
    def __init__(
        self,
        jobs: Sequence[Job],
        fleet: Fleet,
        *,
        online: bool = False,
        groups_together: bool = False,
        patience: float = math.inf,
    ) -> None:
        for job in jobs:
            if job.tokens < 1:
                raise ValueError(f"call {job.call.id!r} has {job.tokens} tokens, but a sample has at least 1")
        self.jobs, self.fleet, self.online = jobs, fleet, online
        self.groups_together, self.patience = groups_together, patience
        self.servers = [_Server(fleet.max_batch) for _ in range(fleet.servers)]
        self.step_seconds = fleet.curve.table(fleet.max_batch)
        self.arrivals: list[tuple[float, int, int, int | None]] = []
        self.pending: deque[int] = deque()
        self.events: list[tuple[float, int, int]] = []
        self.loads = [EngineLoad() for _ in self.servers]
        self.homes: dict[str, int] = {}
        self.started = [0.0] * len(jobs)
        self.finishes: list[Finish] = []
        self.hits = 0

    def expect(self, places: Sequence[int], server: int | None) -> None:
        """Jobs that will arrive, in this order at equal times: at this server, or wherever the router sends them."""
        self.arrivals += [(self.jobs[place].release, turn, place, server) for turn, place in enumerate(places)]

    def run(self) -> Timeline:
        arrivals = deque(sorted(self.arrivals, key=lambda arrival: arrival[:2]))
        while arrivals or self.events:
            if arrivals and (not self.events or arrivals[0][0] <= self.events[0][0]):
                self._arrive(arrivals)
            else:
                self._end_of_sample()
        makespan = self.finishes[-1].finished if self.finishes else 0.0
        return Timeline(
            tuple(self.finishes),
            makespan,
            tuple(server.busy for server in self.servers),
            tuple(server.tokens for server in self.servers),
            self.hits,
        )

    def _arrive(self, arrivals: deque[tuple[float, int, int, int | None]]) -> None:
        time = arrivals[0][0]
        touched = set()
        while arrivals and arrivals[0][0] == time:
            _, _, place, number = arrivals.popleft()
            if number is None:
                self.pending.append(place)
            else:
                self.servers[number].waiting.append(place)
                touched.add(number)
        for number in sorted(touched):
            self._fill(number, time)
        if self.pending:
            self._route(time)

    def _end_of_sample(self) -> None:
        time, number, version = heapq.heappop(self.events)
        server = self.servers[number]
        if version != server.version:
            return
        self._advance(server, time)
        # The clock of the earliest end, not what float division gave: ends stay exact however long the run.
        server.clock = server.running[0][0]
        while server.running and server.running[0][0] <= server.clock:
            _, place = heapq.heappop(server.running)
            job = self.jobs[place]
            server.tokens += job.tokens
            self.finishes.append(Finish(place, number, self.started[place], time))
            if self.online:
                load = self.loads[number]
                self.loads[number] = EngineLoad(load.outstanding_tokens - job.call.predicted, load.open_calls - 1)
        if self.pending:
            self._route(time)
        self._fill(number, time)

    def _route(self, time: float) -> None:
        touched = set()
        while self.pending:
            call = self.jobs[self.pending[0]].call
            home = self.homes.get(call.group) if self.groups_together else None
            number = least_outstanding(
                call, self.loads, home=home, most_open=self.fleet.max_batch, patience_tokens=self.patience
            )
            if number is None:
                break
            self.homes.setdefault(call.group, number)
            load = self.loads[number]
            self.loads[number] = EngineLoad(load.outstanding_tokens + call.predicted, load.open_calls + 1)
            self.servers[number].waiting.append(self.pending.popleft())
            touched.add(number)
        for number in sorted(touched):
            self._fill(number, time)

    def _fill(self, number: int, time: float) -> None:
        """Admit what waits, and set the server's next event."""
        server = self.servers[number]
        self._advance(server, time)
        while server.waiting and len(server.running) < server.most:
            place = server.waiting.popleft()
            job = self.jobs[place]
            if job.call.group in server.prompts:
                self.hits += 1
            else:
                server.prompts.add(job.call.group)
                stall = self.fleet.prefill_seconds_per_token * job.call.prompt_tokens
                server.now += stall
                server.busy += stall
            self.started[place] = time
            heapq.heappush(server.running, (server.clock + job.tokens, place))
        server.version += 1
        if server.running:
            steps = server.running[0][0] - server.clock
            ends = server.now + steps * self.step_seconds[len(server.running)]
            heapq.heappush(self.events, (ends, number, server.version))

    def _advance(self, server: _Server, time: float) -> None:
        """Move a server to this time; one that still prefills stays where it is."""
        if time <= server.now:
            return
        if server.running:
            server.clock += (time - server.now) / self.step_seconds[len(server.running)]
            server.busy += time - server.now
        server.now = time
