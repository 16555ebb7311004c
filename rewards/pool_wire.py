"""What crosses between a pool and its workers: length-prefixed JSON frames, and a slot of shared memory a worker.

JSON, not pickle: whatever a hostile text makes of a worker, the parent only ever reads plain values.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import socket
import struct
import tempfile
from typing import Any

from reasonrl.rewards.verdict import STATUSES, Verdict

_FIELDS: dict[str, tuple[type, ...]] = {
    "score": (int, float, type(None)),
    "extracted": (str, type(None)),
    "gold": (str,),
    "reason": (str,),
    "seconds": (int, float),
}
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
_LENGTH = struct.Struct("<I")
MAX_FRAME = 1 << 30
"""Bytes of a frame; a longer one is no frame of ours."""


class BrokenFrame(Exception):
    """Bytes that are no frame: something else has written to the socket."""


def encode(value: Any) -> bytes:
    """One frame. Lone surrogates, which model text can hold, go through unchanged."""
    body = _JSON.encode(value).encode("utf-8", "surrogatepass")
    if len(body) > MAX_FRAME:
        raise BrokenFrame(f"a frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The values that are complete now.

        Raises:
            BrokenFrame: a length that no frame has, or a body that is not JSON.
        """
        self._buffer += data
        found: list[Any] = []
        at, end = 0, len(self._buffer)
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes")
            if end - at < _LENGTH.size + length:
                break
            start = at + _LENGTH.size
            at = start + length
            try:
                found.append(json.loads(self._buffer[start:at].decode("utf-8", "surrogatepass")))
            except ValueError as problem:
                raise BrokenFrame(f"a body that is not JSON: {problem}") from None
        del self._buffer[:at]
        return found


def drain(link: socket.socket, frames: Frames) -> tuple[list[Any], bool]:
    """The values that have come through a socket that does not block, and whether its other end is closed.

    Raises:
        BrokenFrame: as `Frames.feed`.
    """
    found: list[Any] = []
    while True:
        try:
            data = link.recv(1 << 18)
        except BlockingIOError:
            return found, False
        except ConnectionError:
            return found, True
        if not data:
            return found, True
        found += frames.feed(data)


def result_of(number: int, verdict: Verdict) -> list[Any]:
    """A verdict on item `number` as it crosses."""
    fields = [verdict.status, verdict.score, verdict.extracted, verdict.gold, verdict.reason, verdict.seconds]
    return [number, fields]


def verdict_of(fields: list[Any]) -> Verdict:
    """The verdict of a result."""
    return Verdict(*fields)


def checked(verdict: Any) -> str | None:
    """What is wrong with what a grader returned; None if it is a verdict that can be sent."""
    if not isinstance(verdict, Verdict):
        return f"the grader returned a {type(verdict).__name__}, not a Verdict"
    if verdict.status not in STATUSES:
        return f"the grader returned the status {verdict.status!r:.60}; statuses: {', '.join(STATUSES)}"
    fields: dict[str, Any] = {name: getattr(verdict, name) for name in _FIELDS}
    for name, kinds in _FIELDS.items():
        value = fields[name]
        if not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
            return f"the grader returned {name} = {value!r:.60}, a {type(value).__name__}"
    return None


class Slot:
    """24 bytes that a worker and its parent share: the item in work, when it began, and what need not be done.

    A result tells when an item has ended, the slot which one has begun, without a message: so a parent knows what a
    worker hangs in, and since when (CLOCK_MONOTONIC, which is one clock for all processes).
    """

    _ITEM = struct.Struct("<q")
    _START = struct.Struct("<d")
    SIZE = 24

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, self.SIZE)

    @staticmethod
    def create() -> int:
        """A descriptor of a new slot; the caller closes it."""
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, Slot.SIZE)
        return descriptor

    def begin(self, item: int, now: float) -> None:
        """The worker: this item begins now."""
        self._ITEM.pack_into(self._map, 0, 0)  # no item while the time is written
        self._START.pack_into(self._map, 8, now)
        self._ITEM.pack_into(self._map, 0, item)

    def end(self) -> None:
        """The worker: no item is in work."""
        self._ITEM.pack_into(self._map, 0, 0)

    def running(self) -> tuple[int, float]:
        """The parent: the item in work (0 if none) and when it began; consistent if two looks give the same item."""
        for _ in range(3):
            (item,) = self._ITEM.unpack_from(self._map, 0)
            (start,) = self._START.unpack_from(self._map, 8)
            if self._ITEM.unpack_from(self._map, 0)[0] == item:
                break
        return item, start

    def skip(self, item: int) -> None:
        """The parent: items up to this number have been given to another worker."""
        self._ITEM.pack_into(self._map, 16, item)

    def skipped(self) -> int:
        """The worker: items up to this number are not to be done."""
        number: int = self._ITEM.unpack_from(self._map, 16)[0]
        return number

    def close(self) -> None:
        """Gives the memory back."""
        self._map.close()
