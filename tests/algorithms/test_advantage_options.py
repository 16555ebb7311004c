"""Options of advantages and targets against their formulas in scalar loops (tests/oracles/targets.py), on inputs where
each option changes the numbers.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path

import pytest
import torch

from reasonrl.algorithms.advantages import (
    decoupled_gae,
    gae,
    group_advantages,
    kl_shaped_rewards,
    length_adaptive_lambda,
    rewards_to_go,
)
from reasonrl.algorithms.groups import group_figures
from reasonrl.algorithms.statistics import residual_moments, value_and_return_means

DOUBLE = torch.float64
SPEC = importlib.util.spec_from_file_location("targets_oracle", Path(__file__).parents[1] / "oracles" / "targets.py")
oracle = importlib.util.module_from_spec(SPEC)
sys.modules["targets_oracle"] = oracle
SPEC.loader.exec_module(oracle)


def ragged(seed, rows=6, longest=9):
    """Ragged rows of (rewards, values), padded tensors of them with junk in the padding, and values after the end."""
    chance = random.Random(seed)
    lengths = [1, longest, *(chance.randint(1, longest) for _ in range(rows - 2))]
    rewards = [[chance.gauss(0, 1) for _ in range(n)] for n in lengths]
    values = [[chance.gauss(0, 1) for _ in range(n)] for n in lengths]
    ends = [chance.gauss(0, 1) if row % 2 else 0.0 for row in range(rows)]
    return rewards, values, ends, padded(rewards), padded(values), padded([[1] * n for n in lengths], 0).long()


def padded(rows, junk=math.nan):
    width = max(map(len, rows)) + 2
    return torch.tensor([[*row, *[junk] * (width - len(row))] for row in rows], dtype=DOUBLE)


def assert_rows(got, want):
    for row, expected in zip(got.tolist(), want, strict=True):
        assert row[: len(expected)] == pytest.approx(expected, rel=1e-9, abs=1e-10)
        assert row[len(expected) :] == [0.0] * (len(row) - len(expected))


@pytest.mark.parametrize("seed", range(3))
def test_the_value_after_a_cut_is_what_follows_the_last_token(seed):
    rewards, values, ends, r, v, mask = ragged(seed)
    advantages, returns = gae(r, v, mask, gamma=0.9, lam=0.8, last_values=torch.tensor(ends, dtype=DOUBLE))
    want = [oracle.ahead(*row, 0.9, 0.8) for row in zip(rewards, values, ends, strict=True)]
    assert_rows(advantages, want)
    assert_rows(returns, [[a + x for a, x in zip(*row, strict=True)] for row in zip(want, values, strict=True)])
    without = gae(r, v, mask, gamma=0.9, lam=0.8)[0]
    changed = ((advantages - without).abs() > 1e-6).any(dim=1)
    assert changed.tolist() == [end != 0 for end in ends]


def test_without_discount_a_cut_responses_return_is_the_value_after_it():
    """R = V(s_T) of Step 3.5 Flash, when the cut response itself scores 0."""
    values, after = torch.tensor([[0.3, 0.5, 0.2]], dtype=DOUBLE), torch.tensor([0.7], dtype=DOUBLE)
    advantages, returns = gae(torch.zeros_like(values), values, torch.ones(1, 3), gamma=1.0, lam=1.0, last_values=after)
    assert returns.tolist() == [pytest.approx([0.7] * 3)]
    assert advantages.tolist() == [pytest.approx([0.4, 0.2, 0.5])]


@pytest.mark.parametrize("seed", range(3))
def test_returns_have_a_lambda_of_their_own(seed):
    rewards, values, ends, r, v, mask = ragged(seed)
    rest = {"gamma": 0.97, "lam": 0.6, "last_values": torch.tensor(ends, dtype=DOUBLE)}
    advantages, returns = decoupled_gae(r, v, mask, lam_value=1.0, **rest)
    rows = list(zip(rewards, values, ends, strict=True))
    assert_rows(advantages, [oracle.ahead(*row, 0.97, 0.6) for row in rows])
    assert_rows(returns, [[a + x for a, x in zip(oracle.ahead(*row, 0.97, 1.0), row[1], strict=True)] for row in rows])
    coupled = decoupled_gae(r, v, mask, lam_value=None, **rest)
    assert torch.equal(coupled[0], advantages) and (coupled[1] - returns).abs().max() > 1e-3


def test_lambda_follows_the_length():
    mask = torch.tensor([[1] * n + [0] * (40 - n) for n in (0, 1, 4, 10, 20, 40)])
    mask[5, 3] = 0  # a token that does not count
    got = length_adaptive_lambda(mask, 0.1)
    assert got.tolist() == pytest.approx([0, 0, 0, 0, 1 - 1 / 2, 1 - 1 / 3.9])
    assert length_adaptive_lambda(torch.ones(1, 1000), 0.05).item() == pytest.approx(0.98)


@pytest.mark.parametrize("seed", range(3))
def test_each_response_has_its_own_lambda(seed):
    rewards, values, _, r, v, mask = ragged(seed)
    advantages, _ = gae(r, v, mask, gamma=1.0, lam=length_adaptive_lambda(mask, 0.4))
    rows = list(zip(rewards, values, strict=True))
    lambdas = [max(0.0, 1 - 1 / (0.4 * len(row))) for row, _ in rows]
    assert len(set(lambdas)) > 2
    assert_rows(advantages, [oracle.ahead(*row, 0.0, 1.0, lam) for row, lam in zip(rows, lambdas, strict=True)])


@pytest.mark.parametrize("seed", range(3))
def test_rewards_to_go(seed):
    rewards, _, _, r, _, mask = ragged(seed)
    want = [[sum(0.9 ** (s - t) * x for s, x in enumerate(row) if s >= t) for t in range(len(row))] for row in rewards]
    assert_rows(rewards_to_go(r, mask, gamma=0.9), want)


SCORES = [1.0, 0.0, 0.0, 0.5, math.nan, 2.0, 1.0, 1.0, 1.0, math.nan, math.nan, 3.0]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_group_advantages_by_each_scale(scale, size):
    got = group_advantages(torch.tensor(SCORES, dtype=DOUBLE), size, kind="group", scale=scale)
    o = oracle.Options(advantage="group", num_generations=size, scale_rewards=scale)
    assert got.tolist() == pytest.approx(oracle.of_groups([None if math.isnan(x) else x for x in SCORES], o))


def test_the_scales_differ_and_a_golden_case():
    scores = torch.tensor([1.0, 0.0, 4.0, 0.0], dtype=DOUBLE)
    of = {scale: group_advantages(scores, 2, kind="group", scale=scale, eps=0.0).tolist() for scale in oracle_scales()}
    half = 0.5**0.5
    assert of["group"] == pytest.approx([half, -half, half, -half])
    assert of["none"] == [0.5, -0.5, 2.0, -2.0]
    deviation = (((1 - 1.25) ** 2 + 2 * 1.25**2 + (4 - 1.25) ** 2) / 3) ** 0.5
    assert of["batch"] == pytest.approx([x / deviation for x in of["none"]])
    assert group_advantages(scores, 2, kind="mean").tolist() == of["none"]


def oracle_scales():
    return ("group", "batch", "none")


def test_a_batch_with_one_score_or_none_gives_zeros():
    for scores in ([math.nan] * 4, [1.0, math.nan, math.nan, math.nan], [2.0] * 4):
        for scale in oracle_scales():
            got = group_advantages(torch.tensor(scores, dtype=DOUBLE), 2, kind="group", scale=scale)
            assert got.tolist() == [0.0] * 4


def test_shares_of_groups_that_say_nothing():
    nan = math.nan
    scores = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, nan, 0.7, 0.6, 0.9, nan, nan, 0.5, nan]
    # right/right, wrong/wrong, mixed, -/right, right but not equal, nothing, wrong/-
    assert group_figures(scores, 2, 0.5) == {
        "frac_reward_zero_std": pytest.approx(5 / 7),
        "group/all_right_fraction": pytest.approx(3 / 7),
        "group/all_wrong_fraction": pytest.approx(2 / 7),
    }
    assert group_figures(scores, 2, 0.8)["group/all_right_fraction"] == pytest.approx(1 / 7)


def test_means_of_values_and_returns_add_up_over_ranks():
    values, returns = [[0.5, 1.0, 9.0], [2.0, 9.0, 9.0]], [[1.0, 3.0, 9.0], [0.5, 9.0, 9.0]]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = [torch.tensor(x, dtype=DOUBLE) for x in (values, returns)]
    moments = sum(residual_moments(*(x[i : i + 1] for x in rows), mask[i : i + 1]) for i in range(2))
    assert value_and_return_means(moments) == (pytest.approx(3.5 / 3), pytest.approx(4.5 / 3))
    assert all(math.isnan(x) for x in value_and_return_means(torch.zeros(6)))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_the_kl_in_the_reward_by_each_estimator(kind):
    chance = random.Random(7)
    new, old = ([[chance.gauss(-2, 1) for _ in range(n)] for n in (3, 5, 1)] for _ in range(2))
    mask = padded([[1] * len(row) for row in new], 0).long()
    rewards = torch.ones_like(padded(new))
    got = kl_shaped_rewards(rewards, padded(new), padded(old), mask, 0.3, kind)
    for row, a, b in zip(got.tolist(), new, old, strict=True):
        want = [1 - 0.3 * oracle.kl_of(x - y, kind) for x, y in zip(a, b, strict=True)]
        assert row == pytest.approx([*want, *[1.0] * (len(row) - len(want))])
