"""The two losses against plain per-token formulas in Python, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.algorithms import policy_loss, token_weights, value_loss

DOUBLE = torch.float64
EPS, EPS_HIGH = 0.2, 0.28


def policy_by_token(logprob, old, advantage, weight, low=EPS, high=EPS_HIGH):
    """(loss, gradient by logprob, clip active) of one token, from the definition."""
    ratio = math.exp(logprob - old)
    clipped = min(max(ratio, 1 - low), 1 + high)
    if clipped * advantage < ratio * advantage:
        return -weight * clipped * advantage, 0.0, True
    return -weight * ratio * advantage, -weight * ratio * advantage, False


def value_by_token(value, old, target, weight, clip):
    near = min(max(value, old - clip), old + clip)
    plain, clipped = (value - target) ** 2, (near - target) ** 2
    if clipped > plain:
        return weight * clipped / 2, 0.0, True
    return weight * plain / 2, weight * (value - target), False


def rand(generator, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("high", [None, EPS_HIGH])
def test_policy_loss_equals_the_formula_token_by_token(high):
    generator = torch.Generator().manual_seed(0)
    old = -rand(generator, 6, 9).abs()
    logprobs = (old + rand(generator, 6, 9, scale=0.4)).requires_grad_()
    advantages, weights = rand(generator, 6, 9), torch.rand(6, 9, generator=generator, dtype=DOUBLE)
    weights[torch.rand(6, 9, generator=generator) < 0.3] = 0
    sums = policy_loss(logprobs, old, advantages, weights, epsilon=EPS, epsilon_high=high)
    sums.loss.backward()
    tokens = zip(*(x.detach().flatten().tolist() for x in (logprobs, old, advantages, weights)), strict=True)
    want = [policy_by_token(*token, high=high or EPS) for token in tokens]
    active = [w for w, (_, _, clip) in zip(weights.flatten().tolist(), want, strict=True) if clip]
    assert sum(w > 0 for w in active) >= 5
    assert sums.loss.item() == pytest.approx(sum(loss for loss, _, _ in want))
    torch.testing.assert_close(logprobs.grad.flatten(), torch.tensor([g for _, g, _ in want], dtype=DOUBLE))
    assert sums.clipped.item() == pytest.approx(sum(active))
    log_ratio = (logprobs - old).detach()
    assert sums.log_ratio.item() == pytest.approx((weights * log_ratio).sum().item())
    assert sums.approx_kl.item() == pytest.approx((weights * (log_ratio.exp() - 1 - log_ratio)).sum().item())


# ratio, advantage -> (surrogate, is its gradient alive, is the clip active), epsilon 0.2 and epsilon_high 0.28
CORNERS = [
    (1.5, 1.0, 1.28, False, True),
    (1.5, -1.0, -1.5, True, False),
    (0.5, 1.0, 0.5, True, False),
    (0.5, -1.0, -0.8, False, True),
    (1.1, 1.0, 1.1, True, False),
    (0.9, -1.0, -0.9, True, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "surrogate", "alive", "clipped"), CORNERS)
def test_each_corner_of_the_clip(ratio, advantage, surrogate, alive, clipped):
    logprobs = torch.tensor([[math.log(ratio)]], dtype=DOUBLE, requires_grad=True)
    one = torch.ones(1, 1, dtype=DOUBLE)
    sums = policy_loss(logprobs, 0 * one, advantage * one, one, epsilon=EPS, epsilon_high=EPS_HIGH)
    sums.loss.backward()
    assert sums.loss.item() == pytest.approx(-surrogate)
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if alive else 0.0)
    assert sums.clipped.item() == float(clipped)


def test_on_policy_the_gradient_is_the_policy_gradient():
    logprobs = torch.tensor([[-1.0, -2.0]], dtype=DOUBLE, requires_grad=True)
    advantages, weights = torch.tensor([[2.0, -3.0]], dtype=DOUBLE), torch.tensor([[0.25, 0.75]], dtype=DOUBLE)
    sums = policy_loss(logprobs, logprobs.detach(), advantages, weights, epsilon=EPS)
    sums.loss.backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages)
    assert sums.approx_kl.item() == sums.log_ratio.item() == sums.clipped.item() == 0


def test_approx_kl_is_accurate_and_not_negative_for_the_small_ratios_of_a_first_step():
    # In float32, (rho - 1) - log rho of a ratio near 1 cancels unless it is written with care.
    steps = torch.linspace(-2e-3, 2e-3, 4001, dtype=torch.float32).unsqueeze(1)
    zeros, ones = torch.zeros(1, 1), torch.ones(1, 1)
    got = torch.stack([policy_loss(x.unsqueeze(0), zeros, zeros, ones, epsilon=EPS).approx_kl for x in steps])
    exact = torch.expm1(steps.double()) - steps.double()
    assert (got >= 0).all()
    torch.testing.assert_close(got.double(), exact.flatten(), rtol=1e-3, atol=2e-10)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("where", ["logprobs", "old", "advantages", "all"])
def test_policy_tokens_of_weight_zero_poison_neither_value_nor_gradient(junk, where):
    given = {name: torch.tensor([[-1.0, -2.0, -0.5]]) for name in ("logprobs", "old", "advantages")}
    clean = {name: x[:, :2].clone() for name, x in given.items()}
    for name in given if where == "all" else (where,):
        given[name][0, 2] = junk
    results = []
    for tensors, weights in ((given, [[0.5, 0.5, 0.0]]), (clean, [[0.5, 0.5]])):
        # The leaf stands before a product, as a model does: 0 * NaN would show in its gradient.
        leaf = torch.ones_like(tensors["logprobs"]).requires_grad_()
        sums = policy_loss(
            leaf * tensors["logprobs"], tensors["old"], tensors["advantages"], torch.tensor(weights), epsilon=EPS
        )
        sums.loss.backward()
        results.append((torch.stack([sums.loss.detach(), sums.clipped, sums.approx_kl, sums.log_ratio]), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1][:, :2], results[1][1])
    if where not in ("logprobs", "all"):
        assert results[0][1][0, 2] == 0


@pytest.mark.parametrize("clip", [None, 0.3])
def test_value_loss_equals_the_formula_token_by_token(clip):
    generator = torch.Generator().manual_seed(1)
    old, returns = rand(generator, 6, 9), rand(generator, 6, 9)
    values = (old + rand(generator, 6, 9, scale=0.6)).requires_grad_()
    weights = torch.rand(6, 9, generator=generator, dtype=DOUBLE)
    weights[torch.rand(6, 9, generator=generator) < 0.3] = 0
    sums = value_loss(values, old, returns, weights, cliprange_value=clip)
    sums.loss.backward()
    tokens = zip(*(x.detach().flatten().tolist() for x in (values, old, returns, weights)), strict=True)
    want = [value_by_token(*token, math.inf if clip is None else clip) for token in tokens]
    active = [w for w, (_, _, on) in zip(weights.flatten().tolist(), want, strict=True) if on and w > 0]
    assert len(active) >= (0 if clip is None else 5)
    assert sums.loss.item() == pytest.approx(sum(loss for loss, _, _ in want))
    torch.testing.assert_close(values.grad.flatten(), torch.tensor([g for _, g, _ in want], dtype=DOUBLE))
    assert sums.clipped.item() == pytest.approx(sum(active))


# value, old, return -> loss, gradient, clip active; range 0.2
VALUE_CORNERS = [
    (1.5, 1.0, 2.0, 0.5 * 0.8**2, 0.0, True),
    (0.5, 1.0, 0.0, 0.5 * 0.8**2, 0.0, True),
    (1.5, 1.0, 0.0, 0.5 * 1.5**2, 1.5, False),
    (1.1, 1.0, 2.0, 0.5 * 0.9**2, -0.9, False),
]


@pytest.mark.parametrize(("value", "old", "target", "loss", "gradient", "clipped"), VALUE_CORNERS)
def test_each_corner_of_the_value_clip(value, old, target, loss, gradient, clipped):
    one = torch.ones(1, 1, dtype=DOUBLE)
    values = (value * one).requires_grad_()
    sums = value_loss(values, old * one, target * one, one, cliprange_value=0.2)
    sums.loss.backward()
    assert sums.loss.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)
    assert sums.clipped.item() == float(clipped)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_before_the_first_step_the_value_gradient_is_the_plain_one(clip):
    # Values equal to the old ones lie on no boundary of the clip, so the gradient is whole.
    values = torch.tensor([[0.3, -0.1]], dtype=DOUBLE, requires_grad=True)
    returns, weights = torch.tensor([[1.0, 0.0]], dtype=DOUBLE), torch.full((1, 2), 0.5, dtype=DOUBLE)
    value_loss(values, values.detach(), returns, weights, cliprange_value=clip).loss.backward()
    torch.testing.assert_close(values.grad, 0.5 * (values - returns).detach())


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("where", ["old", "returns", "both"])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_tokens_of_weight_zero_poison_neither_value_nor_gradient(junk, where, clip):
    old, returns = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    for name, tensor in (("old", old), ("returns", returns)):
        if where in (name, "both"):
            tensor[0, 2] = junk
    values = torch.tensor([[0.5, 0.9, 0.1]], requires_grad=True)
    sums = value_loss(values, old, returns, torch.tensor([[0.5, 0.5, 0.0]]), cliprange_value=clip)
    sums.loss.backward()
    clean = values.detach()[:, :2].clone().requires_grad_()
    alone = value_loss(clean, old[:, :2], returns[:, :2], torch.full((1, 2), 0.5), cliprange_value=clip)
    alone.loss.backward()
    assert sums.loss.item() == alone.loss.item() and sums.clipped.item() == alone.clipped.item()
    assert torch.equal(values.grad, torch.nn.functional.pad(clean.grad, (0, 1)))


@pytest.mark.parametrize("junk", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_a_value_of_weight_zero_may_be_nan_itself(junk, clip):
    values = torch.tensor([[0.5, junk]], requires_grad=True)
    sums = value_loss(values, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), cliprange_value=clip)
    sums.loss.backward()
    assert math.isfinite(sums.loss.item())
    assert values.grad[0, 1] == 0 and values.grad[0, 0].isfinite()


@st.composite
def masks(draw):
    b, t = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rows = st.lists(st.integers(0, 1), min_size=t, max_size=t)
    return torch.tensor(draw(st.lists(rows, min_size=b, max_size=b)))


@settings(max_examples=80, deadline=None)
@given(masks(), st.sampled_from(["dapo", "bnpo", "grpo", "dr_grpo"]), st.integers(1, 5))
def test_token_weights_sum_to_one_over_the_minibatch_under_any_split(mask, loss_type, size):
    tokens, rows, width = float(mask.sum()), float((mask.sum(1) > 0).sum()), mask.shape[1]
    parts = [
        token_weights(part, loss_type=loss_type, total_tokens=tokens, total_rows=rows, max_tokens=width)
        for part in mask.split(size)
    ]
    weights = torch.cat(parts)
    assert (weights[mask == 0] == 0).all() and weights.dtype == DOUBLE
    if tokens == 0:
        assert weights.sum() == 0
    elif loss_type == "dr_grpo":
        assert weights.sum().item() == pytest.approx(tokens / width / rows)
    else:
        assert weights.sum().item() == pytest.approx(1.0)
    per_row = weights.sum(1)[mask.sum(1) > 0]
    if loss_type == "grpo" and tokens:
        torch.testing.assert_close(per_row, torch.full_like(per_row, 1 / rows))
    if loss_type != "grpo" and tokens:
        assert weights[mask == 1].unique().numel() == 1


def test_an_unknown_loss_type_is_refused():
    with pytest.raises(ValueError, match=r"loss_type = 'mean'.*'dapo', 'bnpo', 'cispo', 'grpo', 'dr_grpo', 'sapo'"):
        token_weights(torch.ones(1, 1), loss_type="mean", total_tokens=1, total_rows=1, max_tokens=1)


@settings(max_examples=25, deadline=None)
@given(masks(), st.integers(1, 4), st.integers(0, 2**31))
def test_losses_add_up_over_any_split(mask, size, seed):
    generator = torch.Generator().manual_seed(seed)
    old, new, targets = (rand(generator, *mask.shape) for _ in range(3))
    weights = token_weights(
        mask, loss_type="dapo", total_tokens=float(mask.sum()), total_rows=1, max_tokens=mask.shape[1]
    )
    for loss in (
        lambda rows: policy_loss(new[rows], old[rows], targets[rows], weights[rows], epsilon=EPS).loss,
        lambda rows: value_loss(new[rows], old[rows], targets[rows], weights[rows], cliprange_value=0.2).loss,
    ):
        whole = loss(slice(None))
        parts = sum(loss(slice(start, start + size)) for start in range(0, len(mask), size))
        torch.testing.assert_close(whole, parts)
