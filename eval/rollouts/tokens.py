"""Token ids and log-probabilities in a JSONL record: base64 of little-endian 32-bit numbers, 5.3 characters each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from reasonrl.rollout.engine import Sample

IDS, LOGPROBS = "completion_ids", "logprobs_sampled"
_TYPES = {IDS: "<i4", LOGPROBS: "<f4"}


def packed(name: str, values: Sequence[float] | None) -> str | None:
    """The numbers of field `name` as text; None where there are none."""
    if not values:
        return None
    return base64.b64encode(np.asarray(values, dtype=_TYPES[name]).tobytes()).decode()


def unpacked(name: str, text: str | None) -> np.ndarray[Any, Any] | None:
    """The inverse of `packed`, as an array of 32-bit numbers.

    Raises:
        ValueError: the text is damaged.
    """
    return None if text is None else np.frombuffer(base64.b64decode(text, validate=True), dtype=_TYPES[name])


def ids_of(sample: Sample) -> str | None:
    """A sample's token ids; None where its engine gives text alone."""
    return packed(IDS, sample.token_ids)


def logprobs_of(sample: Sample) -> str | None:
    """A sample's log-probabilities; None where its engine gives none."""
    return packed(LOGPROBS, sample.logprobs_sampled)
