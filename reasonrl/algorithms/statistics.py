"""Diagnostics of a rollout batch."""

from __future__ import annotations

import torch

from reasonrl.algorithms.advantages import masked_moments


def residual_moments(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Moments of the residuals R - V and of the returns R over counting tokens, as a (6,) float64 tensor that adds up
    over ranks.
    """
    return torch.cat([masked_moments(returns - values, mask), masked_moments(returns, mask)])


def value_and_return_means(moments: torch.Tensor) -> tuple[float, float]:
    """Means of V and of R over counting tokens from `residual_moments`; NaN of none."""
    count, residuals, _, _, returns, _ = moments.tolist()
    if count == 0:
        return float("nan"), float("nan")
    return (returns - residuals) / count, returns / count


def explained_variance(moments: torch.Tensor) -> float:
    """1 - Var(R - V) / Var(R) from `residual_moments`; 1 is a perfect critic, 0 one that knows only the mean, NaN
    when all returns are equal.
    """
    n, e, ee, m, r, rr = moments.tolist()
    if n == 0:
        return float("nan")
    variance_residual = ee / n - (e / n) ** 2
    variance_return = rr / m - (r / m) ** 2
    return float("nan") if variance_return < 1e-12 else 1 - variance_residual / variance_return
