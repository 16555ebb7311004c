"""The client for OpenAI-compatible servers: concurrency, retries, several servers, budget, cost, cache.

client = EndpointClient({"base_url": "http://localhost:8000/v1", "model": "judge"})
client.send(chat("1+1?")).text                     # from any thread
await client.asend(completion([1, 2, 3]))          # from any event loop
"""

from reasonrl.endpoints.client import EndpointClient
from reasonrl.endpoints.config import Budget, EndpointConfig, Price
from reasonrl.endpoints.errors import (
    BadReply,
    BudgetSpent,
    DeadlinePassed,
    EndpointError,
    EndpointSettingsError,
    Rejected,
    Unreachable,
)
from reasonrl.endpoints.meter import EndpointCounters
from reasonrl.endpoints.reply import Choice, Reply
from reasonrl.endpoints.request import Request, chat, completion

__all__ = [
    "BadReply",
    "Budget",
    "BudgetSpent",
    "Choice",
    "DeadlinePassed",
    "EndpointClient",
    "EndpointConfig",
    "EndpointCounters",
    "EndpointError",
    "EndpointSettingsError",
    "Price",
    "Rejected",
    "Reply",
    "Request",
    "Unreachable",
    "chat",
    "completion",
]
