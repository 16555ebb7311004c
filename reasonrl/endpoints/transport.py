"""HTTP: the only file that knows aiohttp.

aiohttp rather than httpx: at 64 requests at once it takes about 0.2 ms of CPU a call against 1 to 9 ms, and judges,
annotators and evaluators share their few cores with the servers.
"""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints.config import EndpointConfig, is_local
from reasonrl.endpoints.errors import BadReply, Rejected, Unreachable

if TYPE_CHECKING:
    import aiohttp

_MAX_REPLY_BYTES = 256 * 2**20
_HEAD = 300
_HIDDEN = "[hidden]"
_SHORTEST_SECRET = 8
"""Placeholders such as EMPTY are no secrets, and would turn up in ordinary text."""
_FIXES = {
    400: "the server does not take this request: see its words",
    401: "check the key in the variable that api_key_env names",
    403: "the key has no right to this model",
    404: "check base_url (it ends in /v1) and model",
    405: "check base_url (it ends in /v1)",
    413: "the request is too long for the server",
    422: "the server does not take this request: see its words",
    429: "lower max_concurrency or set requests_per_minute",
}


@dataclass(frozen=True)
class Body:
    """A successful reply's body: decoded, and as text."""

    data: Any
    text: str


class Transport:
    """Connections of one event loop.

    Made inside the loop that it serves; `close` belongs to the same loop.
    """

    def __init__(self, config: EndpointConfig) -> None:
        import aiohttp

        self.config = config
        self._timeout = aiohttp.ClientTimeout(total=config.timeout, sock_connect=config.connect_timeout)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def post(self, base_url: str, path: str, body: bytes) -> Body:
        """Send one request and read its whole reply.

        Raises:
            Unreachable: no whole reply.
            Rejected: a status other than 200.
            BadReply: no JSON.
            EndpointSettingsError: a key is not in the environment.
        """
        url, headers, hide = self._prepared(base_url, path)
        with self._translated(url, hide):
            session = self._session(is_local(base_url))
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                raw = await _read(response, url)
                status, answered = response.status, response.headers
        text = _clean(raw.decode("utf-8", errors="replace"), hide)
        if status != 200:
            raise self._rejected(url, status, answered, text)
        try:
            return Body(json.loads(text), text)
        except (ValueError, RecursionError) as problem:
            kind = answered.get("Content-Type", "nothing")
            raise BadReply(
                f"endpoint {url}: status 200, but the body is no JSON ({type(problem).__name__}, said to be {kind}):"
                f" {text[:_HEAD]!r} -> does base_url lead to an OpenAI-compatible server?"
            ) from None

    async def events(self, base_url: str, path: str, body: bytes) -> AsyncIterator[Any]:
        """Send one request with `stream` and yield the decoded events of its reply, up to `[DONE]`.

        Raises:
            Unreachable: no reply, or one that ended before `[DONE]`.
            Rejected, EndpointSettingsError: as `post`.
            BadReply: an event that is no JSON, or says an error.
        """
        url, headers, hide = self._prepared(base_url, path)
        with self._translated(url, hide):
            session = self._session(is_local(base_url))
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    text = _clean((await _read(response, url)).decode("utf-8", errors="replace"), hide)
                    raise self._rejected(url, response.status, response.headers, text)
                async for line in _lines(response, url):
                    if not line.startswith(b"data:"):
                        continue
                    payload = line[5:].strip()
                    if payload == b"[DONE]":
                        return
                    yield _event(payload, url, hide)
        raise Unreachable(f"endpoint {url}: the stream ended before [DONE] -> see the server's log")

    def _prepared(self, base_url: str, path: str) -> tuple[str, dict[str, str], list[str]]:
        """Address, headers, and the secrets among them."""
        secret = self.config.secret_headers()
        values = [value.removeprefix("Bearer ") for value in secret.values()]
        hide = [value for value in values if len(value) >= _SHORTEST_SECRET]
        return f"{base_url}/{path}", {**self.config.headers, **secret, "Content-Type": "application/json"}, hide

    @contextmanager
    def _translated(self, url: str, hide: Iterable[str]) -> Iterator[None]:
        """aiohttp's errors as ours."""
        import aiohttp

        try:
            yield
        except TimeoutError as problem:
            limit = "connect_timeout" if isinstance(problem, aiohttp.ConnectionTimeoutError) else "timeout"
            raise Unreachable(
                f"endpoint {url}: no whole reply within {limit}={getattr(self.config, limit):g} s -> raise {limit}, or"
                " look at the server's load"
            ) from None
        except (aiohttp.ClientError, OSError) as problem:
            raise Unreachable(_clean(_unreachable(url, problem), hide)) from None

    async def close(self) -> None:
        """Close all connections."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    def _session(self, local: bool) -> aiohttp.ClientSession:
        import aiohttp

        if local not in self._sessions:
            # Most servers drop an idle connection after 5 s: leaving it first avoids sending into a closing one.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
            self._sessions[local] = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, trust_env=not local, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._sessions[local]

    def _rejected(self, url: str, status: int, headers: Mapping[str, str], text: str) -> Rejected:
        fix = _FIXES.get(status, "look at the server's log" if status >= 500 else "see the server's words")
        if 300 <= status < 400:
            fix = f"it sends on to {headers.get('Location', 'nowhere')!r}: set base_url to where the API is"
        error = Rejected(f"endpoint {url}: status {status}: {text[:_HEAD]!r} -> {fix}", status)
        error.retry = status in self.config.retry_statuses
        error.retry_after = seconds_of_retry_after(headers.get("Retry-After"))
        return error


def seconds_of_retry_after(value: str | None) -> float | None:
    """Seconds from the header's number or date; None if there is none that can be read."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=datetime.UTC)
        seconds = (until - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(seconds, 0.0) if seconds < float("inf") else None


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MAX_REPLY_BYTES:
            raise BadReply(f"endpoint {url}: the reply is longer than {_MAX_REPLY_BYTES} bytes -> lower max_tokens")
    return b"".join(parts)


async def _lines(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    rest = b""
    async for part in response.content.iter_any():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > _MAX_REPLY_BYTES:
            raise BadReply(f"endpoint {url}: a line of the stream is longer than {_MAX_REPLY_BYTES} bytes")
    if rest:
        yield rest


def _event(payload: bytes, url: str, hide: Iterable[str]) -> Any:
    text = _clean(payload.decode("utf-8", errors="replace"), hide)
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise BadReply(f"endpoint {url}: an event of the stream is no JSON object: {text[:_HEAD]!r}")
    if event.get("error"):
        raise BadReply(f"endpoint {url}: the stream says an error: {text[:_HEAD]!r} -> see the server's log")
    return event


def _unreachable(url: str, problem: Exception) -> str:
    import aiohttp

    what = f"{type(problem).__name__}: {problem}"
    if isinstance(problem, aiohttp.ClientConnectorError):
        return f"endpoint {url}: no connection ({what}) -> is the server running, and is base_url right?"
    if isinstance(problem, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError)):
        return f"endpoint {url}: the connection was dropped before the whole reply ({what}) -> see the server's log"
    return f"endpoint {url}: no HTTP reply that could be read ({what}) -> is it an HTTP server at all?"


def _clean(text: str, hide: Iterable[str]) -> str:
    for value in hide:
        text = text.replace(value, _HIDDEN)
    return text
