"""When numbers read from packed rows count as those from padded ones."""

from __future__ import annotations

import torch
from torch import nn

#: How far packed numbers may be from padded ones, nats or units of a hidden state: what arithmetic alone explains.
FLOORS = {torch.float64: 1e-10, torch.float32: 1e-5}
HALF_FLOOR = 2e-2
#: And as a multiple of how far padded numbers are from those of each sequence alone, which differ by arithmetic only.
NOISE = 8.0


def disagreement(model: nn.Module, gap: float, noise: float, half: bool = False) -> str | None:
    """None if a gap between packed and padded numbers is arithmetic alone, else the fault in words.

    Args:
        model: what was read.
        gap: largest difference of packed and padded numbers.
        noise: largest difference of padded numbers and those of each sequence alone.
        half: whether it computes in half precision, whatever its weights are kept in.
    """
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    floor = HALF_FLOOR if half else FLOORS.get(dtype, HALF_FLOOR)
    # `not` so that NaN is an obstacle.
    if not gap <= max(floor, NOISE * noise):
        return (
            f"{type(model).__name__} gives other numbers for them (off by {gap:.2g}, where arithmetic explains"
            f" {noise:.2g})"
        )
    return None
