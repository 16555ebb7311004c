"""The order of a round's messages: canonical first, then shuffled by the seed, never the order in which calls ended."""

from __future__ import annotations

from collections.abc import Iterable

from reasonrl.rollout.seeds import sample_seed


def ordered_messages(messages: Iterable[str], *seed: str | int) -> list[str]:
    """The messages by length, ties by text, and then in an order drawn from the seed.

    Two rounds that bring the same texts give the same order, whoever wrote which of them and whenever it came.
    """
    canonical = sorted(messages, key=lambda text: (len(text), text))
    drawn = sorted(range(len(canonical)), key=lambda place: (sample_seed("pacore order", *seed, place), place))
    return [canonical[place] for place in drawn]


def call_seed(*parts: str | int) -> int:
    """The seed that is sent with a call: 31 bits, which every server takes."""
    return sample_seed("pacore call", *parts) & 0x7FFF_FFFF
