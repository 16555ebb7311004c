"""Accuracy of a policy on validation rows, with an interval that knows samples of one problem are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from reasonrl.rollout.engine import Sample


def summarize(
    rewards: torch.Tensor,
    verdicts: Sequence[str] | None,
    samples: Sequence[Sample],
    samples_per_row: int,
    *,
    requires_stop: bool,
) -> dict[str, float]:
    """Accuracy, its 95 % interval, mean reward, mean length and truncated share.

    Args:
        rewards: (P * G,) total reward of each sample; the samples of a row stand together.
        verdicts: one per sample where the reward gives verdicts; else a reward of at least 1 counts as right.
        samples: what was drawn, in the same order.
        samples_per_row: G.
        requires_stop: a sample cut by its length is wrong.
    """
    stopped = np.array([sample.finish_reason == "stop" for sample in samples])
    scores = rewards.double().cpu().numpy()
    right = np.array([verdict == "correct" for verdict in verdicts]) if verdicts else scores >= 1
    if requires_stop:
        right, scores = right & stopped, np.where(stopped, scores, 0.0)
    per_row = right.reshape(-1, samples_per_row).mean(axis=1)
    low, high = _interval(per_row, samples_per_row)
    return {
        "eval_accuracy": float(per_row.mean()),
        "eval_accuracy_low": low,
        "eval_accuracy_high": high,
        "eval_reward": float(np.nanmean(scores)) if not np.isnan(scores).all() else float("nan"),
        "eval_mean_length": float(np.mean([len(sample.token_ids) for sample in samples])),
        "eval_truncated_fraction": float(1 - stopped.mean()),
    }


def _interval(per_row: np.ndarray, samples_per_row: int) -> tuple[float, float]:
    """Wilson's interval with the effective number of independent answers (Wilson 1927; Miller 2024, arXiv 2411.00640,
    for the clustering).
    """
    n, mean = len(per_row), float(per_row.mean())
    effective = float(n)
    if samples_per_row > 1 and n > 1 and 0 < mean < 1:
        variance_of_mean = float(per_row.var(ddof=1)) / n
        if variance_of_mean > 0:
            effective = min(max(float(n), mean * (1 - mean) / variance_of_mean), float(n * samples_per_row))
    z = 1.959963984540054
    centre = (mean + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(mean * (1 - mean) / effective + z * z / (4 * effective**2))
    return max(0.0, centre - half), min(1.0, centre + half)
