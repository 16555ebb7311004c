"""The pieces of the policy's loss against their formulas, and the split of a batch into parts, in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from reasonrl.algorithms import (
    entropy_threshold,
    kl_estimate,
    kl_loss,
    level_log_ratios,
    policy_loss,
    ratio_bands,
    token_weights,
    weighted_sum,
)
from reasonrl.algorithms.surrogates import clipped_surrogate

DOUBLE = torch.float64


def batch(seed=0, rows=6, width=9):
    """(new, old, ref, advantages, weights, scale, mask) with ragged ends and tokens left out within."""
    g = torch.Generator().manual_seed(seed)

    def normal(scale=1.0):
        return scale * torch.randn(rows, width, generator=g, dtype=DOUBLE)

    old = -normal().abs()
    lengths = torch.randint(1, width + 1, (rows,), generator=g)
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    kept = mask * (torch.rand(rows, width, generator=g) < 0.8)
    weights = token_weights(kept, loss_type="dapo", total_tokens=float(kept.sum()), total_rows=rows, max_tokens=width)
    return old + normal(0.4), old, old + normal(0.5), normal(), weights, torch.rand(rows, width, generator=g), mask


KINDS = {
    "clip": {"epsilon_high": 0.28},
    "dual clip": {"epsilon_high": 0.28, "delta": 1.4},
    "sequence": {"level": "sequence"},
    "sequence_token": {"level": "sequence_token"},
    "cispo": {"kind": "cispo", "epsilon_high": 1.3},
    "sapo": {"kind": "sapo"},
    "none": {"kind": "none"},
    "k1": {"kl": "k1"},
    "k2": {"kl": "k2"},
    "k3": {"kl": "k3"},
}


@pytest.mark.parametrize("name", KINDS)
def test_parts_of_a_batch_add_up_to_the_whole(name):
    new, old, ref, advantages, weights, scale, mask = batch()
    settings = dict(KINDS[name])
    kl = settings.pop("kl", None)

    def loss(logprobs, rows):
        tensors = [x[rows] for x in (old, ref, advantages, weights, scale, mask)]
        o, r, a, w, c, m = tensors
        if kl is not None:
            return kl_loss(logprobs[rows], o, r, w, kind=kl, correct=True)[0]
        return policy_loss(logprobs[rows], o, a, w, scale=c, mask=m, **settings).loss

    whole, parts = (new.clone().requires_grad_() for _ in range(2))
    total = loss(whole, slice(None))
    total.backward()
    split = [loss(parts, rows) for rows in ([4, 1], [0], [2, 3, 5])]
    for one in split:
        one.backward()
    assert whole.grad.abs().max() > 0.001
    torch.testing.assert_close(sum(x.detach() for x in split), total.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("name", KINDS)
def test_what_lies_outside_the_mask_poisons_nothing(name, junk):
    new, old, ref, advantages, weights, scale, mask = batch()
    settings = dict(KINDS[name])
    kl = settings.pop("kl", None)
    results = []
    for fill in (0.0, junk):
        n, o, r, a, c = (x.masked_fill(mask == 0, fill) for x in (new, old, ref, advantages, scale))
        n = n.clone().requires_grad_()
        if kl is not None:
            loss = kl_loss(n, o, r, weights, kind=kl, correct=True)[0]
        else:
            loss = policy_loss(n, o, a, weights, scale=torch.where(mask > 0, c, 0), mask=mask, **settings).loss
        loss.backward()
        results.append((loss.detach(), n.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


# --- dual clip


@pytest.mark.parametrize("ratio", [0.2, 0.79, 0.9, 1.0, 1.2, 1.27, 1.3, 2.9, 3.1, 50.0])
@pytest.mark.parametrize("advantage", [-2.0, -0.1, 0.5, 3.0])
def test_delta_is_dual_clip(ratio, advantage):
    """Ye et al. 2020: for A < 0, max(min(r A, clip(r) A), c A); for A > 0 PPO's own."""
    log_ratio = torch.tensor([[math.log(ratio)]], dtype=DOUBLE, requires_grad=True)
    got, active = clipped_surrogate(
        log_ratio.exp(), torch.tensor([[advantage]], dtype=DOUBLE), epsilon=0.2, epsilon_high=0.28, delta=3.0
    )
    got.sum().backward()
    low = min(max(ratio, 0.8), 1.28)
    ppo = min(ratio * advantage, low * advantage)
    want = max(ppo, 3.0 * advantage) if advantage < 0 else ppo
    alive = math.isclose(want, ratio * advantage, rel_tol=1e-12)
    assert got.item() == pytest.approx(want, rel=1e-12)
    assert log_ratio.grad.item() == pytest.approx(ratio * advantage if alive else 0.0, rel=1e-12)
    assert active.item() is not alive


# --- ratios of responses


@pytest.mark.parametrize("level", ["sequence", "sequence_token"])
def test_a_response_s_ratio_is_the_geometric_mean_of_its_tokens(level):
    log_ratio = torch.tensor([[0.3, -0.1, 0.0], [0.2, 0.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    counts = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    got = level_log_ratios(log_ratio, counts, level)
    means = [(math.exp(0.3) * math.exp(-0.1) * 1.0) ** (1 / 3), math.exp(0.2)]
    for row in range(2):
        assert got[row].exp().tolist() == pytest.approx([means[row]] * 3)
    got[0, 0].backward()
    assert log_ratio.grad[0].tolist() == pytest.approx([1 / 3] * 3 if level == "sequence" else [1.0, 0.0, 0.0])


def test_an_unknown_level_is_refused():
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"importance_sampling_level = 'row'.*'token', 'sequence', 'sequence_token'"):
        level_log_ratios(zeros, zeros.bool(), "row")


# --- KL


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("x", [-1.5, -1e-3, 0.0, 0.2, 2.0])
def test_an_estimate_is_its_formula_in_value_and_gradient(kind, x):
    new = torch.tensor(-1.0 + x, dtype=DOUBLE, requires_grad=True)
    got = kl_estimate(new, torch.tensor(-1.0, dtype=DOUBLE), kind)
    got.backward()
    x = new.item() + 1.0
    value = {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) - 1 + x}[kind]
    slope = {"k1": 1.0, "k2": x, "k3": 1 - math.exp(-x)}[kind]
    assert got.item() == pytest.approx(value, rel=1e-9, abs=1e-15)
    assert new.grad.item() == pytest.approx(slope, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("correct", [True, False])
def test_over_all_tokens_a_corrected_estimate_has_the_gradient_of_the_kl(kind, correct):
    """Expectations over a vocabulary, exactly: tokens are drawn by pi_old, which is not pi."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=g, dtype=DOUBLE).requires_grad_()
    old = torch.log_softmax(logits.detach() + 0.5 * torch.randn(7, generator=g, dtype=DOUBLE), dim=0)
    ref = torch.log_softmax(torch.randn(7, generator=g, dtype=DOUBLE), dim=0)
    new = torch.log_softmax(logits, dim=0)
    (true,) = torch.autograd.grad((new.exp() * (new - ref)).sum(), logits, retain_graph=True)
    total, record = kl_loss(
        new.unsqueeze(0), old.unsqueeze(0), ref.unsqueeze(0), old.exp().unsqueeze(0), kind=kind, correct=correct
    )
    (got,) = torch.autograd.grad(total, logits)
    assert torch.allclose(got, true, rtol=1e-10) is correct
    assert record.item() == pytest.approx(float((old.exp() * kl_estimate(new.detach(), ref, kind)).sum()))


def test_near_equal_policies_k3_is_accurate_and_not_negative_in_single_precision():
    x = torch.linspace(-2e-3, 2e-3, 2001, dtype=torch.float32)
    got = kl_estimate(x, torch.zeros_like(x), "k3")
    exact = torch.expm1(-x.double()) + x.double()
    assert (got >= 0).all()
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=2e-10)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="kl_estimator = 'k4', allowed are 'k1', 'k2', 'k3'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


# --- masks


def test_bands_keep_what_the_formula_keeps():
    new, old, _, _, _, _, mask = batch(seed=3, rows=40)
    old = old.clone()
    old[2, 0] = torch.nan  # unknown: as if equal
    got = ratio_bands(new, old, mask, token_band=[0.7, 1.4], sequence_band=[0.9, 1.1])
    kinds = set()
    for row in range(40):
        drift = [
            0.0 if math.isnan(b) else a - b
            for a, b, m in zip(new[row].tolist(), old[row].tolist(), mask[row].tolist(), strict=True)
            if m
        ]
        mean = math.prod(math.exp(d) for d in drift) ** (1 / len(drift))
        inside = 0.9 <= mean <= 1.1
        assert got.responses[row].item() == inside
        for t, d in enumerate(drift):
            within = 0.7 <= math.exp(d) <= 1.4
            assert (got.tokens[row, t].item(), got.kept[row, t].item()) == (within, within and inside)
            kinds.add((within, inside))
        assert got.kept[row, len(drift) :].sum() == 0
    assert len(kinds) == 4


def test_a_band_that_is_open_keeps_all_and_a_response_without_tokens_is_none():
    zeros = torch.zeros(2, 3, dtype=DOUBLE)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    got = ratio_bands(zeros + 5, zeros, mask, token_band=None, sequence_band=None)
    assert got.kept.tolist() == mask.tolist() and got.responses.tolist() == [1, 0]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 5, 11, 100])
def test_the_threshold_keeps_as_many_as_the_quantile_does(share, count):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=DOUBLE)
    kept = int((values >= entropy_threshold(values, share)).sum())
    assert kept == int((values >= torch.quantile(values, 1 - share) - 1e-12).sum())
    assert entropy_threshold(values[:0], share) == -math.inf


def test_a_weighted_sum_leaves_out_what_weighs_nothing():
    values = torch.tensor([[2.0, math.nan, 3.0]], requires_grad=True)
    total = weighted_sum(values, torch.tensor([[0.5, 0.0, 0.25]]))
    total.backward()
    assert total.item() == 1.75 and values.grad.tolist() == [[0.5, 0.0, 0.25]]
