r"""Gold answers as data sets write them: `#### 42` at the end of a worked solution, a `\boxed{…}`, a number, or the
bare answer.
"""

from __future__ import annotations

from typing import Any

from reasonrl.latex import last_box

_SHORT = 200


def clean_answer(value: Any) -> tuple[str | None, str | None]:
    """The bare gold of an `answer` cell, and the worked solution if the cell held one.

    A final `#### x` gives `x`; a last box gives its content; an integral number loses its `.0`; a list of one stands
    for its item. Anything else is kept as it is written.

    Returns:
        (gold, worked solution or None); gold is None when the value is neither text nor a number.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value), None
    if not isinstance(value, str):
        return None, None
    found = _after_hashes(value)
    if found is None:
        found = last_box(value)
    if found is None:
        return value.strip(), None
    worked = value if len(value.strip().splitlines()) > 1 or len(value) > len(found) + 40 else None
    return found.strip(), worked


def gold_in_solution(solution: str) -> str | None:
    """The gold that a `solution` column carries: after `####`, in its last box, or the whole of a short line (TRL's
    layout); else None.
    """
    for found in (_after_hashes(solution), last_box(solution)):
        if found is not None:
            return found.strip()
    whole = solution.strip()
    return whole if whole and len(whole) <= _SHORT and "\n" not in whole else None


def _after_hashes(text: str) -> str | None:
    _, hashes, tail = text.rpartition("####")
    tail = tail.strip()
    return tail if hashes and tail and "\n" not in tail else None
