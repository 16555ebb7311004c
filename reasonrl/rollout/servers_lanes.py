"""A batch over servers where lengths are predicted: a lane of requests for each server, the longest first.

The predicted longest fifth gets servers of its own (`dispatch.length_aware`), and the samples of one prompt share a
server, which then reads the prompt once. A server whose lane is empty takes from the end of the fullest one, so a wrong
prediction costs a prompt read twice, not a server without work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from reasonrl.rollout.dispatch import Call, Dispatch, length_aware, longest_first
from reasonrl.rollout.engine import Request
from reasonrl.rollout.servers_state import Server


def dispatch_of(requests: Sequence[Request], servers: int, most_open: int) -> Dispatch | None:
    """Lanes of calls named "0", "1", … in the order of the requests; None where a request has no expected length, or
    there are fewer than two servers.

    Args:
        requests: the batch.
        servers: how many can draw.
        most_open: requests that one server is given at once.
    """
    if servers < 2 or not requests or any(request.expected is None for request in requests):
        return None
    prompts = {prompt: str(turn) for turn, prompt in enumerate(dict.fromkeys(one.prompt_ids for one in requests))}
    calls = [
        Call(str(place), prompts[request.prompt_ids], request.expected.tokens, len(request.prompt_ids))
        for place, request in enumerate(requests)
        if request.expected is not None
    ]
    outlook = requests[0].expected.outlook if requests[0].expected is not None else None
    if outlook is None or outlook.curve is None:
        return longest_first(calls, servers)
    return length_aware(calls, servers, outlook.curve, most_open, lengths=outlook.lengths or None)


class Lanes:
    """What of a dispatch is still to be sent.

    Args:
        dispatch: lane i for server i, its calls as `dispatch_of` names them.
        requests: the batch.
        servers: one a lane.
        most_open: requests that one server is given at once.
    """

    def __init__(
        self, dispatch: Dispatch, requests: Sequence[Request], servers: Sequence[Server], most_open: int
    ) -> None:
        self.long_servers = dispatch.long_engines
        self._lanes = {
            server: deque((requests[int(call.id)], call.predicted) for call in lane.calls)
            for server, lane in zip(servers, dispatch.lanes, strict=True)
        }
        self._most = {
            server: min(most_open, lane.most_running or most_open)
            for server, lane in zip(servers, dispatch.lanes, strict=True)
        }
        self._most_open = most_open

    def __len__(self) -> int:
        """Requests still to be sent."""
        return sum(len(lane) for lane in self._lanes.values())

    def next_for(self, server: Server, is_open: int) -> Request | None:
        """The request that a server with so many open ones should get now; None where it has no room, or nothing is
        left.
        """
        if not len(self) or is_open >= self._most.get(server, self._most_open):
            return None
        if lane := self._lanes.get(server):
            return lane.popleft()[0]
        fullest = max(self._lanes.values(), key=lambda lane: sum(predicted for _, predicted in lane))
        return fullest.pop()[0]

    def give_up(self, able: Sequence[Server]) -> list[Request]:
        """What stood in the lanes of servers that are not among those able to draw: these lanes are gone."""
        return [one for server in list(self._lanes) if server not in able for one, _ in self._lanes.pop(server)]
