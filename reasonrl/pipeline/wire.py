"""Lines of JSON over TCP between the processes of one job, with a key that all of them know."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from reasonrl.errors import RunError

#: The head's `HOST:PORT`, and the job's key: what `reasonrl launch` sets on every machine.
ADDRESS, KEY = "REASONRL_ADDRESS", "REASONRL_KEY"
#: For a stage's processes: where to report, how long a silence may last.
WATCH, SILENCE = "REASONRL_WATCH", "REASONRL_SILENCE"
LONGEST = 1 << 20


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`. Raises RunError for anything else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise RunError(f"{text!r} is no address -> HOST:PORT, such as 10.0.0.1:29400")
    return host, int(port)


def say_line(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message. Raises OSError."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def read_line(stream: Any) -> dict[str, Any] | None:
    """The next message; None at the end of the stream, and for what is no message. Raises OSError."""
    line = stream.readline(LONGEST)
    try:
        message = json.loads(line) if line else None
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def free_port(host: str) -> int:
    """A port that nobody listens on at this address."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def interface_of(address: str) -> str | None:
    """The network interface that holds this address (or name); None if none does."""
    import psutil

    try:
        wanted = socket.gethostbyname(address)
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == wanted for one in addresses):
            return str(name)
    return None


def job_key() -> str:
    """The job's key from the environment; empty if there is none."""
    return os.environ.get(KEY, "")
