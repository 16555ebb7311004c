"""Compaction: what of an answer the next round is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from reasonrl.pacore.errors import PacoreError
from reasonrl.plugins import is_file_reference, load_from_file, near

OPENING_TAG, CLOSING_TAG = "<think>", "</think>"


@dataclass(frozen=True)
class Compacted:
    """A message made of an answer.

    Attributes:
        text: the message; empty if nothing is left.
        tagged: False where a closing tag was looked for and there was none, so that the message is the whole text.
        thinking: what was taken off; None where nothing was.
    """

    text: str
    tagged: bool = True
    thinking: str | None = None


Compaction: TypeAlias = Callable[[str, "str | None"], Compacted]
"""From (text, thinking that the server has already taken apart, or None) to the message."""


def after_think(text: str, reasoning: str | None = None, tag: str = CLOSING_TAG) -> Compacted:
    """What follows the last closing tag (arXiv 2601.05593, section 2.1); the whole text where there is none.

    Where the server has parted thinking and answer, the answer is the message as it is.
    """
    if reasoning is not None:
        return Compacted(text.strip(), True, reasoning)
    before, found, after = text.rpartition(tag)
    return Compacted(after.strip(), bool(found), before.strip().removeprefix(OPENING_TAG) if found else None)


def whole(text: str, reasoning: str | None = None) -> Compacted:
    """Thinking and answer, as the ablation without compaction wants it."""
    joined = text if reasoning is None else f"{OPENING_TAG}{reasoning}{CLOSING_TAG}{text}"
    return Compacted(joined.strip())


COMPACTIONS: Mapping[str, Compaction] = {"after_think": after_think, "none": whole}


def get_compaction(spec: str, base_dir: str | Path | None = None) -> Compaction:
    """The compaction of this name: `after_think`, `none`, `after:TAG`, `world:NAME` (a synthetic world's own), or
    `file.py:function`, a function from the text of an answer (with the thinking before it, where the server has parted
    them) to the message.

    Args:
        spec: the name.
        base_dir: where a relative path starts; the working directory if None.

    Raises:
        PacoreError: there is none of this name.
    """
    if spec in COMPACTIONS:
        return COMPACTIONS[spec]
    if spec.startswith("after:") and len(spec) > len("after:"):
        return partial(after_think, tag=spec.removeprefix("after:"))
    if spec.startswith("world:"):
        from reasonrl.pacore.synthesis import world_part

        return partial(_custom, world_part(spec, "message"), spec)
    if is_file_reference(spec):
        return partial(_custom, load_from_file(spec, base_dir, error=PacoreError), spec)
    raise PacoreError(f"compaction {spec!r}{near(spec, COMPACTIONS)}, after:TAG, world:NAME, or file.py:function")


def _custom(function: Callable[[str], str], spec: str, text: str, reasoning: str | None = None) -> Compacted:
    made = function(whole(text, reasoning).text)
    if not isinstance(made, str):
        raise PacoreError(f"compaction {spec!r} gave a {type(made).__name__} -> it must return a text")
    return Compacted(made.strip())
