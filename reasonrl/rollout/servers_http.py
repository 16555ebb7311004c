"""Speaking to one vLLM server: samples as token ids over a stream of events, and its developer endpoints.

Not the transport of `reasonrl.endpoints`: that reads a reply whole under one time limit, while a rollout has to see
tokens come, so that it knows what a server still owes and notices one that has gone silent. The loop, the choice of
proxies and the reasons for aiohttp are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints.config import is_local
from reasonrl.errors import ModelError
from reasonrl.rollout.servers_images import GENERATE, ImagePrompt, PictureReading, require_same_prompt
from reasonrl.rollout.stop_strings import StopStrings

if TYPE_CHECKING:
    import aiohttp

_HEAD = 300
_COMPLETIONS = "/v1/completions"
_LARGEST_EVENT = 64 * 2**20


@dataclass(frozen=True)
class Limits:
    """How long to wait for a server, in seconds, and how often to ask again.

    Attributes:
        connect: for a connection.
        stall: between two pieces of a sample, the first one included.
        request: for one sample on one server, from sending it to its last token.
        probe: for an answer about a server's health; it is asked every `probe_every`, and lost after `probes` misses.
        sync: for a server to load weights.
        start: for a server that we start, until it answers.
        recovery: without any server that can draw.
        retries: times that one sample may fail through servers' faults.
        restarts: times in a row that a server is started again without drawing a sample.
    """

    connect: float = 10.0
    stall: float = 300.0
    request: float = 3600.0
    probe: float = 20.0
    probe_every: float = 5.0
    probes: int = 3
    sync: float = 600.0
    start: float = 600.0
    recovery: float = 600.0
    retries: int = 5
    restarts: int = 3


class ServerFault(Exception):
    """A server's failure after which the sample may be drawn elsewhere: what happened, without the server's name."""


@dataclass(frozen=True)
class Drawn:
    """A finished sample as a server gave it; a log-probability that was no number is NaN."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


class ServerApi:
    """One server's interface. Made and used in one event loop.

    Args:
        url: root of the server, without `/v1`.
        key: sent as bearer token; None sends none.
    """

    def __init__(self, url: str, key: str | None, limits: Limits) -> None:
        self.url, self.limits = url, limits
        self.key = key
        self._session: aiohttp.ClientSession | None = None

    async def draw(
        self,
        body: Mapping[str, Any],
        on_tokens: Callable[[int], None],
        prompt: ImagePrompt | None = None,
        stops: StopStrings | None = None,
    ) -> Drawn:
        """Draw one sample.

        Args:
            body: of `/v1/completions`, or of the endpoint for images where `prompt` has some.
            on_tokens: told how many tokens have just come.
            prompt: with images; the server has to have read its token ids.
            stops: texts that end the sample; the server is left there, which ends its work on it.

        Raises:
            ServerFault: no whole sample came.
            ModelError: the server has read other token ids than those of `prompt`.
        """
        ids: list[int] = []
        logprobs: list[float] = []
        reason: str | None = None
        try:
            events = self._events(_COMPLETIONS if prompt is None else GENERATE, body)
            async with asyncio.timeout(self.limits.request), contextlib.aclosing(events):
                async for event in events:
                    choice = _choice(event)
                    if choice is None:
                        continue
                    if prompt is not None and not ids:  # the first event alone says it
                        require_same_prompt(prompt, event.get("prompt_token_ids"), self.url)
                    new_ids, new_logprobs, reason = _delta(choice)
                    ids += new_ids
                    logprobs += new_logprobs
                    on_tokens(len(new_ids))
                    if stops and (end := stops.end(ids, len(new_ids))) is not None:
                        ids, logprobs, reason = ids[:end], logprobs[:end], "stop"
                        break
        except TimeoutError:
            raise ServerFault(
                f"a sample was not finished within request_timeout={self.limits.request:g} s ({len(ids)} tokens came)"
            ) from None
        if reason not in ("stop", "length"):
            raise ServerFault(f"the stream ended after {len(ids)} tokens with finish_reason {reason!r}")
        if not ids:
            raise ServerFault("a finished sample without token ids; does the server know return_token_ids?")
        return Drawn(tuple(ids), tuple(logprobs), reason)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout: float,
        params: Mapping[str, str] | None = None,
        as_text: bool = False,
    ) -> Any:
        """A short question, such as a developer endpoint; the JSON of the reply, or None for an empty one; `as_text`
        for a reply that is no JSON.

        Raises:
            ServerFault: no reply, or none with status 200; `status` then says which.
        """
        import aiohttp

        try:
            async with asyncio.timeout(timeout):
                request = self._open().request(
                    method, self.url + path, json=body, params=params, headers=self._headers(), allow_redirects=False
                )
                async with request as response:
                    raw = await response.read()
        except TimeoutError:
            raise ServerFault(f"no answer to {path} within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise ServerFault(_dropped(problem)) from None
        text = raw.decode("utf-8", errors="replace")
        if response.status != 200:
            raise StatusFault(path, response.status, text)
        if as_text:
            return text
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise ServerFault(f"{path}: status 200, but the body is no JSON: {text[:_HEAD]!r}") from None

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        import aiohttp

        try:
            headers = {**self._headers(), "Accept": "text/event-stream"}
            request = self._open().post(self.url + path, json=body, headers=headers, allow_redirects=False)
            response = await self._patiently(request.__aenter__())
            try:
                if response.status != 200:
                    text = (await self._patiently(response.read())).decode("utf-8", errors="replace")
                    raise StatusFault(path, response.status, text)
                rest = b""
                while piece := await self._patiently(response.content.readany()):
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if (event := _event(line)) is not None:
                            yield event
                    if len(rest) > _LARGEST_EVENT:
                        raise ServerFault(f"an event of more than {_LARGEST_EVENT} bytes")
                if (event := _event(rest)) is not None:
                    yield event
            finally:
                response.close()
        except (aiohttp.ClientError, OSError) as problem:
            if isinstance(problem, TimeoutError) and not isinstance(problem, aiohttp.ClientError):
                raise
            raise ServerFault(_dropped(problem)) from None

    async def _patiently(self, reading: Any) -> Any:
        limit = asyncio.timeout(self.limits.stall)
        try:
            async with limit:
                return await reading
        except TimeoutError:
            if not limit.expired():
                raise
            raise ServerFault(f"nothing came for stall_timeout={self.limits.stall:g} s") from None

    def _headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            # vLLM drops a connection that has been idle for 5 s by its own count, which begins before ours where this
            # process is busy: leaving it long before avoids sending into a closing one.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect),
                trust_env=not is_local(self.url),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class StatusFault(ServerFault):
    """The server answered with an HTTP status other than 200."""

    def __init__(self, path: str, status: int, text: str) -> None:
        super().__init__(f"{path}: status {status}: {text[:_HEAD]!r}")
        self.path, self.status = path, status

    @property
    def of_model(self) -> bool:
        """True where the server knows the path, and not the model that it was asked for."""
        return self.status == 404 and "does not exist" in str(self)

    @property
    def hopeless(self) -> bool:
        """True where asking again, here or elsewhere, gives the same."""
        return self.status in (400, 401, 403, 404, 405, 413, 422) or 300 <= self.status < 400


async def refusal(api: ServerApi, fault: StatusFault, model: str) -> ModelError:
    """The one error that ends the run where a server does not take our requests: who, what it serves, what to do."""
    if fault.status in (401, 403):
        fix = "name the variable that holds its key in rollout.api_key_env"
    elif fault.status == 404 and fault.path == "/version":
        return ModelError(
            f"rollout: server {api.url} is not vLLM's (it has no /version), and samples go to and from vLLM's server as"
            " token ids -> start it with `vllm serve` (docs/servers.md)"
        )
    elif fault.status == 404 and fault.path == GENERATE and not fault.of_model:
        return no_endpoint(api)
    elif fault.status == 404:
        try:
            served = await served_models(api)
            names = ", ".join(repr(entry["id"]) for entry in served)
            return ModelError(
                f"rollout: server {api.url} serves {names or 'no model'}, not {model!r} -> set rollout.served_model to"
                " one of those, or start the server with the run's model"
            )
        except ServerFault:
            fix = "does rollout.urls lead to vLLM's OpenAI-compatible server? Give its root, such as http://host:8000"
    else:
        fix = "see the server's words"
    return ModelError(f"rollout: server {api.url} refuses the request: {fault} -> {fix}")


def no_endpoint(api: ServerApi) -> ModelError:
    """Where a server does not take images."""
    return ModelError(
        f"rollout: server {api.url} has no endpoint {GENERATE}, through which images go -> start it with"
        " --enable-scale-out, and without --skip-tokenizer-init (docs/servers.md)"
    )


async def served_models(api: ServerApi) -> list[dict[str, Any]]:
    """What `/v1/models` lists."""
    reply = await api.ask("GET", "/v1/models", timeout=api.limits.probe)
    try:
        return [entry for entry in reply["data"] if isinstance(entry["id"], str)]
    except (TypeError, KeyError):
        raise ServerFault(f"/v1/models is not the API's: {str(reply)[:_HEAD]}") from None


async def read_text(
    api: ServerApi, model: str, ids: list[int], timeout: float, picture: PictureReading | None = None
) -> list[float]:
    """Natural log-probability at temperature 1 of every token but the first, by the server's weights; of those after
    `picture`, where the text has one.
    """
    how = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "ignore_eos": True}
    body = {"model": model, "prompt": ids, "return_token_ids": True, "return_tokens_as_token_ids": True, **how}
    if picture is not None:
        body = {"model": model, **picture.prompt.body(how)}
    reply = await api.ask("POST", _COMPLETIONS if picture is None else GENERATE, body, timeout=timeout)
    try:
        if picture is not None:
            require_same_prompt(picture.prompt, reply["prompt_token_ids"], api.url)
            ids, rows = ids[picture.start :], reply["prompt_logprobs"][picture.start + 1 :]
        else:
            rows = reply["choices"][0]["prompt_logprobs"][1:]
        return [_number(row[str(token)]["logprob"]) for token, row in zip(ids[1:], rows, strict=True)]
    except (TypeError, KeyError, IndexError, ValueError) as problem:
        raise ServerFault(
            f"prompt_logprobs are not the API's ({type(problem).__name__}: {problem}): {str(reply)[:_HEAD]}"
        ) from None


def _event(line: bytes) -> dict[str, Any] | None:
    line = line.strip()
    if not line.startswith(b"data:") or line == b"data: [DONE]":
        if line.startswith((b"{", b"<")):
            raise ServerFault(f"a stream of events was asked for, and this came: {line[:_HEAD]!r}")
        return None
    try:
        event = json.loads(line[len(b"data:") :])
    except ValueError:
        raise ServerFault(f"an event is no JSON: {line[:_HEAD]!r}") from None
    if not isinstance(event, dict):
        raise ServerFault(f"an event is no object: {line[:_HEAD]!r}")
    return event


def _choice(event: dict[str, Any]) -> dict[str, Any] | None:
    if "error" in event:
        raise ServerFault(f"the server reports {str(event['error'])[:_HEAD]}")
    choices = event.get("choices")
    if not isinstance(choices, list) or (choices and not isinstance(choices[0], dict)):
        raise ServerFault(f"an event without choices: {str(event)[:_HEAD]}")
    return choices[0] if choices else None


def _delta(choice: dict[str, Any]) -> tuple[list[int], list[float], str | None]:
    ids = choice.get("token_ids") or []
    said = choice.get("logprobs") or {}
    logprobs = said.get("token_logprobs") or [one.get("logprob") for one in said.get("content") or []]
    if len(ids) != len(logprobs) or not all(isinstance(token, int) for token in ids):
        raise ServerFault(f"{len(ids)} token ids came with {len(logprobs)} log-probabilities: {str(choice)[:_HEAD]}")
    return ids, [_number(value) for value in logprobs], choice.get("finish_reason")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _dropped(problem: Exception) -> str:
    import aiohttp

    what = f"{type(problem).__name__}: {problem}"
    if isinstance(problem, aiohttp.ClientConnectorError):
        return f"no connection ({what})"
    return f"the connection was dropped ({what})"
