"""What one question's samples say: pass@k, pass^k, G-Pass@k, majority votes, best-of-k; each the exact or seeded
expectation over k of the n samples, never the first k and never filled up."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations
from typing import Literal, TypeAlias

import numpy

Ties: TypeAlias = Literal["average", "first"]
"""How a tied vote counts: as the mean over the tied answers, or as the tied answer that was sampled first."""

SUBSETS = 2_000
"""Up to so many subsets of size k are all looked at; of more, so many are drawn by a seed."""


def check_k(name: str, n: int, k: int) -> None:
    """Refuses k outside 1..n: a figure over k samples is never filled up with samples that do not exist.

    Raises:
        ValueError: it is.
    """
    if not 1 <= k <= n:
        raise ValueError(
            f"{name} needs 1 <= k <= n samples of each problem, got k={k} with n={n} -> lower k or draw more samples"
        )


def _check(name: str, n: int, correct: int, k: int) -> None:
    check_k(name, n, k)
    if not 0 <= correct <= n:
        raise ValueError(f"of {n} samples, {correct} cannot be right")


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right, from n samples of which `correct` are.

    1 - C(n - c, k) / C(n, k), as a product that neither overflows nor cancels (Chen et al. 2021, arXiv 2107.03374, Eq.
    1).

    Raises:
        ValueError: k is not in 1..n (never filled up with samples that do not exist) or `correct` is not in 0..n.
    """
    _check("pass@k", n, correct, k)
    if n - correct < k:
        return 1.0
    return float(1.0 - numpy.prod(1.0 - k / numpy.arange(n - correct + 1, n + 1)))


def pass_hat_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that all of k samples are right: C(c, k) / C(n, k) (pass^k; Yao et al. 2024, tau-
    bench, arXiv 2406.12045).

    Raises:
        ValueError: as `pass_at_k`.
    """
    _check("pass^k", n, correct, k)
    return 0.0 if correct < k else math.comb(correct, k) / math.comb(n, k)


def g_pass_at_k(n: int, correct: int, k: int, share: float) -> float:
    """Unbiased estimate of the chance that at least ceil(share k) of k samples are right: G-Pass@k of Liu et al. 2024
    (arXiv 2412.13147, Eq. 4).

    share = 1 is pass^k, and any share of at most 1/k is pass@k.

    Raises:
        ValueError: as `pass_at_k`, or the share is not in (0, 1].
    """
    _check("G-Pass@k", n, correct, k)
    if not 0 < share <= 1:
        raise ValueError(f"G-Pass@k: the share of right samples must lie in (0, 1], got {share!r}")
    least = math.ceil(share * k - 1e-9)
    ways = sum(math.comb(correct, right) * math.comb(n - correct, k - right) for right in range(least, k + 1))
    return ways / math.comb(n, k)


def mean_g_pass_at_k(n: int, correct: int, k: int) -> float:
    """mG-Pass@k: (2/k) times the sum of G-Pass@k at the shares i/k, i from ceil(k/2)+1 to k (arXiv 2412.13147, Eq. 6).

    Raises:
        ValueError: as `pass_at_k`, or k < 2: there is no share between 1/2 and 1 then.
    """
    _check("mG-Pass@k", n, correct, k)
    if k < 2:
        raise ValueError("mG-Pass@k needs k of at least 2")
    shares = range(math.ceil(k / 2) + 1, k + 1)
    return 2 / k * math.fsum(g_pass_at_k(n, correct, k, right / k) for right in shares)


def best_of_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    """Exact expected share of right answers when the best scored of k of the n samples is taken.

    The expectation is over all subsets of size k; of equal best scores each is as likely to be taken.

    Args:
        scores: what a reward model or judge says of each sample; higher is better.
        correct: whether each sample is right, length n.
        k: how many samples to choose from.

    Raises:
        ValueError: lengths differ, k is not in 1..n, or a score is not finite.
    """
    n = len(scores)
    _check_lengths(n, len(correct), "scores")
    check_k("best@k", n, k)
    unusable = [score for score in scores if not math.isfinite(score)]
    if unusable:
        raise ValueError(f"best@k needs a finite score of every sample, got {unusable[0]!r}")
    blocks: dict[float, list[bool]] = {}
    for score, right in zip(scores, correct, strict=True):
        blocks.setdefault(float(score), []).append(bool(right))
    total, expected, left = math.comb(n, k), 0.0, n
    for score in sorted(blocks, reverse=True):
        block = blocks[score]
        # Subsets of what is left with at least one of this block: their best is a sample of it, by symmetry any.
        chance = (math.comb(left, k) - math.comb(left - len(block), k)) / total
        expected += chance * sum(block) / len(block)
        left -= len(block)
    return expected


def maj_at_k(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool],
    k: int | None = None,
    *,
    weights: Sequence[float] | None = None,
    ties: Ties = "average",
    seed: int = 0,
    draws: int = SUBSETS,
) -> float:
    """Expected share of right majority answers among k of the n samples of one problem.

    Samples without an answer (None) do not vote; when none votes, the result is wrong. The expectation is over all
    subsets of size k where there are at most `draws`, else over `draws` seeded ones: never just the first k. An answer
    is right if any of the problem's samples that gave it counts as right; within a class the verdicts agree, except
    where a right answer was cut off.

    Args:
        answers: the equivalence class of each sample's answer, length n.
        correct: whether each sample counts as right, length n.
        k: votes; None for all n.
        weights: what each vote weighs (weighted majority: the sum of a reward model's scores); 1 each if None.
        ties: `average` lets tied answers share the vote equally; `first` takes the tied answer sampled first.
        seed: of the drawn subsets; the result is a function of the arguments.
        draws: how many subsets are looked at; `self-consistency from a pool` is n = 512 with 64 draws.

    Raises:
        ValueError: lengths differ, k is not in 1..n, a weight is negative or not finite, or no draws.
    """
    n = len(answers)
    k = n if k is None else k
    _check_lengths(n, len(correct), "answers")
    check_k("maj@k", n, k)
    if draws < 1:
        raise ValueError(f"maj@k needs at least one subset, got draws={draws}")
    heavy = _weights(weights, n)
    names = list(dict.fromkeys(answer for answer in answers if answer is not None))
    if not names:
        return 0.0
    place = {name: number for number, name in enumerate(names)}
    right = numpy.zeros(len(names))
    # One more class, thrown away after counting, takes the samples without an answer.
    codes = numpy.array([len(names) if answer is None else place[answer] for answer in answers])
    for answer, fine in zip(answers, correct, strict=True):
        if answer is not None and fine:
            right[place[answer]] = 1.0
    shares = [_winners(codes[chosen], heavy[chosen], right, ties) for chosen in _subsets(n, k, seed=seed, draws=draws)]
    return float(numpy.concatenate(shares).mean())


def _check_lengths(n: int, verdicts: int, what: str) -> None:
    if verdicts != n:
        raise ValueError(f"{n} {what} but {verdicts} verdicts")


def _weights(weights: Sequence[float] | None, n: int) -> numpy.ndarray:
    if weights is None:
        return numpy.ones(n)
    heavy = numpy.asarray(weights, dtype=float)
    if heavy.shape != (n,):
        raise ValueError(f"{n} answers but {len(weights)} weights")
    bad = heavy[~(numpy.isfinite(heavy) & (heavy >= 0))]
    if bad.size:
        raise ValueError(
            f"weights of votes must be finite and not negative, got {float(bad[0])!r} -> pass logits through a sigmoid"
        )
    return heavy


def _subsets(n: int, k: int, *, seed: int, draws: int) -> Iterator[numpy.ndarray]:
    """Subsets of size k in blocks of shape (subsets, k), each in order of sampling: all where they are few."""
    block = max(1, 1_000_000 // n)
    if math.comb(n, k) <= draws:
        every = numpy.array(list(combinations(range(n), k)))
        yield from (every[start : start + block] for start in range(0, len(every), block))
        return
    generator = numpy.random.default_rng(seed)
    for start in range(0, draws, block):
        order = generator.random((min(block, draws - start), n)).argsort(axis=1)
        yield numpy.sort(order[:, :k], axis=1)


def _winners(codes: numpy.ndarray, heavy: numpy.ndarray, right: numpy.ndarray, ties: Ties) -> numpy.ndarray:
    """Share of right winners of every subset; `codes` and `heavy` have shape (subsets, k)."""
    classes, rows = right.size, len(codes)
    places = codes + numpy.arange(rows)[:, None] * (classes + 1)
    size = rows * (classes + 1)
    sums = numpy.bincount(places.ravel(), weights=heavy.ravel(), minlength=size).reshape(rows, -1)[:, :classes]
    most = sums.max(axis=1, keepdims=True)
    # Sums of the same weights in another order may differ in the last digits.
    tied = (sums >= most * (1 - 1e-12)) & (sums > 0)
    voted = tied.any(axis=1)
    if ties == "average":
        return numpy.where(voted, (tied * right).sum(axis=1) / numpy.maximum(tied.sum(axis=1), 1), 0.0)
    padded = numpy.concatenate([tied, numpy.zeros((rows, 1), dtype=bool)], axis=1)
    earliest = numpy.take_along_axis(padded, codes, axis=1).argmax(axis=1)
    winner = numpy.take_along_axis(codes, earliest[:, None], axis=1)[:, 0]
    return numpy.where(voted, right[numpy.minimum(winner, classes - 1)], 0.0)
