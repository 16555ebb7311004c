"""What rewards made of other rewards share: calling a part on some rows, and one account of what the parts log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.early import begin

#: What rewards count over a call, by the last part of the name; all else that they log is a mean over its samples.
SUMS = ("cost", "tokens", "verdict_kills")


def is_sum(metric: str) -> bool:
    """Whether a reward's metric adds up over calls and processes, where others are averaged."""
    return metric.rpartition("/")[2] in SUMS


def joined(metric: str, values: Sequence[float]) -> float:
    """What several calls, functions or processes logged under one name as one figure: the sum or the mean."""
    return math.fsum(values) if is_sum(metric) else math.fsum(values) / len(values)


class Journal:
    """One call of a combined reward: its batch, and the columns and metrics that its parts log.

    A part may be called on some of the rows only; the columns it logs are laid out over all of them (None elsewhere)
    and handed to the caller's `log_extra` once, its metrics weigh by the rows they were made of, or add up (`SUMS`).
    Where two parts log the same column for the same row, the later one's goes to `<column>_<label>`.

    Args:
        known: columns of earlier calls; they are handed on (empty) also where no part was called this time, so that a
            trainer's tables keep their shape. Grows in place.
    """

    def __init__(
        self,
        prompts: Any,
        completions: Sequence[Any],
        completion_ids: Any,
        columns: Mapping[str, Any],
        known: set[str] | None = None,
    ) -> None:
        self.log_extra = columns.get("log_extra")
        self.log_metric = columns.get("log_metric")
        self.count = len(completions)
        self.batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        self.batch |= {key: value for key, value in columns.items() if key not in ("log_extra", "log_metric")}
        self.known = known if known is not None else set()
        self.extra: dict[str, list[Any]] = {}
        self.metrics: dict[str, list[tuple[float, int]]] = {}

    def sample(self, place: int) -> tuple[Any, Any, dict[str, Any]]:
        """Prompt, completion and row of one sample, as `begin` was given them."""
        one = rows_at(self.batch, [place], self.count)
        row = {key: one[key][0] for key in one if one[key] is not self.batch[key]}
        ids = row.pop("completion_ids", None)
        return row.pop("prompts", None), row.pop("completions"), row | {"completion_ids": ids}

    def call(self, part: Any, label: str, places: Sequence[int] | None = None) -> list[Any]:
        """The part's scores for the rows at `places` (all if None), what it logs taken down under `label`."""
        chosen = range(self.count) if places is None else places
        whole = list(chosen) == list(range(self.count))
        batch = self.batch if whole else rows_at(self.batch, chosen, self.count)
        logged: dict[str, list[Any]] = {}
        logs: dict[str, Any] = {}
        if self.log_extra is not None:
            logs["log_extra"] = lambda column, values: logged.setdefault(column, []).extend(values)
        if self.log_metric is not None:
            logs["log_metric"] = lambda name, value: self.metrics.setdefault(name, []).append((value, len(chosen)))
        scores: list[Any] = part(**batch, **logs)
        if len(scores) != len(chosen):
            raise RewardError(
                f"reward {label!r} returned {len(scores)} scores for {len(chosen)} completions"
                " -> return one a completion"
            )
        for column, values in logged.items():
            self._lay(column, label, values, chosen)
        return scores

    def score(self, label: str, scores: Sequence[float | None], places: Sequence[int] | None = None) -> None:
        """Take down a part's scores: the column `reward_<label>`, and their mean as the metric `reward/<label>`."""
        chosen = range(self.count) if places is None else places
        self._lay(f"reward_{label}", label, list(scores), chosen)
        scored = [score for score in scores if score is not None]
        if scored:
            self.metrics.setdefault(f"reward/{label}", []).append((sum(scored) / len(scored), len(scored)))

    def hand_on(self) -> None:
        """Give the caller everything that was taken down."""
        self.known |= set(self.extra)
        if self.log_extra is not None:
            for column in sorted(self.known):
                self.log_extra(column, self.extra.get(column, [None] * self.count))
        if self.log_metric is not None:
            for name, values in self.metrics.items():
                weight = sum(rows for _, rows in values)
                if is_sum(name):
                    self.log_metric(name, math.fsum(value for value, _ in values))
                elif weight:
                    self.log_metric(name, sum(value * rows for value, rows in values) / weight)

    def _lay(self, column: str, label: str, values: list[Any], places: Sequence[int]) -> None:
        if len(values) != len(places):
            raise RewardError(
                f"reward {label!r}: the column {column!r} was logged with {len(values)} values for {len(places)}"
                " samples -> log each column with one value per sample"
            )
        name, number = column, 1
        while any(self.extra.get(name, [None] * self.count)[place] is not None for place in places):
            name = f"{column}_{label}" + (f"_{number}" if number > 1 else "")
            number += 1
        whole = self.extra.setdefault(name, [None] * self.count)
        for place, value in zip(places, values, strict=True):
            whole[place] = value


def rows_at(columns: Mapping[str, Any], places: Sequence[int], count: int) -> dict[str, Any]:
    """The columns cut to some rows: lists of `count` values; everything else (text, objects, None) is for all rows."""
    return {
        key: [value[place] for place in places]
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == count
        else value
        for key, value in columns.items()
    }


def labels_of(parts: Sequence[Any]) -> list[str]:
    """The parts' names, a number after those that another part has already."""
    names = [part.__name__ for part in parts]
    again = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}_{times + 1}" if times else name for name, times in zip(names, again, strict=True)]


def part_of(spec: Any, owner: str, base_dir: str | Path | None) -> Any:
    """The reward that a combined reward's argument names.

    Raises:
        RewardError: it cannot be built, or it rewards tokens.
    """
    from reasonrl.rewards.registry import get_reward

    part = get_reward(spec, base_dir)
    if part.token_level:
        raise RewardError(
            f"reward {owner!r}: its part {part.__name__!r} rewards tokens (token_level = True), and it combines"
            " numbers of whole responses -> take it out and list it beside this reward"
        )
    return part


def check_rows(reward: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Ask a reward whether it can use the rows of a data set, before anything trains.

    Rewards that read columns of their own have a method `check_rows`, which raises RewardError and names the row;
    others take any rows.
    """
    check = getattr(reward, "check_rows", None)
    if check is not None:
        check(rows)


def row_name(row: Mapping[str, Any], place: int) -> str:
    """A row in an error message: its id if it has one, and its place."""
    return f"row {place}" + (f" (id {row['id']!r})" if row.get("id") is not None else "")


class WeightedSum:
    """The sum of several rewards times their weights; None as soon as one of them is None, so that an unscorable sample
    stays unscored. The parts are all of whole responses, or all of tokens.

    Each part goes to `log_extra` as `reward_<name>` and its mean over the scored ones to `log_metric` as
    `reward/<name>`.
    """

    def __init__(self, items: Sequence[tuple[Any, float]]) -> None:
        self.items = list(items)
        self.token_level = all(part.token_level for part, _ in self.items)
        self.__name__ = "+".join(f"{weight:g}*{part.__name__}" for part, weight in self.items)
        self.labels = labels_of([part for part, _ in self.items])
        self._known: set[str] = set()

    def __call__(
        self, prompts: Any = None, completions: Any = (), completion_ids: Any = None, **columns: Any
    ) -> list[Any]:
        """One weighted sum a completion; for rewards of tokens one a token."""
        journal = Journal(prompts, completions, completion_ids, columns, self._known)
        parts = []
        for label, (part, _) in zip(self.labels, self.items, strict=True):
            parts.append(journal.call(part, label))
            if not self.token_level:
                journal.score(label, parts[-1])
        journal.hand_on()
        weights = [weight for _, weight in self.items]
        if self.token_level:
            return [_token_sum(of_one, weights) for of_one in zip(*parts, strict=True)]
        return [
            None if None in scores else math.fsum(w * s for w, s in zip(weights, scores, strict=True))
            for scores in zip(*parts, strict=True)
        ]

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin every part; see `early`."""
        for part, _ in self.items:
            begin(part, prompt, completion, row)

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Ask every part."""
        for part, _ in self.items:
            check_rows(part, rows)


def _token_sum(parts: Sequence[list[float] | None], weights: Sequence[float]) -> list[float] | None:
    """The weighted sums of one completion's tokens; None as soon as one part is None."""
    there = [tokens for tokens in parts if tokens is not None]
    if len(there) < len(parts):
        return None
    return [math.fsum(w * s for w, s in zip(weights, scores, strict=True)) for scores in zip(*there, strict=True)]
