"""Fitting messages into the context window by a stated rule, with a count of what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_CUT = "[…] "
"""Begins a message whose beginning was cut off."""


@dataclass(frozen=True)
class Fitted:
    """The messages that fit, in their order.

    Attributes:
        left_out: messages that do not stand in the prompt.
        shortened: messages whose beginning was cut off.
    """

    messages: list[str]
    left_out: int = 0
    shortened: int = 0


def fit_messages(messages: Sequence[str], room: int, rule: str, tokens: Callable[[str], int]) -> Fitted:
    """Make messages fit into so many tokens.

    Args:
        messages: in the order in which they will be shown.
        room: tokens that all of them together may take.
        rule: `longest`, `last` or `shorten`, as `Fit` describes them.
        tokens: counts the tokens of a text.
    """
    sizes = [tokens(text) for text in messages]
    if sum(sizes) <= room:
        return Fitted(list(messages))
    if rule == "shorten":
        return _shortened(messages, sizes, room, tokens)
    left = list(range(len(messages)))
    while left and sum(sizes[place] for place in left) > room:
        # Of equally long ones the later one goes.
        left.remove(max(left, key=lambda place: (sizes[place], place)) if rule == "longest" else left[-1])
    return Fitted([messages[place] for place in left], len(messages) - len(left))


def _shortened(messages: Sequence[str], sizes: Sequence[int], room: int, tokens: Callable[[str], int]) -> Fitted:
    limit = _common_limit(sizes, room)
    kept: list[str] = []
    cut = 0
    for text, size in zip(messages, sizes, strict=True):
        if size <= limit:
            kept.append(text)
            continue
        if (short := _tail(text, limit, tokens)) is not None:
            kept.append(short)
            cut += 1
    return Fitted(kept, len(messages) - len(kept), cut)


def _common_limit(sizes: Sequence[int], room: int) -> int:
    """The largest number of tokens to which all may be cut so that together they fit; 0 where there is none."""
    left, rest = room, sorted(sizes)
    for place, size in enumerate(rest):
        share = left // (len(rest) - place)
        if size > share:
            return max(share, 0)
        left -= size
    return rest[-1]


def _tail(text: str, limit: int, tokens: Callable[[str], int]) -> str | None:
    """The longest end of a text, marked as cut, of at most `limit` tokens; None where not even the mark fits."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if tokens(_CUT + text[len(text) - middle :]) <= limit:
            low = middle
        else:
            high = middle - 1
    return _CUT + text[len(text) - low :] if low else None
