"""The column of a data set in which a reward finds what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.errors import RewardError

GOLD_COLUMNS = ("answer", "solution")
"""Where golds are looked for when a recipe names no column."""


def column_named(
    reward: str,
    given: str | None,
    usual: Sequence[str],
    columns: Mapping[str, Any],
    what: str = "golds",
    argument: str = "gold",
) -> str:
    """The name of the first column that is there: the one given, or one of the usual ones.

    Args:
        reward: whose column it is, for the message.
        given: what the recipe names; None looks for the usual ones.
        usual: names in the order in which they are looked for.
        columns: the columns, or one row; a value of None is not there.
        what: what the column holds.
        argument: the reward's argument that names it.

    Raises:
        RewardError: there is none.
    """
    names = (given,) if given is not None else tuple(usual)
    found = next((name for name in names if columns.get(name) is not None), None)
    if found is not None:
        return found
    there = ", ".join(sorted(columns)) or "none"
    raise RewardError(
        f"reward {reward!r}: there is no column {' or '.join(map(repr, names))} with the {what}; columns: {there}"
        f" -> map one with data.columns, or set args.{argument}"
    )
