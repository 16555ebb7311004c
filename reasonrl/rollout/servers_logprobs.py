"""Whether a server says the log-probabilities of the distribution that tokens were drawn from.

vLLM's default (`raw_logprobs`) leaves temperature and top-p out. Nothing else would show it: ratios of old and new
probabilities would only be wrong.
"""

from __future__ import annotations

import asyncio

from reasonrl.errors import ModelError
from reasonrl.rollout.servers_http import read_text
from reasonrl.rollout.servers_state import Server

_COOL = 0.2
_PLACES = (4, 9, 16, 25)
_SHARE = 0.05
_LEAST = 0.2


async def require_processed(server: Server, ids: list[int], patience: float) -> None:
    """Draw a few tokens at a low temperature, read them at temperature 1, and compare.

    Args:
        server: one that answers.
        ids: a text to go on from, at least 25 tokens for four draws.
        patience: seconds for each draw and reading.

    Raises:
        ModelError: what the server says is the log-probability at temperature 1.
        ServerFault: it does not answer.
    """
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
