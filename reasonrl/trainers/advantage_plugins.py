"""Advantages that other packages add, by the name of their entry point."""

from __future__ import annotations

import torch

from reasonrl.errors import ModelError
from reasonrl.plugins import load_entry_point
from reasonrl.recipe.advantage_rules import ADVANTAGES_GROUP


def plugin_advantages(name: str, total: torch.Tensor, num_generations: int) -> torch.Tensor:
    """(B,) advantages of (B,) total rewards, the samples of a prompt side by side; 0 where a reward is NaN.

    Raises:
        ModelError: the plugin gives another shape, or a number that is not finite where there is a reward.
    """
    function = load_entry_point(name, ADVANTAGES_GROUP, error=ModelError)
    groups = total.view(-1, num_generations)
    made = torch.as_tensor(function(groups.clone())).to(groups)  # type: ignore[misc]
    if made.shape != groups.shape or not bool(made[~groups.isnan()].isfinite().all()):
        raise ModelError(
            f"advantage: {name}: the plugin gives {tuple(made.shape)} for rewards of {tuple(groups.shape)}, or numbers"
            " that are not finite -> (P, G) finite advantages for (P, G) rewards; NaN rewards do not count"
        )
    return torch.where(groups.isnan(), 0.0, made).view(-1)
