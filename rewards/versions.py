"""Versions of the rules by which rewards judge: part of what a result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RULED = frozenset({"math", "choice", "compound", "cosine"})
"""Rewards whose verdicts follow from the rules of the math verifier, named or by default."""


def rule_versions(reward: Any) -> dict[str, int]:
    """`{"math": 2}` if a reward, alone or anywhere in a composed one, judges by the math verifier's rules; else empty.

    Args:
        reward: a reward spec: a name, terms, or mappings of them, as in a recipe.
    """
    if not _names(reward):
        return {}
    from reasonrl.rewards.math import GRADER_VERSION

    return {"math": int(GRADER_VERSION)}


def _names(value: Any) -> bool:
    """Whether the spec holds one of these names anywhere: rather one too many than a result that has gone stale."""
    if isinstance(value, str):
        return value in RULED
    if hasattr(value, "model_dump"):
        return _names(value.model_dump(mode="python"))
    if isinstance(value, Mapping):
        return any(_names(key) or _names(item) for key, item in value.items())  # routes have names as keys
    if isinstance(value, (list, tuple)):
        return any(_names(item) for item in value)
    return False
