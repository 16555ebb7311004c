"""Whether what a program gave is what was expected. Outside the sandbox; nothing here is asked of the program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any


def same_output(expected: str, given: str, tolerance: float | None = None) -> bool:
    """Line by line, white space inside lines and empty lines at the ends aside.

    Args:
        tolerance: two words that are numbers are also the same when they differ by no more than this, relatively or
            absolutely.
    """
    wanted, found = _lines(expected), _lines(given)
    if wanted == found:
        return True
    if tolerance is None or [len(line) for line in wanted] != [len(line) for line in found]:
        return False
    pairs = ((a, b) for line, other in zip(wanted, found, strict=True) for a, b in zip(line, other, strict=True))
    return all(a == b or _close(a, b, tolerance) for a, b in pairs)


def same_value(expected: Any, given: Any, tolerance: float | None = None, depth: int = 0) -> bool:
    """Equal plain values. Tuples count as lists (JSON has no tuples), keys of mappings as their text, and floating
    point numbers may differ by `tolerance`, relatively or absolutely.
    """
    if depth > 200:
        return False
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        pairs = zip(expected, given, strict=False)
        return len(expected) == len(given) and all(same_value(a, b, tolerance, depth + 1) for a, b in pairs)
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        ours, theirs = ({str(key): value for key, value in one.items()} for one in (expected, given))
        return ours.keys() == theirs.keys() and all(
            same_value(ours[key], theirs[key], tolerance, depth + 1) for key in ours
        )
    if isinstance(expected, Set) and isinstance(given, Set):
        return bool(expected == given)
    if any(isinstance(one, (Sequence, Mapping, Set)) for one in (expected, given)):
        return type(expected) is type(given) and bool(expected == given)
    if isinstance(expected, bool) is not isinstance(given, bool):
        return False
    if expected == given:
        return True
    if tolerance is None or not all(isinstance(one, (int, float)) for one in (expected, given)):
        return False
    try:
        return _near(float(expected), float(given), tolerance)
    except OverflowError:  # an integer beyond all floats
        return False


def _lines(text: str) -> list[list[str]]:
    lines = [line.split() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    start = next((place for place, line in enumerate(lines) if line), 0)
    return lines[start:]


def _close(expected: str, given: str, tolerance: float) -> bool:
    try:
        return _near(float(expected), float(given), tolerance)
    except (ValueError, OverflowError):
        return False


def _near(a: float, b: float, tolerance: float) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
