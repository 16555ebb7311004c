"""What is refused before it reaches a server, and the sample that is made of what comes back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from typing import Any

from reasonrl.endpoints.config import is_local
from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Sample
from reasonrl.rollout.servers_barrier import find_loader
from reasonrl.rollout.servers_drawing import Arrival
from reasonrl.rollout.servers_http import ServerApi, ServerFault, StatusFault, no_endpoint
from reasonrl.rollout.servers_images import GENERATE
from reasonrl.rollout.servers_state import Server

_log = logging.getLogger(__name__)


async def check_given(servers: Sequence[Server], trains: bool, processor: Any) -> None:
    """What servers at `urls` lack for a policy in training, or for one that reads images; raises ModelError."""
    if trains:
        require_loaders(servers)
    await require_endpoint(servers, processor)
    await warn_of_open_doors(servers)


async def require_endpoint(servers: Sequence[Server], processor: Any) -> None:
    """Raises ModelError where the model reads images (it has a processor) and a server has no endpoint for them."""
    for server in servers if processor is not None else ():
        try:
            await server.api.ask("GET", GENERATE, timeout=server.api.limits.probe)  # it takes POST only
        except StatusFault as fault:
            if fault.status == 404:
                raise no_endpoint(server.api) from None
        except ServerFault as fault:
            raise ModelError(f"rollout: {server.name} does not answer: {fault} -> see its log") from None


def refuse_far_servers(urls: Sequence[str]) -> None:
    """Raises ModelError where a server is on another machine: it does not see this one's files."""
    far = [url for url in urls if not is_local(url)]
    if far:
        raise ModelError(
            f"rollout.urls: {far[0]!r} is another machine, and weights go to servers through files -> set"
            " rollout.weights_dir to a folder that all machines see under the same path"
        )


def sample_of(arrival: Arrival, tokenizer: Any) -> Sample:
    """The sample, with its text; raises ModelError where a log-probability is not a number."""
    request, drawn = arrival.request, arrival.drawn
    if any(map(math.isnan, drawn.logprobs)):
        place = next(place for place, value in enumerate(drawn.logprobs) if math.isnan(value))
        raise ModelError(
            f"rollout: request {request.id!r} on {arrival.server.name}: the model's logits for response token"
            f" {place + 1} are not a number (weight version {arrival.version}) -> the weights hold NaN or inf; if"
            " training diverged, lower the learning rate"
        )
    return Sample(
        request=request,
        token_ids=drawn.token_ids,
        text=tokenizer.decode(list(drawn.token_ids), skip_special_tokens=True),
        logprobs_sampled=drawn.logprobs,
        finish_reason="stop" if drawn.finish_reason == "stop" else "length",
        weight_version=arrival.version,
        stamp=arrival.stamp,
    )


def require_loaders(servers: Sequence[Server]) -> None:
    """Raises ModelError where a server at `urls` takes no weights: a policy in training changes with every step."""
    for server in servers:
        if not server.loader:
            raise ModelError(
                f"rollout.urls: server {server.api.url} takes no weights (its developer endpoints are closed), and"
                " training gives it new ones with every step -> start it with VLLM_SERVER_DEV_MODE=1 and our worker as"
                " docs/servers.md shows, or let the run start servers: rollout.start"
            )


async def warn_of_open_doors(servers: Sequence[Server]) -> None:
    """Say which servers on other machines run any method of a worker for whoever reaches them, without a key."""
    for server in servers:
        if is_local(server.api.url) or not server.loader:
            continue
        stranger = ServerApi(server.api.url, None, server.api.limits)
        try:
            if await find_loader(stranger):
                _log.warning(
                    "rollout: the developer endpoints of server %s answer without a key: whoever reaches it can run"
                    " code there -> start it with --middleware reasonrl.rollout.servers_worker.RequireKey"
                    " (docs/servers.md), or keep strangers out of its network",
                    server.api.url,
                )
        except ServerFault:
            continue
        finally:
            await stranger.close()


def key_of(variable: str | None) -> str | None:
    """The key in an environment variable; raises ModelError where it is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ModelError(f"rollout.api_key_env: the environment variable {variable} is not set -> export {variable}=…")
    return key


def root_of(url: str) -> str:
    """A server's address without `/v1`."""
    return url.rstrip("/").removesuffix("/v1")
