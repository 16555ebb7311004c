"""Handing a policy's weights to an engine: what this engine takes, how much that is, how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout.engine import RolloutEngine


@dataclass(frozen=True)
class Transfer:
    """One transfer of weights.

    Attributes:
        bytes: of the tensors that were handed over; 0 where the engine decodes with the policy itself.
        seconds: wall time, the engine's check included.
    """

    bytes: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars for the run's metrics."""
        return {"rollout/sync_mb": self.bytes / 2**20, "time/sync": self.seconds}


def decodes_with(engine: RolloutEngine, policy: Any) -> bool:
    """Whether an engine draws with this very module, or with the model under its adapter."""
    own = getattr(engine, "model", None)
    return own is not None and (own is policy or own is getattr(policy, "get_base_model", lambda: policy)())


def weights_for(engine: RolloutEngine, policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What `engine.sync_weights` takes of a policy now: nothing where the engine decodes with this very module, the
    engine's own choice (`weights_of`) where it has one, else everything, merged.
    """
    if decodes_with(engine, policy):
        return iter(())
    chosen = getattr(engine, "weights_of", checkpoint_weights)
    weights: Iterator[tuple[str, torch.Tensor]] = chosen(policy)
    return weights


def hand_over(engine: RolloutEngine, policy: Any, version: int) -> Transfer:
    """Give the engine the policy's weights as this version."""
    moved = 0

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal moved
        for name, tensor in weights_for(engine, policy):
            moved += tensor.numel() * tensor.element_size()
            yield name, tensor

    started = time.perf_counter()
    engine.sync_weights(counted(), version)
    return Transfer(moved, time.perf_counter() - started)
