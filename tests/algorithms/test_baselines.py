"""Group-relative and leave-one-out advantages, batch normalisation and explained variance, against plain Python and
numpy.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.algorithms import explained_variance, group_advantages, masked_moments, normalize
from reasonrl.algorithms.statistics import residual_moments

DOUBLE = torch.float64
SCORES = st.one_of(st.floats(-5, 5, allow_subnormal=False), st.just(math.nan))


def brute_force(group, kind, eps=1e-4):
    scored = [score for score in group if not math.isnan(score)]
    out = []
    for place, score in enumerate(group):
        others = [other for i, other in enumerate(group) if i != place and not math.isnan(other)]
        if math.isnan(score) or not others:
            out.append(0.0)
        elif kind == "rloo":
            out.append(score - sum(others) / len(others))
        else:
            out.append((score - statistics.fmean(scored)) / (statistics.stdev(scored) + eps))
    return out


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 6).flatmap(lambda g: st.lists(st.lists(SCORES, min_size=g, max_size=g), min_size=1, max_size=4)))
@pytest.mark.parametrize("kind", ["group", "rloo"])
def test_equals_brute_force_with_unscored_samples(kind, groups):
    scores = torch.tensor(groups, dtype=DOUBLE).flatten()
    got = group_advantages(scores, len(groups[0]), kind=kind)
    want = torch.tensor([value for group in groups for value in brute_force(group, kind)], dtype=DOUBLE)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_golden_numbers():
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=DOUBLE)
    assert group_advantages(scores, 4, kind="rloo").tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    # mean 1/4, unbiased standard deviation 1/2
    assert group_advantages(scores, 4, kind="group", eps=0.0).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_equal_scores_give_no_advantage_and_a_transposed_layout_is_read_in_order():
    scores = torch.tensor([[1.0, 3.0], [1.0, 5.0]]).t()
    flat = scores.reshape(-1)
    assert group_advantages(flat, 2, kind="rloo").tolist() == [0.0, 0.0, -2.0, 2.0]
    strided = torch.tensor([1.0, 9.0, 1.0, 9.0, 3.0, 9.0, 5.0, 9.0])[::2]
    assert group_advantages(strided, 2, kind="rloo").tolist() == [0.0, 0.0, -2.0, 2.0]


@pytest.mark.parametrize(("count", "generations"), [(5, 2), (4, 1), (4, 0)])
def test_scores_that_do_not_form_groups_are_refused(count, generations):
    with pytest.raises(ValueError, match=f"{count} scores.*num_generations = {generations}"):
        group_advantages(torch.zeros(count), generations, kind="group")


def random_batch(seed, rows=7, width=11):
    generator = torch.Generator().manual_seed(seed)
    x = 3 + 2 * torch.randn(rows, width, generator=generator, dtype=DOUBLE)
    return x, (torch.rand(rows, width, generator=generator) < 0.6).long()


def test_normalised_tokens_have_mean_zero_and_variance_one():
    x, mask = random_batch(0)
    y = normalize(x, mask, masked_moments(x, mask))
    counted = y[mask.bool()].numpy()
    assert abs(counted.mean()) < 1e-12 and abs(counted.std() - 1) < 1e-9
    assert (y[~mask.bool()] == 0).all()
    order = np.argsort(x[mask.bool()].numpy())
    assert (np.argsort(counted) == order).all()


def test_moments_of_shards_add_up_to_those_of_the_whole():
    x, mask = random_batch(1, rows=9)
    parts = [masked_moments(x[i : i + 2], mask[i : i + 2]) for i in range(0, 9, 2)]
    total = torch.stack(parts).sum(0)
    torch.testing.assert_close(total, masked_moments(x, mask))
    counted = x[mask.bool()].numpy()
    np.testing.assert_allclose(total.numpy(), [counted.size, counted.sum(), (counted**2).sum()])
    whole = normalize(x, mask, masked_moments(x, mask))
    shard = normalize(x[2:4], mask[2:4], total)
    torch.testing.assert_close(shard, whole[2:4])


def test_the_variance_floor_keeps_equal_advantages_at_zero():
    x, mask = torch.full((2, 3), 0.7), torch.ones(2, 3)
    assert normalize(x, mask, masked_moments(x, mask)).abs().max() < 1e-2
    # A spread below the floor is divided by sqrt(1e-8), not by itself.
    x = torch.tensor([[1e-6, -1e-6]], dtype=DOUBLE)
    y = normalize(x, torch.ones(1, 2), masked_moments(x, torch.ones(1, 2)))
    torch.testing.assert_close(y, torch.tensor([[1e-2, -1e-2]], dtype=DOUBLE))


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_uncounted_tokens_may_hold_anything(junk):
    x, mask = torch.tensor([[1.0, 3.0, junk]]), torch.tensor([[1, 1, 0]])
    moments = masked_moments(x, mask)
    assert moments.tolist() == [2, 4, 10]
    assert normalize(x, mask, moments).tolist() == [[-1.0, 1.0, 0.0]]


def test_nothing_counted_gives_zeros():
    x, mask = torch.ones(1, 2), torch.zeros(1, 2)
    assert normalize(x, mask, masked_moments(x, mask)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("seed", range(4))
def test_explained_variance_equals_numpy_over_shards(seed):
    returns, mask = random_batch(seed)
    values = 0.5 * returns + random_batch(seed + 100)[0]
    moments = sum(residual_moments(values[i : i + 3], returns[i : i + 3], mask[i : i + 3]) for i in range(0, 7, 3))
    counted = mask.bool().numpy()
    r, v = returns.numpy()[counted], values.numpy()[counted]
    assert explained_variance(moments) == pytest.approx(1 - np.var(r - v) / np.var(r), abs=1e-10)


def test_explained_variance_of_known_critics():
    returns, mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=DOUBLE), torch.ones(1, 4)
    assert explained_variance(residual_moments(returns, returns, mask)) == 1.0
    assert explained_variance(residual_moments(returns + 5, returns, mask)) == pytest.approx(1.0)
    assert explained_variance(residual_moments(torch.full_like(returns, 0.3), returns, mask)) == pytest.approx(0.0)
    assert explained_variance(residual_moments(1 - returns, returns, mask)) == pytest.approx(-3.0)


def test_explained_variance_is_undefined_for_equal_returns_and_for_none():
    values = torch.tensor([[0.1, 0.4]])
    equal = torch.full((1, 2), 0.1)
    assert math.isnan(explained_variance(residual_moments(values, equal, torch.ones(1, 2))))
    assert math.isnan(explained_variance(residual_moments(values, values, torch.zeros(1, 2))))
