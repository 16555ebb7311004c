"""Which prompts' samples teach something: groups whose scores differ."""

from __future__ import annotations

from collections.abc import Sequence

SAME = 1e-6


def varies(scores: Sequence[float]) -> bool:
    """Whether the scored samples of one prompt have scores that differ, so that comparing them says something.

    DAPO (arXiv 2503.14476, section 3.2) keeps a prompt whose number of right samples is neither 0 nor all, which is
    this for scores of 0 and 1; the mean of graded scores would not say it.

    Args:
        scores: of the samples of one prompt; NaN where a sample could not be scored. Differences up to 1e-6 of the
            larger score (or of 1) are the rounding of float32.

    Returns:
        False also where fewer than two samples have a score.
    """
    scored = [score for score in scores if score == score]
    if len(scored) < 2:
        return False
    low, high = min(scored), max(scored)
    return high - low > SAME * max(1.0, abs(low), abs(high))


def group_figures(scores: Sequence[float], num_generations: int, above: float) -> dict[str, float]:
    """Shares of the groups that are equal throughout (`equal_fraction`, under TRL's name), all right and all wrong:
    every scored sample of at least one is above `above`, or none is.

    Args:
        scores: the samples of a prompt stand next to each other; NaN where there is no score.
        num_generations: samples a prompt.
        above: a sample of a higher score is right (`positive_above`).
    """
    groups = [scores[start : start + num_generations] for start in range(0, len(scores), num_generations)]
    right = [[score > above for score in group if score == score] for group in groups]
    count = max(1, len(groups))
    return {
        "frac_reward_zero_std": equal_fraction(scores, num_generations),
        "group/all_right_fraction": sum(bool(group) and all(group) for group in right) / count,
        "group/all_wrong_fraction": sum(bool(group) and not any(group) for group in right) / count,
    }


def equal_fraction(scores: Sequence[float], num_generations: int) -> float:
    """The share of groups whose scores do not vary; the samples of a group stand next to each other."""
    starts = range(0, len(scores), num_generations)
    return sum(not varies(scores[start : start + num_generations]) for start in starts) / max(1, len(starts))
