"""Baselines at equal tokens against sums over all orders."""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import mean

import pytest

from reasonrl.pacore import PacoreError
from reasonrl.pacore.baselines import Solo, any_right, at_count, at_tokens, best, majority

POOL = [
    Solo("a", True, 100, 0.2),
    Solo("b", False, 50, 0.9),
    Solo("a", True, 70, 0.4),
    Solo(None, False, 200, 0.1),
    Solo("b", False, 30, 0.3),
]


def voted(samples: list[Solo]) -> float:
    """Majority vote by counting."""
    votes = Counter(one.answer for one in samples if one.answer is not None)
    tied = [answer for answer, count in votes.items() if count == max(votes.values())]
    return mean(answer == "a" for answer in tied) if tied else 0.0


def test_what_is_made_of_samples():
    for size in range(1, 6):
        for some in itertools.combinations(POOL, size):
            assert majority(some) == voted(list(some))
            assert any_right(some) == any(one.right for one in some)
            assert best(some) == max(some, key=lambda one: one.score).right
    assert best([Solo("a", True, 1, 0.5), Solo("b", False, 1, 0.5)]) == 0.5
    with pytest.raises(PacoreError, match="score"):
        best([Solo("a", True, 1)])


@pytest.mark.parametrize("budget", [1, 120, 200, 449, 450, 10_000])
@pytest.mark.parametrize("pick", [majority, any_right])
def test_budgets_of_tokens_against_all_orders(budget, pick):
    values, tokens, counts = [], [], []
    for order in itertools.permutations(POOL):
        sums = list(itertools.accumulate(one.tokens for one in order))
        taken = order[: max(1, sum(total <= budget for total in sums))]
        values.append(pick(taken))
        tokens.append(sum(one.tokens for one in taken))
        counts.append(len(taken))
    found = at_tokens({"p": POOL}, {"p": budget}, pick, draws=4_000)
    assert found.values["p"] == pytest.approx(mean(values), abs=0.03)
    assert found.tokens["p"] == pytest.approx(mean(tokens), rel=0.04)
    assert found.samples["p"] == pytest.approx(mean(counts), rel=0.04)
    assert found.exhausted == (budget >= 450)


def test_counts_and_seeds():
    exact = mean(voted(list(some)) for some in itertools.permutations(POOL, 3))
    found = at_count({"p": POOL}, 3, majority, draws=4_000)
    assert found.values["p"] == pytest.approx(exact, abs=0.03) and found.samples == {"p": 3}
    # A problem's draws do not depend on what other problems there are.
    assert at_count({"q": POOL, "p": POOL}, 3, majority).values["p"] == at_count({"p": POOL}, 3, majority).values["p"]
    assert at_count({"p": POOL}, 3, majority, seed=1) != at_count({"p": POOL}, 3, majority)
    with pytest.raises(PacoreError, match="5 samples, fewer than 6"):
        at_count({"p": POOL}, 6, majority)
