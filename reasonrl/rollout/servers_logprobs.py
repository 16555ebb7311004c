"""Whether servers say the log-probabilities of the distribution that tokens were drawn from, and whether these are the
trainer's.

vLLM's default (`raw_logprobs`) leaves temperature and top-p out. Nothing else would show it: ratios of old and new
probabilities would only be wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.rollout.agreement import TEXT, Gap, gap_between, reading_ids, require_agreement, teacher_forced
from reasonrl.rollout.servers_http import ServerFault, StatusFault, read_text
from reasonrl.rollout.servers_images import Pictures, picture_reading
from reasonrl.rollout.servers_state import Reading, Server

if TYPE_CHECKING:
    from reasonrl.rollout.servers_fleet import Fleet

_COOL = 0.2
_PLACES = (4, 9, 16, 25)
_SHARE = 0.05
_LEAST = 0.2
_ATTEMPTS = 3


def reading_of(
    trainer: Any, tokenizer: Any, pictures: Pictures, room: int | None, limit: float, version: int
) -> Reading | None:
    """What the trainer reads of a short text, after a picture if it reads pictures, that servers must read the same
    (`room`: tokens they hold); None without a trainer.
    """
    if trainer is None:
        return None
    if pictures.processor is not None:
        picture = picture_reading(pictures, trainer.device, (room or 10**6) - 1, TEXT)
        ids = list(picture.prompt.prompt_ids)
        return Reading(ids, teacher_forced(trainer, ids, picture.inputs)[picture.start :], limit, version, picture)
    ids = reading_ids(tokenizer, most=(room or 10**6) - 1)
    return Reading(ids, teacher_forced(trainer, ids), limit, version)


async def require_agreement_of_all(fleet: Fleet, reading: Reading) -> Gap:
    """Compare what every server in service reads with what the trainer reads; servers that come back later have to
    agree too.

    Returns:
        The largest difference.

    Raises:
        ModelError: a server reads something else, or none reads.
    """
    found = [
        (server, gap_between(read, reading.trainer))
        for server, read in await fleet.readings(reading.ids, reading.picture)
    ]
    if not found:
        raise ModelError(f"rollout: no server could read the text of the self-test: {fleet.told()}")
    server, worst = max(found, key=lambda entry: entry[1].mean)
    require_agreement(worst, reading.limit, reading.version, server.name)
    fleet.reading = reading
    return worst


async def require_processed(servers: Sequence[Server], ids: list[int], patience: float) -> None:
    """Draw a few tokens at a low temperature, read them at temperature 1, and compare.

    Args:
        servers: those to ask.
        ids: a text to go on from, at least 25 tokens for four draws.
        patience: seconds for each draw and reading.

    Raises:
        ModelError: what a server says is the log-probability at temperature 1, or it draws nothing.
    """
    for server in servers:
        for attempt in range(_ATTEMPTS):
            try:
                await _require_processed(server, ids, patience)
                break
            except (ServerFault, TimeoutError) as fault:
                hopeless = isinstance(fault, StatusFault) and fault.hopeless
                if hopeless or attempt == _ATTEMPTS - 1:
                    raise ModelError(
                        f"rollout: {server.name} draws no token: {fault or 'no answer in time'} -> see its log, and"
                        " docs/servers.md"
                    ) from None


async def _require_processed(server: Server, ids: list[int], patience: float) -> None:
    pairs = await asyncio.gather(*(_pair(server, ids[:place], patience) for place in _PLACES if place < len(ids)))
    unlikely = sum(abs(plain) for _, plain in pairs)
    apart = sum(abs(said - plain) for said, plain in pairs)
    # A model that is sure of every token says nothing here.
    if unlikely > _LEAST and apart < _SHARE * unlikely:
        raise ModelError(
            f"rollout: server {server.api.url} gives log-probabilities of temperature 1 for tokens drawn at {_COOL} ->"
            " start it with --logprobs-mode processed_logprobs (docs/servers.md)"
        )


async def _pair(server: Server, prompt: list[int], patience: float) -> tuple[float, float]:
    """Log-probability of one drawn token as the server says it, and as it reads it at temperature 1."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": 1, "temperature": _COOL, "seed": 1, "logprobs": 0}
    body |= {"stream": True, "return_token_ids": True, "return_tokens_as_token_ids": True, "ignore_eos": True}
    async with asyncio.timeout(patience):
        drawn = await server.api.draw(body, lambda tokens: None)
    values = await read_text(server.api, server.model, [*prompt, drawn.token_ids[0]], patience)
    return drawn.logprobs[0], values[-1]
