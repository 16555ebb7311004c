"""Each row's own reward, named by a column of the data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.combining import Journal, check_rows, part_of, row_name
from reasonrl.rewards.early import begin


class RouteReward:
    """The reward that a row names in a column; each reward is called once a batch, with its own rows only.

    The scores of each go to `log_extra` as `reward_<name>` (None in the other rows) and to `log_metric` as
    `reward/<name>`.

    Args:
        rewards: the name that stands in the data, to a reward spec.
        column: the column with the names.
        default: the name (of `rewards`) for rows where the column is empty; None refuses such rows.
        base_dir: where a relative `file.py:function` starts.
    """

    token_level = False

    def __init__(
        self,
        rewards: Mapping[str, Any],
        column: str = "reward",
        default: str | None = None,
        base_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(rewards, Mapping) or not rewards:
            raise RewardError(f"reward 'route': rewards={rewards!r} -> give a mapping from a row's name to a reward")
        if default is not None and default not in rewards:
            raise RewardError(f"reward 'route': default {default!r} is none of rewards{near(str(default), rewards)}")
        self.__name__ = "route"
        self.rewards = {str(name): part_of(spec, "route", base_dir) for name, spec in rewards.items()}
        self.column = column
        self.default = default
        self._known: set[str] = set()

    def __call__(
        self, prompts: Any = None, completions: Sequence[Any] = (), completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """One score a completion, None where the row's reward gives none."""
        names = self._names(columns, len(completions))
        journal = Journal(prompts, completions, completion_ids, columns, self._known)
        scores: list[float | None] = [None] * len(completions)
        for name, reward in self.rewards.items():
            places = [place for place, named in enumerate(names) if named == name]
            if not places:
                continue
            given = journal.call(reward, name, places)
            journal.score(name, given, places)
            for place, score in zip(places, given, strict=True):
                scores[place] = score
        journal.hand_on()
        return scores

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the row's own reward; see `early`."""
        with contextlib.suppress(RewardError):  # the call says it
            begin(self.rewards[self._name(row.get(self.column), "")], prompt, completion, row)

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuse rows that name no reward of ours, and ask each reward about its rows."""
        names = [self._name(row.get(self.column), row_name(row, place)) for place, row in enumerate(rows)]
        for name, reward in self.rewards.items():
            check_rows(reward, [row for row, named in zip(rows, names, strict=True) if named == name])

    def _names(self, columns: Mapping[str, Any], count: int) -> list[str]:
        given = columns.get(self.column)
        if given is None and self.default is None:
            there = ", ".join(sorted(columns)) or "none"
            raise RewardError(
                f"reward 'route': there is no column {self.column!r} that names each row's reward; columns: {there}"
                " -> map one with data.columns, set args.column, or args.default"
            )
        ids = columns.get("id") or [None] * count
        rows = zip(given or [None] * count, ids, strict=True)
        return [self._name(name, row_name({"id": of_row}, place)) for place, (name, of_row) in enumerate(rows)]

    def _name(self, name: Any, row: str) -> str:
        if name is None or name == "":
            if self.default is None:
                raise RewardError(
                    f"reward 'route': {row} has nothing in its column {self.column!r}; allowed:"
                    f" {', '.join(sorted(self.rewards))} -> fill it, or set args.default"
                )
            return self.default
        if name not in self.rewards:
            raise RewardError(f"reward 'route': {row} names the reward {name!r}{near(str(name), self.rewards)}")
        return str(name)
