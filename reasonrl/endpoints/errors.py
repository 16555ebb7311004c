"""What can go wrong with an endpoint, one class a cause.

No message holds an API key: what a server sent back is searched for it first.
"""

from __future__ import annotations

from reasonrl.errors import ReasonRLError


class EndpointError(ReasonRLError):
    """Base of the errors of calls to a server."""

    retry: bool = False
    """True if asking again may help."""
    retry_after: float | None = None
    """Seconds that the server asked to be left alone."""


class EndpointSettingsError(EndpointError):
    """Settings that cannot work: a wrong value, a key that is not in the environment, a file that is no cache."""

    exit_status = 2


class Unreachable(EndpointError):
    """No whole reply came: refused or dropped connection, unknown host, or a time limit of one request."""

    retry = True


class Rejected(EndpointError):
    """The server answered with an HTTP status other than success."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def settings_fault(self) -> bool:
        """True where every other call will fail likewise: wrong key, no right, no such path or model."""
        return self.status in (401, 403, 404, 405) or 300 <= self.status < 400


class BadReply(EndpointError):
    """A reply that is not what the API defines: no JSON, no choices, cut short."""

    retry = True


class BudgetSpent(EndpointError):
    """The budget of the settings is used up; replies that have arrived are kept."""


class DeadlinePassed(EndpointError):
    """The call's own time is over, waiting and retries included."""
