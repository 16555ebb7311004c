"""The work of `reasonrl pacore serve`."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from reasonrl.endpoints import EndpointClient
from reasonrl.endpoints.loop import background_loop
from reasonrl.errors import MissingExtra
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.spec import PlanSpec

GOODBYE_SECONDS = 30
"""So long a server that was asked to end lets requests finish."""


def serve(
    upstreams: Sequence[str],
    *,
    model: str | None,
    served_name: str | None,
    spec: PlanSpec,
    settings: Mapping[str, Any],
    host: str,
    port: int,
    api_key_env: str | None,
    concurrency: int,
    max_requests: int,
    max_body_mb: float,
    max_calls: int,
    max_budget: int | None,
    say: Callable[[str], None],
) -> None:
    """Serves until it is asked to end.

    Args:
        upstreams: addresses of servers of one model, up to `/v1`.
        model: as they call it; None asks the first of them.
        served_name: what our models' names begin with; None takes `model`.
        spec: the plan where a request says nothing else.
        settings: of the endpoint.
        host, port: where to listen; port 0 takes a free one.
        api_key_env: variable with the keys of clients, between commas; None lets everybody in.
        concurrency: calls at the upstreams at once.
        max_requests, max_body_mb: what is let in.
        max_calls, max_budget: of one request.
        say: takes lines for the user.

    Raises:
        MissingExtra: fastapi, uvicorn or prometheus-client is not installed.
        PacoreError, EndpointError: settings that cannot be; the upstream cannot be asked for its model.
    """
    _require_extra()
    import uvicorn

    from reasonrl.pacore.server.app import Limits, Service, make_app
    from reasonrl.pacore.server.asked import Offer

    spec.plan()
    keys = _keys(api_key_env)
    given = {"timeout": 7200.0, "call_timeout": 14400.0, "max_retries": 4, **settings}
    endpoint = {**given, "base_url": list(upstreams), "max_concurrency": concurrency}
    name = model or first_model(endpoint)
    client = EndpointClient({**endpoint, "model": name})
    offer = Offer(served_name or name, spec, max_calls, max_budget)
    service = Service(offer, client, Limits(keys, int(max_body_mb * 2**20), max_requests, concurrency))
    config = uvicorn.Config(
        make_app(service),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GOODBYE_SECONDS,
        # The address of a client decides its turn: nobody may name another's.
        proxy_headers=False,
    )
    with listening(host, port) as listener, client:
        run_server(
            uvicorn.Server(config), listener, lambda where: say(f"serving {', '.join(offer.names())} at {where}")
        )


def _require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(problem.name or "fastapi", "serve", "reasonrl pacore serve") from None


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        PacoreError: the address is taken, or is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as problem:
        raise PacoreError(f"{host}:{port} cannot be listened at ({problem}) -> is the port taken?") from None


def run_server(server: Any, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Runs a uvicorn server in the endpoints' event loop, so that no call crosses threads, until a signal."""
    loop = background_loop()
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        server.force_exit = asked.is_set()
        server.should_exit = True
        asked.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        future = loop.submit(server.serve(sockets=[listener]))
        told = False
        while not future.done() and loop.thread.is_alive():
            concurrent.futures.wait([future], timeout=1.0 if told else 0.05)
            if not told and server.started:
                told = True
                ready(_where(listener))
        future.result(timeout=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _where(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def first_model(endpoint: Mapping[str, Any]) -> str:
    """The model that the first upstream names."""
    client = EndpointClient({**endpoint, "model": "unknown"})
    try:
        return client.run(_asked_model(client))
    finally:
        client.close()


async def _asked_model(client: EndpointClient) -> str:
    import aiohttp

    url = f"{client.config.base_url[0]}/models"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), trust_env=False) as session,
            session.get(url, headers=client.config.secret_headers()) as reply,
        ):
            said = await reply.json()
            return str(said["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, IndexError, TypeError) as problem:
        raise PacoreError(
            f"{url} does not say which model is there ({type(problem).__name__}: {problem}) -> is the server running?"
            " or name the model by --model"
        ) from None


def _keys(variable: str | None) -> tuple[str, ...]:
    if variable is None:
        return ()
    keys = tuple(key.strip() for key in os.environ.get(variable, "").split(",") if key.strip())
    if not keys:
        raise PacoreError(f"--api-key-env: the environment variable {variable} is not set -> export {variable}=…")
    return keys
