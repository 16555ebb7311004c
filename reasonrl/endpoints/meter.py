"""What a client has used up: requests, tokens, money, time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonrl.endpoints.config import Budget, Price
from reasonrl.endpoints.errors import BudgetSpent
from reasonrl.endpoints.reply import Reply

_KEPT_LATENCIES = 10_000


@dataclass(frozen=True)
class EndpointCounters:
    """Sums since the client was made, in this process.

    Attributes:
        calls: calls that came to an end: `replies + cached + failures`.
        replies: calls answered by a server.
        cached: calls answered by the cache.
        failures: calls that ended in an error or were cancelled.
        requests: requests sent, retries included.
        retries: requests sent because an earlier one of the same call had failed.
        bad_replies: replies that were not what the API defines.
        without_usage: replies that did not say their tokens; those tokens are not counted.
        not_stored: replies that the cache file could not take.
        prompt_tokens, completion_tokens: as the servers said.
        cost: by the prices of the settings.
        p50_seconds, p99_seconds: of single replies, the last 10,000; 0 before the first.
    """

    calls: int
    replies: int
    cached: int
    failures: int
    requests: int
    retries: int
    bad_replies: int
    without_usage: int
    not_stored: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    p50_seconds: float
    p99_seconds: float


class Meter:
    """Counts, and holds the budget. Only the loop's thread writes."""

    def __init__(self, price: Price, budget: Budget) -> None:
        self.price = price
        self.budget = budget
        self.replies = self.cached = self.failures = 0
        self.requests = self.retries = self.bad_replies = self.without_usage = self.not_stored = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.latencies: deque[float] = deque(maxlen=_KEPT_LATENCIES)

    @property
    def cost(self) -> float:
        """In the currency of the prices."""
        return (self.prompt_tokens * self.price.input + self.completion_tokens * self.price.output) / 1e6

    def spend_request(self) -> None:
        """Count one request, or refuse it.

        Raises:
            BudgetSpent: one of the limits is reached, or cannot be watched.
        """
        self.check()
        self.requests += 1

    def check(self) -> None:
        """Refuse if there is no budget left for a request; the errors are those of `spend_request`."""
        budget, tokens = self.budget, self.prompt_tokens + self.completion_tokens
        for name, used, limit in (
            ("max_requests", self.requests, budget.max_requests),
            ("max_tokens", tokens, budget.max_tokens),
            ("max_cost", self.cost, budget.max_cost),
        ):
            if limit is not None and used >= limit:
                raise BudgetSpent(
                    f"endpoint budget.{name}={limit:g} is spent: {self.requests} requests, {tokens} tokens, cost"
                    f" {self.cost:g} -> raise it; replies so far are kept, in the cache too if there is one"
                )
        if self.without_usage and (budget.max_tokens is not None or budget.max_cost is not None):
            raise BudgetSpent(
                "endpoint budget: the server does not say how many tokens a reply took, so max_tokens and max_cost"
                " cannot be held -> limit max_requests instead"
            )

    def add(self, reply: Reply) -> None:
        """Count a server's reply."""
        self._add(reply.prompt_tokens, reply.completion_tokens, reply.seconds)

    def add_usage(self, usage: Any, seconds: float) -> None:
        """Count a streamed reply by what it said of its tokens."""
        said = usage if isinstance(usage, Mapping) else {}
        prompt, completion = said.get("prompt_tokens"), said.get("completion_tokens")
        known = isinstance(prompt, int) and isinstance(completion, int)
        self._add(prompt if known else None, completion if known else None, seconds)

    def _add(self, prompt: int | None, completion: int | None, seconds: float) -> None:
        self.latencies.append(seconds)
        if prompt is None or completion is None:
            self.without_usage += 1
        self.prompt_tokens += prompt or 0
        self.completion_tokens += completion or 0

    def snapshot(self) -> EndpointCounters:
        """The sums now."""
        ordered = sorted(self.latencies)
        return EndpointCounters(
            calls=self.replies + self.cached + self.failures,
            replies=self.replies,
            cached=self.cached,
            failures=self.failures,
            requests=self.requests,
            retries=self.retries,
            bad_replies=self.bad_replies,
            without_usage=self.without_usage,
            not_stored=self.not_stored,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost=self.cost,
            p50_seconds=_quantile(ordered, 0.50),
            p99_seconds=_quantile(ordered, 0.99),
        )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
