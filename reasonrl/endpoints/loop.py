"""The event loop that all clients of a process share: one daemon thread, made when it is first needed, and made anew
after a fork.

Because every request runs there, a client works from any thread and any event loop, and its limits hold over all of
them.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from reasonrl.endpoints.errors import EndpointError

Result = TypeVar("Result")
_LOOK = 5.0
_GOODBYE = 3.0


class Closable(Protocol):
    """What holds connections open."""

    async def close(self) -> None:
        """Close them, in the loop that made them."""


class BackgroundLoop:
    """A running event loop in its own daemon thread.

    Attributes:
        open: what is to be closed when the process ends; only the loop's thread changes it.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.open: set[Closable] = set()
        self.thread = threading.Thread(target=self._run, name="reasonrl-endpoints", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        """Start work in the loop; cancelling the future cancels the work."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def wait(self, future: concurrent.futures.Future[Result]) -> Result:
        """The future's result; Ctrl-C and a dead loop end the waiting.

        Raises:
            EndpointError: called from the loop's own thread, which would wait for itself, or the thread is gone.
        """
        if threading.current_thread() is self.thread:
            future.cancel()
            raise EndpointError(
                "endpoint: a waiting call was made inside the endpoints' own event loop -> await the async form there"
            )
        try:
            while True:
                concurrent.futures.wait([future], timeout=_LOOK)
                if future.done():
                    return future.result()
                if not self.thread.is_alive():
                    raise EndpointError("endpoint: the thread of the event loop is gone -> was the process shut down?")
        except BaseException:  # KeyboardInterrupt too: nobody waits any more, so the request is given up
            future.cancel()
            raise


_lock = threading.Lock()
_current: BackgroundLoop | None = None
_left_behind: list[BackgroundLoop | None] = []


def background_loop() -> BackgroundLoop:
    """This process's loop."""
    global _current
    with _lock:
        if _current is None or not _current.thread.is_alive():
            _current = BackgroundLoop()
        return _current


def _after_fork() -> None:
    """The thread did not come along, and the lock may have been held."""
    global _current, _lock
    # Kept with its connections: collecting them would pull the parent's sockets out of the poll set that both share.
    _left_behind.append(_current)
    _current = None
    _lock = threading.Lock()


def _at_exit() -> None:
    current = _current
    if current is None or not current.thread.is_alive():
        return

    async def close_all() -> None:
        await asyncio.gather(*(one.close() for one in tuple(current.open)), return_exceptions=True)

    concurrent.futures.wait([current.submit(close_all())], timeout=_GOODBYE)
    current.loop.call_soon_threadsafe(current.loop.stop)
    current.thread.join(_GOODBYE)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
