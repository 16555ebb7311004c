"""Tables of names, written as text."""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text, separated by bars."""
    return tuple(text.split("|"))


def pairs(text: str) -> dict[str, str]:
    """A table written as `key=value` words."""
    return dict(word.split("=", 1) for word in text.split())
