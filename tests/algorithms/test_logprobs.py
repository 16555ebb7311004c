"""Log-probabilities and entropies in tiles, held to a plain log_softmax."""

from __future__ import annotations

import itertools

import pytest
import torch

from reasonrl.algorithms import logprobs as module
from reasonrl.algorithms import token_logprobs

N, V, H = 7, 23, 6
TILES = [(4, 5), (3, 64), (64, 7), (64, 64)]


def made(dtype=torch.float64, bias=True, n=N):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, offsets = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((n, H), (V, H), (V,))
    )
    labels = torch.randint(0, V, (n,), generator=generator)
    upstream = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return hidden, weight, offsets if bias else None, labels, upstream


def plain(hidden, weight, bias, labels, temperature, softcap, scale):
    z = hidden @ weight.t()
    z = z if bias is None else z + bias
    z = z if scale is None else z * scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logprobs = torch.log_softmax(z / temperature, -1)
    return logprobs.gather(1, labels[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def gradients(pair, upstream, inputs, entropy_grad):
    loss = (pair[0] * upstream[0]).sum() + ((pair[1] * upstream[1]).sum() if entropy_grad else 0)
    return torch.autograd.grad(loss, [x for x in inputs if x is not None])


def compare(dtype, tolerance, bias, softcap, scale, temperature, entropy_grad, tile):
    *inputs, labels, upstream = made(dtype, bias)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in inputs]
    want = plain(*exact, labels, temperature, softcap, scale)
    options = {"bias": inputs[2], "softcap": softcap, "logit_scale": scale, "entropy_grad": entropy_grad, "tile": tile}
    got = token_logprobs(inputs[0], inputs[1], labels, temperature=temperature, **options)
    assert want[0].abs().max() > 1 and want[1].max() > 0.1
    pairs = [*zip(got, want, strict=True)]
    pairs += zip(
        gradients(got, upstream.to(got[0].dtype), inputs, entropy_grad),
        gradients(want, upstream, exact, entropy_grad),
        strict=True,
    )
    for ours, theirs in pairs:
        size = max(1.0, float(theirs.detach().abs().max()))
        assert float((ours.detach().double() - theirs.detach().double()).abs().max()) <= tolerance * size


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_values_and_gradients_equal_plain_ones(tile, entropy_grad):
    for bias, softcap, scale, temperature in itertools.product([True, False], [None, 3.0], [None, 1.7], [1.0, 0.6]):
        compare(torch.float64, 1e-12, bias, softcap, scale, temperature, entropy_grad, tile)
        compare(torch.float32, 1e-5, bias, softcap, scale, temperature, entropy_grad, tile)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_halves_are_summed_in_float32(dtype, entropy_grad):
    # Values are as exact as float32; gradients are handed out in the inputs' own precision.
    *inputs, labels, _ = made(dtype)
    exact = [x.detach().double() for x in inputs]
    got = token_logprobs(*inputs[:2], labels, bias=inputs[2], temperature=0.6, entropy_grad=entropy_grad, tile=(4, 5))
    for ours, theirs in zip(got, plain(*exact, labels, 0.6, None, None), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    compare(dtype, 2 * torch.finfo(dtype).eps, True, 3.0, 1.7, 0.6, entropy_grad, (4, 5))
    compare(dtype, 2 * torch.finfo(dtype).eps, True, None, None, 1.0, entropy_grad, (64, 7))


def test_far_apart_logits_neither_overflow_nor_vanish():
    # Later tiles hold far larger logits than the first: sums are scaled anew.
    *inputs, labels, upstream = made()
    with torch.no_grad():
        inputs[1] *= torch.linspace(0.01, 60, V, dtype=torch.float64)[:, None]
    for entropy_grad in (False, True):
        got = token_logprobs(inputs[0], inputs[1], labels, bias=inputs[2], entropy_grad=entropy_grad, tile=(4, 2))
        want = plain(*inputs, labels, 1.0, None, None)
        assert want[0].min() < -100
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        grads = [gradients(pair, upstream, inputs, entropy_grad) for pair in (got, want)]
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("softcap", "bias"), [*itertools.product([None, 2.0], [False, True])])
def test_gradcheck(softcap, bias):
    *inputs, labels, _ = made(bias=bias)
    options = {"softcap": softcap, "logit_scale": 1.3, "temperature": 0.8, "tile": (3, 8)}

    def both(hidden, weight, offsets=None):
        return token_logprobs(hidden, weight, labels, bias=offsets, **options)

    def first(hidden, weight, offsets=None):
        return token_logprobs(hidden, weight, labels, bias=offsets, entropy_grad=False, **options)[0]

    given = [x for x in inputs if x is not None]
    assert torch.autograd.gradcheck(both, given, fast_mode=True)
    assert torch.autograd.gradcheck(first, given, fast_mode=True)


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("frozen", [(0,), (1,), (1, 2), (0, 2), (2,)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen, entropy_grad):
    *inputs, labels, upstream = made()
    want = gradients(plain(*inputs, labels, 0.9, None, None), upstream, inputs, entropy_grad)
    for place in frozen:
        inputs[place].requires_grad_(False)
    got = token_logprobs(
        inputs[0], inputs[1], labels, bias=inputs[2], temperature=0.9, entropy_grad=entropy_grad, tile=(4, 5)
    )
    loss = (got[0] * upstream[0]).sum() + ((got[1] * upstream[1]).sum() if entropy_grad else 0)
    loss.backward()
    for place, tensor in enumerate(inputs):
        if place in frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, want[place], rtol=1e-12, atol=1e-12)


def products(monkeypatch):
    """Counts multiplications as (n, inner, m)."""
    seen = []
    original = module._product

    def counted(a, b, out, add=False):
        seen.append((*a.shape, b.shape[1]))
        original(a, b, out, add)

    monkeypatch.setattr(module, "_product", counted)
    return seen


def test_tokens_without_a_gradient_from_above_cost_nothing(monkeypatch):
    *inputs, labels, upstream = made()
    upstream[:, 2:6] = 0
    want = gradients(plain(*inputs, labels, 1.0, None, None), upstream, inputs, True)
    got = token_logprobs(inputs[0], inputs[1], labels, bias=inputs[2], tile=(64, 64))
    seen = products(monkeypatch)
    for ours, theirs in zip(gradients(got, upstream, inputs, True), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert seen == [(3, H, V), (3, V, H), (V, 3, H)]


def test_a_frozen_head_needs_no_product_going_back(monkeypatch):
    *inputs, labels, upstream = made(bias=False)
    inputs[1].requires_grad_(False)
    seen = products(monkeypatch)
    got = token_logprobs(inputs[0], inputs[1], labels, entropy_grad=False, tile=(64, 64))
    forward = len(seen)
    torch.autograd.grad((got[0] * upstream[0]).sum(), inputs[0])
    assert forward == len(seen) == 2


def test_no_tokens_and_no_upstream_gradient_give_zeros():
    hidden, weight, bias, labels, _ = made(n=0)
    logprobs, entropy = token_logprobs(hidden, weight, labels, bias=bias)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad.shape == (0, H) and not weight.grad.any() and not bias.grad.any()
    hidden, weight, bias, labels, _ = made()
    (0 * token_logprobs(hidden, weight, labels, bias=bias)[0]).sum().backward()
    assert not hidden.grad.any() and not weight.grad.any() and not bias.grad.any()


def test_a_certain_token_has_a_log_probability_of_at_most_zero():
    hidden = torch.full((1, 2), 30.0)
    weight = torch.eye(2)
    weight[0] = 3
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0]), tile=(1, 1))
    assert -1e-6 < float(logprobs) <= 0 and abs(float(entropy)) < 1e-6


def test_entropy_only_when_asked_and_without_gradient_when_not():
    *inputs, labels, _ = made(bias=False)
    assert token_logprobs(inputs[0], inputs[1], labels, entropy=False)[1] is None
    assert not token_logprobs(inputs[0], inputs[1], labels, entropy_grad=False)[1].requires_grad
    with torch.no_grad():
        got = token_logprobs(inputs[0], inputs[1], labels)
    for ours, theirs in zip(got, plain(*inputs, labels, 1.0, None, None), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_under_autocast_a_cpu_still_multiplies_in_float32():
    *inputs, labels, upstream = made(torch.float32, bias=False)
    want = token_logprobs(inputs[0], inputs[1], labels)
    with torch.autocast("cpu", torch.bfloat16):
        got = token_logprobs(inputs[0], inputs[1], labels)
        ours = gradients(got, upstream.float(), inputs, True)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    for a, b in zip(ours, gradients(want, upstream.float(), inputs, True), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(N, H + 1)}, r"\(N, H\), \(V, H\), \(N,\)"),
        ({"hidden": torch.zeros(1, N, H)}, r"\(N, H\), \(V, H\), \(N,\)"),
        ({"labels": torch.zeros(N + 1, dtype=torch.long)}, r"\(N, H\), \(V, H\), \(N,\)"),
        ({"temperature": 0.0}, "temperature = 0.0 -> above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"hidden": torch.zeros(N, H), "weight": torch.zeros(V, H), "labels": torch.zeros(N, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        token_logprobs(**{**given, **change})


@pytest.mark.parametrize("fault", ["label", "entropy", "scale"])
def test_planted_faults_break_the_equality(fault, monkeypatch):
    if fault == "label":  # the label's own term left out of the weights' gradient
        monkeypatch.setattr(
            module._Backward, "_by_probability", lambda self, x, rows, place: x.sub_(self.log_z[rows]).exp_()
        )
    elif fault == "entropy":  # E[x] taken without its tiles' rescaling
        monkeypatch.setattr(module, "_row_dots", lambda a, b: (a * b).sum(-1) * 1.01)
    else:  # tiles' sums not scaled when a larger logit comes
        monkeypatch.setattr(module._Sums, "_raise_top", lambda self, rows, peak: peak.unsqueeze(1))
    with pytest.raises(AssertionError):
        compare(torch.float64, 1e-9, False, None, None, 1.0, False, (4, 5))
