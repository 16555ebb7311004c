"""What vLLM would change or cut without a word, or refuse late: refused before anything is drawn, in this process and
on servers alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, SamplingParams

# vLLM raises lower temperatures to the first, silently, and refuses higher ones than the second.
_TEMPERATURES = (0.01, 2.0)


def refuse_requests(requests: Sequence[Request], params: SamplingParams, room: int | None, holder: str) -> None:
    """Refuse requests that vLLM does not draw as they are.

    Args:
        requests, params: what is to be drawn.
        room: tokens of prompt and response together; None if unknown.
        holder: what has that room, such as "the engine holds".

    Raises:
        ModelError: the temperature, an empty prompt, or too little room for the response.
    """
    low, high = _TEMPERATURES
    if params.temperature != 0 and not low <= params.temperature <= high:
        raise ModelError(
            f"rollout: temperature = {params.temperature}, but vLLM draws at 0 (greedy) or from {low} to {high} -> use"
            " one of those, or rollout.engine=transformers"
        )
    for request in requests:
        length = len(request.prompt_ids)
        if not length:
            raise ModelError(
                f"rollout: request {request.id!r} has an empty prompt -> every prompt needs at least one token"
            )
        if room is not None and length + params.max_tokens > room:
            raise ModelError(
                f"rollout: request {request.id!r} needs {length} + {params.max_tokens} tokens (prompt and response),"
                f" but {holder} {room} -> raise rollout.max_model_len, or set max_prompt_length or fewer response"
                " tokens"
            )
