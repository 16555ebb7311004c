"""Putting a step together from samples that come in any order: when may what be trained on?

Pure bookkeeping between the engines and the trainer. Nothing is handed out before its unit is whole, and a step is not
closed before every requested sample is in, so who finishes early is not trained more than who finishes late
(`length_bias.py` measures that). A step may be closed in part only where it was said to allow it; what is left out is
named.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
Unit = Literal["sample", "group", "batch"]


@dataclass(frozen=True)
class Wanted:
    """A sample that was asked for: its id, unique in the step, and the group that its baseline is taken over."""

    id: str
    group: str


@dataclass(frozen=True)
class Closed(Generic[Item]):
    """A unit that is whole: its samples in the order in which they were requested, whatever order they came in."""

    unit: Hashable
    ids: tuple[str, ...]
    items: tuple[Item, ...]


class StepAssembler(Generic[Item]):
    """Collects the scored samples of one step.

    Args:
        wanted: every sample of the step, in the order in which it is to be trained.
        unit: what may be handed on by itself: a `sample` (a critic gives each its advantage), a `group` (its mean is
            the baseline), or only the whole `batch` (normalisation over the batch).
        partial: whether the step may be closed while samples are missing.

    Raises:
        ValueError: nothing is wanted, or two wanted samples have the same id.
    """

    def __init__(self, wanted: Sequence[Wanted], unit: Unit = "group", *, partial: bool = False) -> None:
        self.wanted, self.unit, self.partial = tuple(wanted), unit, partial
        self._unit_of = {entry.id: self._name(entry) for entry in self.wanted}
        if not self.wanted or len(self._unit_of) != len(self.wanted):
            raise ValueError(f"{len(self.wanted)} samples wanted under {len(self._unit_of)} distinct ids")
        self._members: dict[Hashable, list[str]] = {}
        for entry in self.wanted:
            self._members.setdefault(self._unit_of[entry.id], []).append(entry.id)
        self._missing = {unit: len(ids) for unit, ids in self._members.items()}
        self._items: dict[str, Item] = {}
        self._closed = False

    def add(self, sample_id: str, item: Item) -> Closed[Item] | None:
        """Take in a sample that is finished and scored (a sample that could not be scored is one too: `item` says so).

        Returns:
            The unit that this sample completed, or None while its unit still waits for others.

        Raises:
            ValueError: the sample was not asked for, came before (drawn twice after a retry, say), or the step is
                closed.
        """
        if self._closed:
            raise ValueError(f"sample {sample_id!r} came after its step was closed")
        if sample_id not in self._unit_of:
            raise ValueError(f"sample {sample_id!r} was not asked for in this step")
        if sample_id in self._items:
            raise ValueError(f"sample {sample_id!r} came twice -> an engine's retry must replace, not repeat, a sample")
        self._items[sample_id] = item
        unit = self._unit_of[sample_id]
        self._missing[unit] -= 1
        return None if self._missing[unit] else self._whole(unit)

    @property
    def complete(self) -> bool:
        """Whether every requested sample is in."""
        return len(self._items) == len(self.wanted)

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids that are still out, in the order of the request."""
        return tuple(entry.id for entry in self.wanted if entry.id not in self._items)

    def close(self) -> Closed[Item]:
        """End the step.

        Returns:
            All samples of whole units in the order of the request. With `partial` those of units that still miss a
            member are left out, too: count them by `left_out`.

        Raises:
            ValueError: samples are missing and the step does not allow it.
        """
        if not self.complete and not self.partial:
            out = self.missing
            raise ValueError(
                f"the step misses {len(out)} of {len(self.wanted)} samples, first {out[0]!r} -> wait for them: who"
                " trains on those that finished first trains on short answers"
            )
        self._closed = True
        ids = tuple(entry.id for entry in self.wanted if not self._missing[self._unit_of[entry.id]])
        return Closed("step", ids, tuple(self._items[sample_id] for sample_id in ids))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids that closing now would leave out: missing ones, and those whose unit misses a member."""
        return tuple(entry.id for entry in self.wanted if self._missing[self._unit_of[entry.id]])

    def _name(self, entry: Wanted) -> Hashable:
        return {"sample": entry.id, "group": entry.group, "batch": "batch"}[self.unit]

    def _whole(self, unit: Hashable) -> Closed[Item]:
        ids = tuple(self._members[unit])
        return Closed(unit, ids, tuple(self._items[sample_id] for sample_id in ids))
