"""The servers of one run: which of them may draw, what each has done, and how a lost one comes back.

A server draws only while it is in service: it answers, and it holds the weights of the run's present version. Whoever
fails is taken out, asked again, started anew if it is ours, given the weights it has missed, and put back in service.
Everything here runs in one event loop.

Where several processes share the servers, each has a fleet of its own. That of the first process does all of this; the
others only ask, and draw from who holds the present version.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from reasonrl.errors import ModelError
from reasonrl.rollout.adapters import ADAPTER_MARK, ADAPTER_NAME
from reasonrl.rollout.agreement import gap_between, require_agreement
from reasonrl.rollout.servers_barrier import find_loader, held_label, load_weights
from reasonrl.rollout.servers_http import Limits, ServerApi, ServerFault, StatusFault, read_text, refusal, served_models
from reasonrl.rollout.servers_images import PictureReading
from reasonrl.rollout.servers_process import start_error
from reasonrl.rollout.servers_ranks import Board, Ranks
from reasonrl.rollout.servers_state import Reading, Server

_log = logging.getLogger(__name__)
_TICK = 0.2
_LONGEST_PAUSE = 15.0


class Fleet:
    """Watches servers.

    Args:
        servers: all of them; started ones already run.
        limits: how patient to be.
        wanted: name of the model to ask for; None takes the only one that a server serves.
        changed: called whenever a server goes out of service or comes back.
        ranks: this process among those that share the servers.
        board: where started servers' addresses are written down for the other processes.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        limits: Limits,
        wanted: str | None,
        changed: Callable[[], None],
        ranks: Ranks | None = None,
        board: Board | None = None,
    ) -> None:
        self.servers, self.limits, self.wanted, self._changed = list(servers), limits, wanted, changed
        self.ranks, self._board = ranks or Ranks(), board
        self._level = logging.WARNING if self.ranks.leads else logging.DEBUG
        self._holding = False
        self.version = 0
        self.label: str | None = None
        self.folder: Path | None = None
        #: Label and folder of the base weights, where versions are adapters over them: `<base>+<adapter>`.
        self.base: tuple[str, Path | None] | None = None
        self.reading: Reading | None = None
        self._watching: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Wait until every server answers, and begin to watch them.

        Raises:
            ModelError: one does not start or answer, serves something else, or runs another vLLM than the others.
        """
        asking = [asyncio.create_task(self._first_answer(server)) for server in self.servers]
        try:
            await asyncio.wait(asking, return_when=asyncio.FIRST_EXCEPTION)
            for task in asking:
                if task.done():
                    task.result()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if len({server.model for server in self.servers}) > 1:
            told = ", ".join(f"{server.name} serves {server.model!r}" for server in self.servers)
            raise ModelError(f"rollout: {told} -> all have to serve the run's model, under one name")
        if len({server.vllm for server in self.servers}) > 1:
            told = ", ".join(f"{server.name} runs {server.vllm}" for server in self.servers)
            raise ModelError(
                f"rollout: {told} -> use one version of vLLM: a sample drawn again elsewhere has to come out the same"
            )
        self._watching = asyncio.create_task(self._watch())

    def able(self) -> list[Server]:
        """Servers that may draw now; every process begins with another one."""
        turn = self.ranks.rank % len(self.servers)
        return [server for server in self.servers[turn:] + self.servers[:turn] if server.in_service]

    def model_of(self, server: Server) -> str:
        """What a server is asked for: the adapter, where the present version is one."""
        return ADAPTER_NAME if ADAPTER_MARK in (self.label or "") else server.model

    def hopeless(self) -> ModelError | None:
        """The error that ends the run when no server will ever draw again."""
        if not all(server.gone for server in self.servers):
            return None
        return ModelError(f"rollout: all servers are lost: {self.told()} -> see their logs, then resume the run")

    def told(self) -> str:
        """Why servers are out of service, for messages."""
        return "; ".join(f"{server.name}: {server.why_out}" for server in self.servers if not server.in_service)

    def fault(self, server: Server, started: float, fault: ServerFault) -> None:
        """A request that began at `started` failed; the server is set aside unless it has been heard since.

        It is set aside for 1 s at first, doubled up to 15 s; requests that fell together count once.
        """
        server.health.failures += 1
        now = asyncio.get_running_loop().time()
        heard_since = server.last_heard > started and now - server.last_heard < self.limits.stall / 2
        if not server.in_service or heard_since:
            return
        if started > server.last_fault:
            server.faults_in_a_row += 1
        server.last_fault = now
        server.aside_until = now + min(2.0 ** (server.faults_in_a_row - 1), _LONGEST_PAUSE)
        self._out(server, str(fault))

    async def check(self) -> None:
        """Ask every server in service whether it still holds the present weights; who does not is taken out."""
        await asyncio.gather(*(self._probe(server) for server in self.able()))

    async def serve(self, path: str, label: str) -> None:
        """Have servers that others have started serve a checkpoint: they load it, or have been started with it.

        Raises:
            ModelError: a server takes no weights and serves something else.
        """
        if Path(path).is_dir() and all(server.loader for server in self.servers):
            await self.hold()
            await self.sync(label, Path(path), self.version)
        for server in self.servers:
            if self.label is None and not _same(server.root, path):
                raise ModelError(
                    f"rollout: server {server.api.url} was started with {server.root!r}, and the samples are to come"
                    f" from {path!r} -> start it with that, or with VLLM_SERVER_DEV_MODE=1 so that it can load it"
                    " (docs/servers.md)"
                )

    async def hold(self) -> None:
        """The first half of the barrier: no server draws for this process, until `sync` or `follow`."""
        self._holding = True
        for server in self.servers:
            server.ready = server.in_service
            server.in_service = False
            server.recall("the weights have changed")

    def release(self) -> None:
        """End what `hold` began where no weights have come: servers draw as before."""
        for server in self.servers if self._holding else ():
            server.in_service = server.in_service or server.ready
        self._holding = False

    async def sync(self, label: str, folder: Path, version: int) -> None:
        """The second half, in the first process: every server that was in service loads these weights, or is out of
        service until it has.

        Raises:
            ModelError: none has.
        """
        self.label, self.folder, self.version, self.reading = label, folder, version, None
        await asyncio.gather(*(self._load(server) for server in self.servers if server.ready))
        self._holding = False
        if not self.able():
            raise ModelError(
                f"sync_weights: no server has taken over the weights: {self.told()} -> see their logs; servers that you"
                " have started yourself need VLLM_SERVER_DEV_MODE=1 (docs/servers.md)"
            )

    async def follow(self, label: str, version: int) -> None:
        """The second half, in the other processes: who holds these weights is in service."""
        self.label, self.version = label, version
        await asyncio.gather(*(self._load(server) for server in self.servers if server.ready))
        self._holding = False

    async def readings(self, ids: list[int], picture: PictureReading | None = None) -> list[tuple[Server, list[float]]]:
        """How each server in service reads a text, after a picture; who fails to is taken out."""

        async def read(server: Server) -> tuple[Server, list[float]] | None:
            try:
                return server, await read_text(server.api, self.model_of(server), ids, self.limits.stall, picture)
            except ServerFault as fault:
                self._out(server, str(fault))
                return None

        found = await asyncio.gather(*(read(server) for server in self.able()))
        return [entry for entry in found if entry is not None]

    async def close(self) -> None:
        """Stop watching, close connections."""
        tasks = [self._watching, *(server.returning for server in self.servers)]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for server in self.servers:
            server.recall("the engine is closed")
            await server.api.close()

    def _out(self, server: Server, why: str) -> None:
        server.in_service, server.why_out = False, why
        _log.log(self._level, "rollout: %s is set aside: %s", server.name, why)
        self._changed()

    def _lost(self, server: Server, why: str) -> None:
        server.health.losses += self.ranks.leads and not server.lost
        server.lost = True
        self._out(server, why)
        server.recall(why)

    async def _first_answer(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        limits = self.limits
        until = loop.time() + (limits.start if server.process is not None else limits.probe * limits.probes)
        while True:
            try:
                await self._connect(server)
                server.in_service, server.why_out = True, ""
                return
            except ServerFault as fault:
                if server.process is not None and not server.process.alive:
                    raise start_error(server.process, server.place, "ended while it started") from None
                if loop.time() > until:
                    if server.process is not None:
                        raise start_error(server.process, server.place, f"does not answer: {fault}") from None
                    raise ModelError(
                        f"rollout: {server.name} does not answer: {fault} -> is it running, and is rollout.urls right?"
                    ) from None
            await asyncio.sleep(_TICK)

    async def _connect(self, server: Server) -> None:
        try:
            served = await served_models(server.api)
            version = await server.api.ask("GET", "/version", timeout=self.limits.probe)
        except StatusFault as fault:
            if fault.hopeless:
                raise await refusal(server.api, fault, self.wanted or "the run's model") from None
            raise
        names: list[str] = [entry["id"] for entry in served]
        wanted = self.wanted or server.model or (names[0] if len(names) == 1 else None)
        if wanted is None or wanted not in names:
            raise ModelError(
                f"rollout: server {server.api.url} serves {', '.join(map(repr, names)) or 'no model'}"
                + (f", not {wanted!r}" if wanted else "")
                + " -> set rollout.served_model to one of those, or start the server with the run's model"
            )
        server.model = wanted
        entry = served[names.index(wanted)]
        server.max_model_len, server.root = entry.get("max_model_len"), str(entry.get("root"))
        server.vllm = str((version or {}).get("version", "unknown"))
        server.loader = await find_loader(server.api)

    async def _load(self, server: Server) -> None:
        try:
            async with server.busy:
                await self._take_weights(server)
            self._back(server)
        except ServerFault as fault:
            self._out(server, f"missed version {self.label}: {fault}")

    async def _take_weights(self, server: Server) -> None:
        """Until the server holds the present version, which may move on meanwhile."""
        while self.label is not None and (held := await held_label(server.api, server.loader)) != self.label:
            if not self.ranks.leads:
                raise ServerFault(f"it holds version {held!r} where the run is at {self.label!r}")
            label, folder, base = self.label, self.folder, self.base
            if base is not None and base[0] != label and not held.startswith(base[0]):
                assert base[1] is not None
                await load_weights(server.api, server.loader, base[1], base[0])
            assert folder is not None
            await load_weights(server.api, server.loader, folder, label)
            _log.debug("%s: %s -> %s", server.name, held, label)

    def _back(self, server: Server) -> None:
        server.in_service, server.why_out, server.missed, server.lost = True, "", 0, False
        server.asked = server.last_heard = asyncio.get_running_loop().time()
        self._changed()

    async def _watch(self) -> None:
        while True:
            for server in self.servers:
                self._look_after(server)
            await asyncio.sleep(_TICK)

    def _look_after(self, server: Server) -> None:
        now = asyncio.get_running_loop().time()
        if server.gone or (server.returning is not None and not server.returning.done()):
            return
        if server.process is not None and not server.process.alive:
            self._lost(server, "its process has ended")
            server.returning = asyncio.create_task(self._restart(server))
        elif not server.in_service:
            if now >= server.aside_until and not server.busy.locked() and not self._holding:
                server.returning = asyncio.create_task(self._return(server))
        elif now - max(server.asked, server.last_heard) > self.limits.probe_every:
            server.asked = now
            server.returning = asyncio.create_task(self._probe(server))

    async def _probe(self, server: Server) -> None:
        heard = server.last_heard
        try:
            await server.api.ask("GET", "/health", timeout=self.limits.probe)
            held = await held_label(server.api, server.loader) if self.label is not None else None
        except ServerFault as fault:
            server.missed += 1
            silent = server.last_heard == heard
            # A refused connection says more than a slow answer: nobody is there.
            if silent and server.in_service and (server.missed >= self.limits.probes or "no connection" in str(fault)):
                self._lost(server, f"it does not answer: {fault}")
            return
        server.missed = 0
        if server.in_service and held != self.label and not server.busy.locked():
            self._lost(server, f"it holds version {held!r} where the run is at {self.label!r}")

    async def _restart(self, server: Server) -> None:
        process = server.process
        assert process is not None
        if server.restarts_in_a_row >= self.limits.restarts:
            server.gone = True
            self._out(server, f"given up after {server.restarts_in_a_row} restarts; its output ends: {process.tail()}")
            return
        server.restarts_in_a_row += 1
        server.health.restarts += 1
        server.why_out = "it is being restarted"
        _log.warning("rollout: %s is being restarted; its log: %s", server.name, process.log)
        label, folder = self.base or (self.label, self.folder)
        whole = folder is not None and (folder / "config.json").exists()
        process.start(*((folder, label or "") if whole and folder else (process.model, "")))
        await server.api.close()
        server.api = ServerApi(process.url, process.key, self.limits)
        self.tell()
        await self._return(server)

    async def _return(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.start
        pause = _TICK
        while True:
            try:
                async with server.busy:
                    await self._find(server)
                    await self._connect(server)
                    label = self.label
                    behind = label is not None and await held_label(server.api, server.loader) != label
                    await self._take_weights(server)
                    await self._compare(server)
                    if self._holding or self.label != label:
                        raise ServerFault("the weights have changed while it came back")
                    server.health.catch_ups += behind and self.ranks.leads
                    self._back(server)
                _log.log(self._level, "rollout: %s is back", server.name)
                return
            except ServerFault as fault:
                if server.process is not None and not server.process.alive:
                    return
                server.why_out = str(fault)
                if server.process is not None and loop.time() > until:
                    server.process.kill()
                    return
            except ModelError as problem:
                server.gone = True
                self._out(server, str(problem))
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0 if server.process or self._board else _LONGEST_PAUSE)

    def tell(self) -> None:
        """Write down where servers are, for the other processes."""
        if self._board is not None and self.ranks.leads:
            self._board.write([server.api.url for server in self.servers])

    async def _find(self, server: Server) -> None:
        """Where the server is now: one that was started again has another port."""
        if self._board is None or self.ranks.leads:
            return
        urls = self._board.read()
        if urls and urls[server.place] != server.api.url:
            await server.api.close()
            server.api = ServerApi(urls[server.place], server.api.key, self.limits)

    async def _compare(self, server: Server) -> None:
        reading = self.reading
        if reading is not None:
            values = await read_text(server.api, self.model_of(server), reading.ids, self.limits.stall, reading.picture)
            require_agreement(gap_between(values, reading.trainer), reading.limit, reading.version, server.name)


def _same(root: str, path: str) -> bool:
    """Whether two names of a model lead to one folder, or are one hub id."""
    return root == path or (os.path.isdir(path) and os.path.realpath(root) == os.path.realpath(path))
