"""GAE against its definition as a double sum, golden numbers worked by hand, and its algebra."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.algorithms import gae, kl_shaped_rewards, terminal_rewards

DOUBLE = torch.float64


def by_double_sum(rewards, values, mask, gamma, lam):
    """A_t = sum over later counting tokens of (gamma lam)^k delta_{t+k}, in plain Python over lists."""
    advantages = [0.0] * len(rewards)
    places = [t for t, counts in enumerate(mask) if counts]
    for i, t in enumerate(places):
        for k, s in enumerate(places[i:]):
            following = values[places[i + k + 1]] if i + k + 1 < len(places) else 0.0
            advantages[t] += (gamma * lam) ** k * (rewards[s] + gamma * following - values[s])
    returns = [a + v if counts else 0.0 for a, v, counts in zip(advantages, values, mask, strict=True)]
    return advantages, returns


@st.composite
def batches(draw, least_rows=1):
    b, t = draw(st.integers(least_rows, 4)), draw(st.integers(1, 9))
    numbers = st.floats(-3, 3, allow_subnormal=False)

    def matrix(elements):
        return draw(st.lists(st.lists(elements, min_size=t, max_size=t), min_size=b, max_size=b))

    return (
        torch.tensor(matrix(numbers), dtype=DOUBLE),
        torch.tensor(matrix(numbers), dtype=DOUBLE),
        torch.tensor(matrix(st.integers(0, 1))),
        draw(st.floats(0, 1, allow_subnormal=False)),
        draw(st.floats(0, 1, allow_subnormal=False)),
    )


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_golden_numbers_worked_by_hand():
    # gamma 0.5, lambda 0.5: delta = (0 + .5*2 - 1, 0 + .5*3 - 2, 4 - 3) = (0, -.5, 1)
    # A_2 = 1, A_1 = -.5 + .25*1 = -.25, A_0 = 0 + .25*(-.25) = -.0625
    rewards = torch.tensor([[0.0, 0.0, 4.0]])
    values = torch.tensor([[1.0, 2.0, 3.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[-0.0625, -0.25, 1.0]]
    assert returns.tolist() == [[0.9375, 1.75, 4.0]]


def test_a_tool_token_is_stepped_over():
    # The middle token is the tool's: its reward and its value must not be seen, nor may it cost a discount.
    rewards = torch.tensor([[1.0, 100.0, 4.0]])
    values = torch.tensor([[1.0, 50.0, 3.0]])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 0, 1]]), gamma=0.5, lam=0.5)
    # delta_2 = 4 - 3 = 1; delta_0 = 1 + .5*3 - 1 = 1.5; A_0 = 1.5 + .25*1
    assert advantages.tolist() == [[1.75, 0.0, 1.0]]
    assert returns.tolist() == [[2.75, 0.0, 4.0]]


@settings(max_examples=150, deadline=None)
@given(batches())
def test_equals_the_double_sum_whatever_the_mask(batch):
    rewards, values, mask, gamma, lam = batch
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(len(rewards)):
        want = by_double_sum(rewards[row].tolist(), values[row].tolist(), mask[row].tolist(), gamma, lam)
        close(advantages[row], torch.tensor(want[0], dtype=DOUBLE))
        close(returns[row], torch.tensor(want[1], dtype=DOUBLE))


@settings(max_examples=60, deadline=None)
@given(batches())
def test_without_discount_the_advantage_is_reward_to_go_minus_value(batch):
    rewards, values, mask, _, _ = batch
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    close(returns, to_go)
    close(advantages, to_go - values * mask)


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([7.0, math.nan, math.inf]))
def test_padding_on_either_side_changes_nothing_whatever_it_holds(batch, left, right, junk):
    rewards, values, mask, gamma, lam = batch
    plain = gae(rewards, values, mask, gamma=gamma, lam=lam)
    padded = [torch.nn.functional.pad(x, (left, right), value=junk) for x in (rewards, values)]
    out = gae(*padded, torch.nn.functional.pad(mask, (left, right)), gamma=gamma, lam=lam)
    for want, got in zip(plain, out, strict=True):
        assert torch.equal(torch.nn.functional.pad(want, (left, right)), got)


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(-2, 2), st.floats(-2, 2))
def test_linear_in_rewards_and_values_together(batch, a, b):
    rewards, values, mask, gamma, lam = batch
    one = gae(rewards, values, mask, gamma=gamma, lam=lam)
    two = gae(values, rewards, mask, gamma=gamma, lam=lam)
    both = gae(a * rewards + b * values, a * values + b * rewards, mask, gamma=gamma, lam=lam)
    for x, y, xy in zip(one, two, both, strict=True):
        close(xy, a * x + b * y)


@settings(max_examples=40, deadline=None)
@given(batches(least_rows=2))
def test_rows_do_not_see_each_other(batch):
    rewards, values, mask, gamma, lam = batch
    together = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(len(rewards)):
        alone = gae(rewards[row : row + 1], values[row : row + 1], mask[row : row + 1], gamma=gamma, lam=lam)
        assert torch.equal(alone[0][0], together[0][row]) and torch.equal(alone[1][0], together[1][row])


def test_a_row_that_counts_nowhere_is_zero():
    out = gae(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[0, 0, 0], [1, 1, 1]]), gamma=0.9, lam=0.9)
    assert out[0][0].tolist() == out[1][0].tolist() == [0, 0, 0]
    assert out[0][1].abs().sum() > 0


def test_a_perfect_critic_leaves_no_advantage():
    rewards = torch.zeros(1, 6, dtype=DOUBLE)
    rewards[0, -1] = 1.0
    values = 0.9 ** torch.arange(5, -1, -1, dtype=DOUBLE).unsqueeze(0)
    advantages, returns = gae(rewards, values, torch.ones(1, 6), gamma=0.9, lam=0.7)
    close(advantages, torch.zeros_like(values))
    close(returns, values)


def test_terminal_rewards_stand_on_the_last_counting_token():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    rewards = terminal_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE), mask)
    assert rewards.dtype == DOUBLE
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0], [0, 4, 0, 0]]


def test_kl_shaping_subtracts_beta_times_the_log_ratio_where_tokens_count():
    rewards = torch.tensor([[0.0, 1.0, 0.0]])
    shaped = kl_shaped_rewards(
        rewards, torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, -1.0, -9.0]]), torch.tensor([[1, 1, 0]]), 0.5
    )
    assert shaped.tolist() == [[-0.25, 1.5, 0.0]]


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_kl_shaping_ignores_what_uncounted_tokens_hold(junk):
    # Log-probabilities of tokens that are not scored may be anything, such as log 0.
    shaped = kl_shaped_rewards(
        torch.zeros(1, 2), torch.tensor([[-1.0, junk]]), torch.tensor([[-2.0, -1.0]]), torch.tensor([[1, 0]]), 0.1
    )
    torch.testing.assert_close(shaped, torch.tensor([[-0.1, 0.0]]))
