"""How much of the prompts servers already held: vLLM's counters of its prefix cache, read before and after a batch."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence

from reasonrl.rollout.servers_http import ServerApi, ServerFault
from reasonrl.rollout.servers_state import Server

_LINE = re.compile(r"^vllm:prefix_cache_(hits|queries)(?:_total)?(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
_PATIENCE = 5.0

Counts = tuple[float, float]
"""Prompt tokens found in the cache, and prompt tokens asked for, since the server's start."""


def read_counts(text: str) -> Counts | None:
    """The counters in what `/metrics` says (Prometheus' text format), over all engines behind a server; None where it
    has none.
    """
    found = {"hits": 0.0, "queries": 0.0}
    seen = set()
    for name, value in _LINE.findall(text):
        try:
            found[name] += float(value)
        except ValueError:
            return None
        seen.add(name)
    return (found["hits"], found["queries"]) if seen == set(found) and math.isfinite(sum(found.values())) else None


class PrefixWatch:
    """The share of prompt tokens that servers did not have to read anew, of the last batch."""

    def __init__(self) -> None:
        self._before: dict[Server, Counts] = {}
        self._last: dict[Server, Counts] = {}

    async def begin(self, servers: Sequence[Server]) -> None:
        """Before a batch."""
        self._last = {}
        self._before = await _counts_of(servers)

    async def end(self) -> None:
        """After the batch; a server that does not say, or was not there before, is left out."""
        after = await _counts_of(list(self._before))
        last = {}
        for server, (hits, queries) in after.items():
            hits_before, queries_before = self._before[server]
            if queries < queries_before:  # it has been started again, and counts from 0
                hits_before = queries_before = 0.0
            last[server] = (hits - hits_before, queries - queries_before)
        self._last = last  # whole at once: another thread may be reading it

    def metrics(self) -> dict[str, float]:
        """`rate/prefix_hits` over all servers, and `servers/<i>/prefix_hits` of each; empty where none says."""
        last = self._last
        shares = {
            f"servers/{server.place + 1}/prefix_hits": hits / queries
            for server, (hits, queries) in last.items()
            if queries > 0
        }
        asked = sum(queries for _, queries in last.values())
        return {"rate/prefix_hits": sum(hits for hits, _ in last.values()) / asked, **shares} if asked else {}


async def _counts_of(servers: Sequence[Server]) -> dict[Server, Counts]:
    found = await asyncio.gather(*(_ask(server.api) for server in servers))
    return {server: counts for server, counts in zip(servers, found, strict=True) if counts is not None}


async def _ask(api: ServerApi) -> Counts | None:
    try:
        return read_counts(await api.ask("GET", "/metrics", timeout=min(_PATIENCE, api.limits.probe), as_text=True))
    except ServerFault:
        return None
