"""Whose call goes to the upstream next: clients in turn, requests of a client in turn, calls of a request in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairGate:
    """At most `limit` at once; who waits is let in fairly, so that a request of 37 calls does not hold up one of 5.

    Runs in one event loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self.waiting = 0
        self._queues: OrderedDict[Hashable, OrderedDict[Hashable, deque[asyncio.Future[None]]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client: Hashable, request: Hashable) -> AsyncIterator[None]:
        """Waits for a turn and holds it; cancelling gives it back."""
        await self._enter(client, request)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, client: Hashable, request: Hashable) -> None:
        if self.inside < self.limit and not self.waiting:
            self.inside += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, OrderedDict()).setdefault(request, deque()).append(place)
        self.waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the turn had come already
            else:
                place.cancel()
            raise

    def _leave(self) -> None:
        self.inside -= 1
        while self.inside < self.limit and (place := self._next()) is not None:
            if not place.done():
                self.inside += 1
                place.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """The next one in turn; its client and its request go to the end of their queues."""
        if not self._queues:
            return None
        client, requests = self._queues.popitem(last=False)
        request, places = requests.popitem(last=False)
        place = places.popleft()
        self.waiting -= 1
        if places:
            requests[request] = places
        if requests:
            self._queues[client] = requests
        return place
