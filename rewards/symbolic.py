"""Computer algebra for what our own reader does not read: math-verify on two normalised texts that passed the cost
gate. It may hang: the caller holds an alarm, in the main thread.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any


def load() -> None:
    """Imports the libraries, which takes seconds the first time."""
    importlib.import_module("math_verify")


def symbolically_equal(gold: str, answer: str) -> bool:
    """Whether two expressions are equal by math-verify, its own alarms off.

    Args:
        gold: a normalised text that passed the cost gate.
        answer: likewise.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its own alarms are off: ours is on
    settings: dict[str, Any] = {
        "extraction_config": [LatexExtractionConfig()],
        "fallback_mode": "no_fallback",
        "parsing_timeout": None,
    }
    parsed_gold, parsed_answer = parse(f"${gold}$", **settings), parse(f"${answer}$", **settings)
    if not parsed_gold or not parsed_answer:
        return False
    return bool(verify(parsed_gold, parsed_answer, timeout_seconds=None, allow_set_relation_comp=True))
