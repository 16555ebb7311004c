"""Several processes of one training run over the same servers: the first one leads, the others follow.

The first process starts the servers, watches them, and gives them weights; the others draw from them and ask them which
version they hold. A server that is started again has another port, which the first process writes down in a file.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reasonrl.errors import ModelError

Value = TypeVar("Value")
_BOARD = "servers.json"


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the servers.

    Attributes:
        rank, count: its place, and how many there are; 0 and 1 outside torch's process group.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """From torch's process group.

        Raises:
            ModelError: there will be several processes, and they do not know each other yet.
        """
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1:
            raise ModelError(
                f"rollout: engine servers is built in one of WORLD_SIZE = {count} processes before their process group"
                " exists -> make the trainer's settings (PPOConfig, or accelerate's PartialState) first, so that the"
                " processes share the servers"
            )
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this process starts servers and gives them weights."""
        return self.rank == 0

    def by_first(self, work: Callable[[], Value]) -> Value:
        """Let the first process do `work`; all get what it returned, or its error. A collective call.

        Raises:
            ModelError: the first process failed; it raises its own error.
        """
        if self.count == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [None, None]
        try:
            if self.leads:
                told[0] = work()
        except BaseException as problem:
            told[1] = str(problem) or type(problem).__name__
            raise
        finally:
            dist.broadcast_object_list(told, src=0)
        if told[1] is not None and not self.leads:
            raise ModelError(f"{told[1]} (found by the first process)")
        value: Value = told[0]
        return value

    def together(self, work: Callable[[], Value]) -> Value:
        """Each process's own part of something that all must have done before any goes on. A collective call.

        Raises:
            ModelError: another process failed; one that failed itself raises its own error.
        """
        problem: BaseException | None = None
        value: Any = None
        try:
            value = work()
        except BaseException as caught:  # the others wait for word of this one, whatever it is
            problem = caught
        told = self.gathered(None if problem is None else str(problem) or type(problem).__name__)
        if problem is not None:
            raise problem
        for rank, said in enumerate(told):
            if said is not None:
                raise ModelError(f"{said} (found by process {rank} of {self.count})")
        result: Value = value
        return result

    def gathered(self, value: Value) -> list[Value]:
        """Every process's value, in their order. A collective call."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def require_one_machine(self) -> None:
        """Raises ModelError where processes are on several machines: servers that we start listen on loopback only. A
        collective call.
        """
        hosts = sorted(set(self.gathered(socket.gethostname())))
        if len(hosts) > 1:
            raise ModelError(
                f"rollout.start: the processes of this run are on {len(hosts)} machines ({', '.join(hosts)}), and"
                " started servers answer on one only -> start servers yourself and name them in rollout.urls"
            )


class Board:
    """Where the first process writes down the addresses of the servers that it has started."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _BOARD

    def write(self, urls: Sequence[str]) -> None:
        """In one go: a reader sees the old file or the new one."""
        staging = self.path.with_suffix(".new")
        staging.write_text(json.dumps(list(urls)), encoding="utf-8")
        staging.replace(self.path)

    def read(self) -> list[str]:
        """The addresses, in the servers' order; empty where there is no board any more."""
        try:
            urls: list[str] = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError:
            return []
        return urls


#: What is one process's own, and adds up over the processes.
_ADDED = ("requests", "samples", "retries", "failures", "open", "outstanding_tokens")


def combined(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of all processes as one: requests and what became of them add up, states are the first process's."""
    found = dict(figures[0])
    for name in found:
        if name.rpartition("/")[2] in _ADDED:
            found[name] = sum(figure.get(name, 0.0) for figure in figures)
    return found
