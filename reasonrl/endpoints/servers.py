"""Several servers of one model: the least loaded one is asked, a failing one is set aside for a while.

Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0


@dataclass
class Server:
    """One server and how it has been doing."""

    url: str
    in_flight: int = 0
    asked: int = 0
    faults_in_a_row: int = 0
    last_success: float = float("-inf")
    last_fault: float = float("-inf")
    aside_until: float = float("-inf")


class Servers:
    """Chooses; knows nothing of HTTP."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.servers = [Server(url) for url in urls]

    def pick(self, now: float, not_again: Server | None = None) -> tuple[Server, float]:
        """The server to ask, and the seconds to wait before it may be.

        Of those that may be asked now the one with fewest requests under way, then the one asked least; `not_again`,
        which has just failed this call, only if it is the last one. If there is none, the one that is back first.
        """
        free = [server for server in self.servers if server.aside_until <= now]
        if free:
            return min(free, key=lambda server: (server is not_again, server.in_flight, server.asked)), 0.0
        soonest = min(self.servers, key=lambda server: server.aside_until)
        return soonest, soonest.aside_until - now

    def succeeded(self, server: Server, now: float) -> None:
        """A whole reply has come."""
        server.last_success = now
        server.faults_in_a_row = 0

    def failed(self, server: Server, started: float, now: float) -> None:
        """A request that began at `started` failed through the server's fault.

        The server is set aside, 1 s at first, doubled up to 15 s, unless it has answered anything since: then it is
        alive, and only that request was unlucky. Requests that fell together count once.
        """
        if server.last_success >= started:
            return
        if started > server.last_fault:
            server.faults_in_a_row += 1
            server.last_fault = now
        pause = min(_FIRST_PAUSE * 2 ** (server.faults_in_a_row - 1), _LONGEST_PAUSE)
        # A lone server is paused by each call's own backoff: setting it aside would only hold up the others.
        if len(self.servers) > 1:
            server.aside_until = max(server.aside_until, server.last_fault + pause)

    def leave_alone(self, server: Server, until: float) -> None:
        """The server itself has asked for a pause: that holds for every call."""
        server.aside_until = max(server.aside_until, until)


class Pace:
    """Evenly spaced requests."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60.0 / per_minute if per_minute is not None else 0.0
        self.next = float("-inf")

    def turn(self, now: float) -> float:
        """Take the next place; the seconds until then."""
        place = max(self.next, now)
        self.next = place + self.gap
        return place - now
