"""Which tokens end a sample; the same for every engine."""

from __future__ import annotations

from typing import Any

from reasonrl.errors import ModelError


def stop_tokens_of(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokenizer's end token and those that a generation config (or None) declares.

    Raises:
        ModelError: neither names one.
    """
    declared = generation_config.eos_token_id if generation_config is not None else None
    declared = [declared] if isinstance(declared, int) else list(declared or [])
    ids = {token for token in [*declared, tokenizer.eos_token_id] if token is not None}
    if not ids:
        raise ModelError("rollout: neither the tokenizer nor the model's generation config names an end token")
    return frozenset(ids)
