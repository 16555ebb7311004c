"""What can go wrong with the rounds themselves; a server's own faults are the errors of `reasonrl.endpoints`."""

from __future__ import annotations

from reasonrl.errors import ReasonRLError


class PacoreError(ReasonRLError, ValueError):
    """Settings, a conversation or a file that cannot be used."""

    exit_status = 2


class RoundFailed(ReasonRLError):
    """More calls of a round failed than may, or the last one did.

    Attributes:
        failures: how each failed call of the round ended.
    """

    def __init__(self, message: str, failures: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures
