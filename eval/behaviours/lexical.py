"""The lexical baseline: a behaviour's count in a response is the number of sentences that hold one of its patterns."""

from __future__ import annotations

import re
from functools import lru_cache

from reasonrl.eval.behaviours.catalogue import Behaviour

_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


def sentences(text: str) -> list[str]:
    """The sentences of a text: it is cut after `.`, `!` and `?` before white space, and at line ends."""
    return [part for part in (piece.strip() for piece in _END.split(text)) if part]


def lexical_count(behaviour: Behaviour, text: str) -> int:
    """How many sentences of the text hold a pattern of the behaviour."""
    needs, patterns = _compiled(behaviour.needs, behaviour.patterns)
    return sum(
        (needs is None or needs.search(sentence) is not None) and any(pattern.search(sentence) for pattern in patterns)
        for sentence in sentences(text)
    )


@lru_cache(maxsize=256)
def _compiled(needs: str, patterns: tuple[str, ...]) -> tuple[re.Pattern[str] | None, tuple[re.Pattern[str], ...]]:
    return (
        re.compile(needs, re.IGNORECASE) if needs else None,
        tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns),
    )
