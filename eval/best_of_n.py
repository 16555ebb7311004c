"""Best-of-N and weighted majority by a process reward model's scores, as expectations over subsets of the N samples.

Never the first k of the samples: `rm@k` is the exact expectation over all subsets of size k, weighted `maj@k` over all
or, where there are too many, over seeded ones (`reasonrl.eval.estimates`). The rule that makes one score of a
solution's step scores is named in every key.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

from reasonrl.errors import DataError
from reasonrl.eval.estimates import best_of_k, maj_at_k, pass_at_k
from reasonrl.prm.aggregation import DEFAULT_AGGREGATION, aggregate


@dataclass(frozen=True)
class Candidate:
    """One sampled solution of a problem.

    Attributes:
        answer: equivalence class of its final answer; None if it has none.
        correct: whether that answer is right.
        step_scores: P(step is right) of every step; None where a step was cut off.
    """

    answer: Hashable | None
    correct: bool
    step_scores: Sequence[float | None]


def best_of_n(
    problems: Sequence[Sequence[Candidate]],
    sizes: Sequence[int],
    how: Sequence[str] = (DEFAULT_AGGREGATION,),
    *,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Per problem: what taking the best of k samples, and votes weighted by score, get right.

    Args:
        problems: the candidates of every problem.
        sizes: the k, each at most the number of candidates.
        how: aggregations of step scores.
        seed: of the subsets that votes are counted on, where there are too many.

    Returns:
        A list with one value a problem under `random`, `pass@k`, `maj@k`, and per aggregation `rm@k[last]` and
        `weighted_maj@k[last]`. A candidate that was cut, so that it has no score, counts as the lowest of all.

    Raises:
        DataError: there are no problems. ValueError: a k is larger than a problem's number of candidates.
    """
    if not problems:
        raise DataError("best_of_n: there are no problems")
    values: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(min(1.0, value))  # sums of shares may end a rounding error above

    for number, candidates in enumerate(problems):
        right = [one.correct for one in candidates]
        answers = [one.answer for one in candidates]
        add("random", fmean(right))
        scores = {rule: [aggregate(one.step_scores, rule) for one in candidates] for rule in how}
        for k in sizes:
            add(f"pass@{k}", pass_at_k(len(right), sum(right), k))
            add(f"maj@{k}", maj_at_k(answers, right, k, seed=seed + number))
            for rule in how:
                ranked = [-1.0 if score is None else score for score in scores[rule]]
                weights = [score or 0.0 for score in scores[rule]]
                add(f"rm@{k}[{rule}]", best_of_k(ranked, right, k))
                add(f"weighted_maj@{k}[{rule}]", maj_at_k(answers, right, k, weights=weights, seed=seed + number))
    return values
