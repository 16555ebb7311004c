"""pass^k, G-Pass@k, best-of-k, majority votes: against enumeration of all subsets and a published best-of-N example."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.eval.estimates import best_of_k, g_pass_at_k, maj_at_k, mean_g_pass_at_k, pass_at_k, pass_hat_k


def _sigmoid(logits: Sequence[float]) -> list[float]:
    return [1 / (1 + math.exp(-logit)) for logit in logits]


def test_published_example_of_votes_and_best_of_n(qwen_example: list[dict[str, list[object]]]) -> None:
    found: Counter[str] = Counter()
    for row in qwen_example:
        right, answers = [bool(score) for score in row["score"]], row["pred"]
        scores = [steps[-1] for steps in row["pred_score"]]
        for k in (1, 2, 4, 8):
            found[f"pass@{k}"] += pass_at_k(8, sum(right), k)
        found["maj@8"] += maj_at_k(answers, right)
        found["maj@8, first of the tied"] += maj_at_k(answers, right, ties="first")
        found["weighted maj@8"] += maj_at_k(answers, right, weights=_sigmoid(scores))
        for k in (2, 4, 8):  # the published figures take the first k samples
            found[f"best@{k} of the first {k}"] += best_of_k(scores[:k], right[:k], k)
    assert {name: round(100 * total / len(qwen_example), 2) for name, total in found.items()} == {
        "pass@1": 91.00,
        "pass@2": 93.29,
        "pass@4": 95.10,
        "pass@8": 96.00,
        "maj@8": 92.50,
        "maj@8, first of the tied": 93.00,
        "weighted maj@8": 94.00,
        "best@2 of the first 2": 93.00,
        "best@4 of the first 4": 93.00,
        "best@8 of the first 8": 94.00,
    }


@pytest.mark.parametrize("n", range(1, 8))
def test_powers_and_shares_equal_enumeration_of_all_subsets(n: int) -> None:
    for correct in range(n + 1):
        right = [1] * correct + [0] * (n - correct)
        for k in range(1, n + 1):
            hits = [sum(subset) for subset in combinations(right, k)]
            assert pass_hat_k(n, correct, k) == pytest.approx(numpy.mean([h == k for h in hits]), abs=1e-12)
            for share in (0.25, 0.5, 0.6, 1.0):
                expected = numpy.mean([h >= share * k for h in hits])
                assert g_pass_at_k(n, correct, k, share) == pytest.approx(expected, abs=1e-12)
            assert g_pass_at_k(n, correct, k, 1.0) == pass_hat_k(n, correct, k)
            assert g_pass_at_k(n, correct, k, 1 / k) == pytest.approx(pass_at_k(n, correct, k), abs=1e-12)
            if k > 1:
                grid = [2 / k * (h >= i) for h in hits for i in range(math.ceil(k / 2) + 1, k + 1)]
                assert mean_g_pass_at_k(n, correct, k) == pytest.approx(sum(grid) / len(hits), abs=1e-12)


def test_large_counts_stay_exact() -> None:
    from scipy.stats import hypergeom

    assert g_pass_at_k(512, 200, 64, 0.5) == pytest.approx(hypergeom.sf(31, 512, 200, 64), rel=1e-9)
    assert pass_hat_k(512, 300, 64) == pytest.approx(hypergeom.pmf(64, 512, 300, 64), rel=1e-9)


_SAMPLES = st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 3)), min_size=1, max_size=7)


@settings(deadline=None)
@given(_SAMPLES, st.integers(1, 7))
def test_best_of_k_equals_enumeration(samples: list[tuple[str | None, int]], k: int) -> None:
    scores, right = [score for _, score in samples], [answer == "a" for answer, _ in samples]
    if k > len(samples):
        with pytest.raises(ValueError, match="best@k needs 1 <= k <= n"):
            best_of_k(scores, right, k)
        return
    shares = []
    for subset in combinations(range(len(samples)), k):
        top = max(scores[index] for index in subset)
        shares.append(numpy.mean([right[index] for index in subset if scores[index] == top]))
    assert best_of_k(scores, right, k) == pytest.approx(numpy.mean(shares), abs=1e-12)


@settings(deadline=None)
@given(_SAMPLES, st.integers(1, 7), st.booleans(), st.sampled_from(["average", "first"]))
def test_votes_equal_enumeration(samples: list[tuple[str | None, int]], k: int, weighted: bool, ties: str) -> None:
    answers, right = [answer for answer, _ in samples], [answer == "a" for answer, _ in samples]
    weights = [float(weight) for _, weight in samples] if weighted else [1.0] * len(samples)
    k = min(k, len(samples))
    shares = []
    for subset in combinations(range(len(samples)), k):
        votes: dict[str, float] = {}
        for index in subset:
            if answers[index] is not None and weights[index] > 0:
                votes[answers[index]] = votes.get(answers[index], 0.0) + weights[index]
        tied = [answer for answer, weight in votes.items() if weight == max(votes.values())]
        if ties == "first" and tied:
            tied = [next(answers[index] for index in subset if answers[index] in tied)]
        shares.append(numpy.mean([answer == "a" for answer in tied]) if tied else 0.0)
    found = maj_at_k(answers, right, k, weights=weights if weighted else None, ties=ties)
    assert found == pytest.approx(numpy.mean(shares), abs=1e-9)


def test_resampled_votes_from_a_pool_tend_to_the_exact_expectation() -> None:
    """2 of 3 votes for the right answer at rate 0.6 win with 0.6³ + 3 0.6² 0.4 = 0.648; a large pool is near that."""
    pool = ["a"] * 307 + ["b"] * 205
    right = [answer == "a" for answer in pool]
    exact = 0.648 - (0.6 - 307 / 512) * 1.44
    many = maj_at_k(pool, right, 3, draws=16_000, seed=1)
    assert many == pytest.approx(exact, abs=0.016)
    once, again = (maj_at_k(pool, right, 3, draws=64, seed=5) for _ in range(2))
    assert once == again and abs(once - exact) < 5 * math.sqrt(exact * (1 - exact) / 64)
    assert maj_at_k(pool, right, 3, draws=64, seed=6) != once


def test_a_right_answer_that_was_cut_in_one_sample_stays_right() -> None:
    assert maj_at_k(["a", "a", "b"], [False, True, False]) == 1.0
    assert maj_at_k(["a", "a", "b"], [False, False, False]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_hat_k(8, 3, 16), "pass\\^k needs 1 <= k <= n"),
        (lambda: g_pass_at_k(8, 3, 9, 0.5), "k=9 with n=8"),
        (lambda: g_pass_at_k(8, 3, 4, 0.0), "must lie in"),
        (lambda: mean_g_pass_at_k(8, 3, 1), "k of at least 2"),
        (lambda: best_of_k([1.0, math.nan], [True, False], 1), "finite score"),
        (lambda: best_of_k([1.0], [True, False], 1), "1 scores but 2 verdicts"),
        (lambda: maj_at_k(["a", "b"], [True, False], weights=[1.0, -1.0]), "not negative, got -1.0"),
        (lambda: maj_at_k(["a", "b"], [True, False], weights=[1.0]), "2 answers but 1 weights"),
        (lambda: maj_at_k(["a"], [True], draws=0), "draws=0"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
