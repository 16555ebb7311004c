"""Accuracy of a policy on validation rows, with an interval that knows samples of one problem are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reasonrl.errors import RewardError
from reasonrl.rollout.engine import Request, SamplingParams
from reasonrl.rollout.seeds import sample_seed
from reasonrl.trainers.batch import total_scores
from reasonrl.trainers.completion_rows import column_of
from reasonrl.trainers.drawing import in_order

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer


@dataclass(frozen=True)
class Judged:
    """One validation sample: its total reward (NaN if unscored), verdict if the reward gives one, end, and tokens."""

    reward: float
    verdict: str | None
    stopped: bool
    length: int

    def counts(self, requires_stop: bool) -> bool:
        """Whether the sample may earn anything: with `requires_stop`, one that its length cut may not."""
        return self.stopped or not requires_stop


def judge(trainer: PPOTrainer, placed: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, Judged]]:
    """Draw and score validation samples: this rank's, each with its place among all of them."""
    rows = [row for _, row in placed]
    # The same seeds at every evaluation: differences between steps are the policy's, not the draw's.
    requests = [
        Request(
            id=str(number),
            prompt_ids=prompt.ids,
            seed=sample_seed(trainer.args.seed, trainer.args.stage_name, "eval", str(row["id"]), place),
            images=prompt.images,
        )
        for number, ((place, row), prompt) in enumerate(zip(placed, trainer.prompts.render(rows), strict=True))
    ]
    # The stage's own settings, whatever a schedule says: differences between steps are the policy's.
    args = trainer.args
    params = SamplingParams(args.max_completion_length, args.temperature, trainer.top_p, tuple(args.stop_strings))
    with trainer.for_inference():
        samples = in_order(trainer.begin_rewards(trainer.engine.stream(requests, params), rows), len(rows))
    scored = trainer.score(rows, samples)
    verdicts = column_of(scored.extra, "verdict", len(rows)) or [None] * len(rows)
    totals = total_scores(scored.rewards, trainer.reward_weights).tolist()
    return [
        (place, Judged(total, verdict, sample.finish_reason == "stop", len(sample.token_ids)))
        for (place, _), total, verdict, sample in zip(placed, totals, verdicts, samples, strict=True)
    ]


def summarize(judged: Sequence[Judged], samples_per_row: int, *, requires_stop: bool) -> dict[str, float]:
    """Accuracy, its 95 % interval, mean reward, mean length and truncated share.

    Args:
        judged: (P * G,) samples; those of a row stand together. Where the reward gives no verdict, at least 1 is right.
        samples_per_row: G.
        requires_stop: a sample cut by its length is wrong and earns nothing.

    Raises:
        RewardError: nothing could be scored. Single samples that could not are left out and counted.
    """
    rows = [judged[start : start + samples_per_row] for start in range(0, len(judged), samples_per_row)]
    scored = [[one for one in row if not math.isnan(one.reward)] for row in rows]
    right = [
        [
            one.counts(requires_stop) and (one.verdict == "correct" if one.verdict is not None else one.reward >= 1)
            for one in row
        ]
        for row in scored
        if row
    ]
    rewards = [one.reward if one.counts(requires_stop) else 0.0 for row in scored for one in row]
    if not rewards:
        raise RewardError(
            f"validation: none of the {len(judged)} samples could be scored -> look at the answers of eval_data"
        )
    per_row = np.array([np.mean(row) for row in right])
    low, high = _interval(per_row, samples_per_row)
    return {
        "eval_accuracy": float(per_row.mean()),
        "eval_accuracy_low": low,
        "eval_accuracy_high": high,
        "eval_reward": float(np.mean(rewards)),
        "eval_unscored": float(len(judged) - len(rewards)),
        "eval_mean_length": float(np.mean([one.length for one in judged])),
        "eval_truncated_fraction": float(np.mean([not one.stopped for one in judged])),
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
