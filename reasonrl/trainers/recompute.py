"""Gradient checkpointing switched for a while: decoding cannot do with it, training wants it back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def checkpointing(policy: Any, args: Any, *, on: bool) -> Iterator[None]:
    """Gradient checkpointing on or off inside, and the other way round afterwards; nothing where `args`, a trainer's
    settings, do not ask for it. It can keep no key-value cache, so it is off while the policy decodes.
    """
    if not args.gradient_checkpointing:
        yield
        return
    _switch(policy, args, on)
    try:
        yield
    finally:
        _switch(policy, args, not on)


def _switch(policy: Any, args: Any, on: bool) -> None:
    if on:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
    else:
        policy.gradient_checkpointing_disable()
