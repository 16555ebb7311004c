"""Counter-based randomness: a sample's text depends on its seed alone, never on which samples were drawn beside it.

A 64-bit seed is derived from names and numbers (recipe seed, stage, step, prompt id, sample index); the uniform of
position t is a hash of (seed, t), by SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def sample_seed(*parts: str | int) -> int:
    """A 64-bit seed from the parts that name a sample; equal parts give equal seeds on every machine and in every
    process.
    """
    text = json.dumps(list(parts), ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def uniforms(seeds: NDArray[np.uint64], position: int) -> NDArray[np.float64]:
    """One uniform in [0, 1) per seed for this token position (0-based); (B,) in, (B,) out, 53 random bits each."""
    with np.errstate(over="ignore"):
        z = seeds + _GOLDEN * np.uint64(position + 1)
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
