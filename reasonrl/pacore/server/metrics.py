"""What Prometheus reads: requests, calls, tokens, what was dropped, and how long things took."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reasonrl.pacore.rounds import RoundRecord
from reasonrl.pacore.server.gate import FairGate

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


class Metrics:
    """One server's, in a registry of their own."""

    def __init__(self, gate: FairGate) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self.requests = Counter(
            "pacore_requests", "Requests by level and HTTP status.", ["level", "status"], registry=of
        )
        self.seconds = Histogram(
            "pacore_request_seconds", "Of answered requests.", ["level"], buckets=_SECONDS, registry=of
        )
        self.round_seconds = Histogram("pacore_round_seconds", "Of rounds.", ["round"], buckets=_SECONDS, registry=of)
        self.in_flight = Gauge("pacore_requests_in_flight", "Requests under way.", registry=of)
        self.left = Counter("pacore_clients_left", "Requests whose client went away.", registry=of)
        self.calls = Counter("pacore_upstream_calls", "Calls by how they ended.", ["outcome"], registry=of)
        self.tokens = Counter("pacore_tokens", "Tokens of answered calls.", ["round", "kind"], registry=of)
        self.dropped = Counter("pacore_messages_dropped", "Messages that no round was shown.", ["why"], registry=of)
        self.untagged = Counter("pacore_untagged", "Answers without a closing tag.", registry=of)
        self.refits = Counter("pacore_refits", "Prompts that the upstream found too long.", registry=of)
        self.late_tags = Counter("pacore_late_tags", "Streamed answers with a further closing tag.", registry=of)
        waiting = Gauge("pacore_upstream_waiting", "Calls that wait for their turn.", registry=of)
        waiting.set_function(lambda: gate.waiting)
        inside = Gauge("pacore_upstream_in_flight", "Calls at the upstream.", registry=of)
        inside.set_function(lambda: gate.inside)

    def round(self, number: int, record: RoundRecord, seconds: float, last: bool) -> None:
        """One round has been closed."""
        name = "last" if last else str(number + 1)
        self.round_seconds.labels(name).observe(seconds)
        self.calls.labels("answered").inc(record.calls - record.failed)
        self.calls.labels("failed").inc(record.failed)
        self.tokens.labels(name, "prompt").inc(record.prompt_tokens)
        self.tokens.labels(name, "completion").inc(record.completion_tokens)
        for why in ("failed", "empty", "left_out"):
            self.dropped.labels(why).inc(getattr(record, why) if why != "failed" or not last else 0)
        self.untagged.inc(record.untagged)
        self.refits.inc(record.refits)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
