"""Log-probabilities and entropies of tokens straight from hidden states, without ever holding their logits.

With x_v = s z_v for logits z = h W^T + b and s = logit_scale / temperature (with a soft cap c, x_v = c tanh(z_v
logit_scale / c) / temperature) and Z = sum_v exp(x_v):

    log p_y = x_y - log Z,        H = log Z - sum_v p_v x_v
    d log p_y / d x_v = [v = y] - p_v,        d H / d x_v = -p_v (x_v - sum_u p_u x_u)

Both are sums over the vocabulary, so they are gathered tile by tile (Milakov and Gimelshein 2018, arXiv 1805.02867)
and the tiles are made again for the gradient. Where only log p carries a gradient, E_p[W] is gathered in the same
pass: then d log p_y / d h = s (W_y - E_p[W]), and H needs no work of its own, for sum_v p_v x_v is linear in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

#: (tokens, vocabulary entries) of a tile. On a CPU a tile and its weights should stay in the cache of one core; a GPU
#: wants few large ones.
CPU_TILE = (1024, 256)
GPU_TILE = (4096, 16384)
#: By how much logits may exceed the number subtracted before `exp`, until the sums are scaled anew (CPU only).
SLACK = 16.0


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float = 1.0,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float | None = None,
    entropy: bool = True,
    entropy_grad: bool = True,
    tile: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each label and entropy of each distribution, in nats, under softmax(x) as defined above.

    Args:
        hidden: (N, H).
        weight: (V, H), of the output layer.
        labels: (N,) ids, all within the vocabulary.
        temperature: logits are divided by it, last of all.
        bias: (V,) of the output layer.
        softcap: c above; None for none.
        logit_scale: the logits' own factor, before the cap.
        entropy: whether to compute entropies.
        entropy_grad: whether the entropies carry gradient; without it the backward pass is cheaper.
        tile: (tokens, vocabulary entries) worked on at a time; by default one for the device.

    Returns:
        (N,) log-probabilities and (N,) entropies (None if not asked for), in float32, or float64 for such input.
        Differentiable once with respect to `hidden`, `weight` and `bias`; a frozen `weight` costs no gradient.

    Raises:
        ValueError: where shapes do not fit, or `temperature` is not positive.
    """
    n, width = hidden.shape if hidden.dim() == 2 else (-1, -1)
    if n < 0 or weight.dim() != 2 or weight.shape[1] != width or labels.shape != (n,):
        shapes = f"{tuple(hidden.shape)}, {tuple(weight.shape)}, {tuple(labels.shape)}"
        raise ValueError(f"hidden, weight, labels have shapes {shapes} -> (N, H), (V, H), (N,)")
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} -> above 0")
    scale = 1.0 if logit_scale is None else float(logit_scale)
    tile = tile or (GPU_TILE if hidden.is_cuda else CPU_TILE)
    # With a gradient for log p alone and x linear in h, one pass gathers E_p[W] and the backward pass is shorter.
    needs = torch.is_grad_enabled() and hidden.requires_grad
    plan = _Plan(scale, float(temperature), softcap, entropy, entropy and entropy_grad, tile, needs)
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropies = _TokenLogprobs.apply(hidden, weight, bias, labels, plan, _compute_dtype(hidden))
    return logprobs, entropies


@dataclass(frozen=True)
class _Plan:
    """How logits become x, what is asked for, and the size of a tile."""

    logit_scale: float
    temperature: float
    softcap: float | None
    entropy: bool
    entropy_grad: bool
    tile: tuple[int, int]
    hidden_grad: bool

    @property
    def mean_weight(self) -> bool:
        """Whether E_p[W] is gathered going forward."""
        return self.hidden_grad and self.softcap is None and not self.entropy_grad

    @property
    def factor(self) -> float:
        """dx/dz, but for the soft cap."""
        return self.logit_scale / self.temperature

    def bend(self, z: torch.Tensor) -> torch.Tensor | None:
        """Logits to x, in place; with a soft cap also 1 - tanh^2."""
        if self.softcap is None:
            if self.factor != 1:
                z.mul_(self.factor)
            return None
        z.mul_(self.logit_scale / self.softcap).tanh_()
        slope = z.square().neg_().add_(1)
        z.mul_(self.softcap / self.temperature)
        return slope


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    """In what precision products are made: sums are float32 (float64) everywhere; a GPU multiplies halves as such."""
    if hidden.dtype == torch.float64:
        return torch.float64
    kind = hidden.device.type
    if kind == "cpu":
        return torch.float32
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, add: bool = False) -> None:
    """out = a @ b, or out += a @ b, where `out` is never of lower precision than float32."""
    if b.dtype != out.dtype:  # halves on a GPU
        a = a.to(b.dtype)
        if add:
            torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        else:
            out.copy_(torch.mm(a, b, out_dtype=out.dtype))
    elif add:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


class _Tiles:
    """Walks the (tokens, vocabulary) plane: weights outside, tokens inside, so that a weight is read once."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        plan: _Plan,
        compute: torch.dtype,
    ) -> None:
        self.sums = _sum_dtype(compute)
        self.hidden, self.weight, self.bias, self.labels = hidden.to(compute), weight, bias, labels
        self.plan, self.compute = plan, compute
        self.n, self.vocabulary = hidden.shape[0], weight.shape[0]
        self.step = max(1, min(plan.tile[0], self.n))
        self.across = min(plan.tile[1], self.vocabulary)
        self._room = hidden.new_empty(self.step * self.across, dtype=self.sums)

    def weights(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
        """Tiles of the vocabulary: their place, weights (v, H) and biases."""
        for first in range(0, self.vocabulary, self.across):
            place = slice(first, min(first + self.across, self.vocabulary))
            bias = None if self.bias is None else self.bias[place].to(self.sums)
            yield place, self.weight[place].to(self.compute), bias

    def tokens(self) -> Iterator[slice]:
        """Tiles of the tokens."""
        for first in range(0, self.n, self.step):
            yield slice(first, min(first + self.step, self.n))

    def logits(self, rows: slice, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(n, v) logits z, in memory that the next call takes again."""
        hidden = self.hidden[rows]
        z = self._room[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        _product(hidden, weight.t(), z)
        return z if bias is None else z.add_(bias)

    def place_of_label(self, rows: slice, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 1) column of each label within a vocabulary tile, some column if it is elsewhere; and where it is not."""
        local = (self.labels[rows] - place.start).unsqueeze(1)
        elsewhere = (local < 0) | (local >= place.stop - place.start)
        return local.masked_fill_(elsewhere, 0), elsewhere


class _Sums:
    """Running sums over the vocabulary of each token, relative to exp(top)."""

    def __init__(self, tiles: _Tiles) -> None:
        n, plan, hidden = tiles.n, tiles.plan, tiles.hidden
        self.tiles, self.plan = tiles, plan
        self.top = hidden.new_full((n,), -torch.inf, dtype=tiles.sums)
        self.total = torch.zeros_like(self.top)
        self.chosen = torch.zeros_like(self.top)
        self.mean = torch.zeros_like(self.top)  # of x, or of the bias where E_p[W] says the rest
        self.weight = hidden.new_zeros(hidden.shape, dtype=tiles.sums) if plan.mean_weight else None

    def add(self, rows: slice, place: slice, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take in one tile."""
        x = self.tiles.logits(rows, weight, bias)
        self.plan.bend(x)
        local, elsewhere = self.tiles.place_of_label(rows, place)
        self.chosen[rows] += x.gather(1, local).masked_fill_(elsewhere, 0).squeeze(1)
        top = self._raise_top(rows, x.amax(dim=1))
        if self.plan.entropy and self.weight is None:
            e = (x - top).exp_()
            self.mean[rows] += torch.linalg.vecdot(e, x)
        else:
            e = x.sub_(top).exp_()
        self.total[rows] += e.sum(dim=1)
        if self.weight is not None:
            _product(e, weight, self.weight[rows], add=True)
            if bias is not None and self.plan.entropy:
                self.mean[rows] += e @ bias

    def _raise_top(self, rows: slice, peak: torch.Tensor) -> torch.Tensor:
        top = self.top[rows]
        # Asking the GPU would wait for it; scaling a few sums in vain is cheaper there, on a CPU it is not.
        if peak.is_cuda or bool((peak > top + SLACK).any()):
            higher = torch.maximum(top, peak).clamp_(min=torch.finfo(top.dtype).min)
            shrink = (top - higher).exp_()
            self.total[rows] *= shrink
            self.mean[rows] *= shrink
            if self.weight is not None:
                self.weight[rows] *= shrink.unsqueeze(1)
            self.top[rows] = higher
        return self.top[rows].unsqueeze(1)

    def results(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(N,) log Z, log p_y and E[x]; (N, H) d log p_y / dh where E_p[W] was gathered."""
        log_z = self.top + self.total.log()
        mean, slope = self.mean.div_(self.total), None
        if self.weight is not None:
            slope = self.weight.div_(self.total.unsqueeze(1))
            if self.plan.entropy:
                mean = mean.add_(_row_dots(self.tiles.hidden, slope)).mul_(self.plan.factor)
            for rows in self.tiles.tokens():
                slope[rows] -= self.tiles.weight[self.tiles.labels[rows]].to(slope.dtype)
            slope.mul_(-self.plan.factor)
        return log_z, self.chosen - log_z, mean, slope


def _row_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vecdot(a.to(b.dtype), b)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        plan: _Plan,
        compute: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        tiles = _Tiles(hidden, weight, bias, labels, plan, compute)
        sums = _Sums(tiles)
        for place, part, bias_part in tiles.weights():
            for rows in tiles.tokens():
                sums.add(rows, place, part, bias_part)
        log_z, logprobs, mean, slope = sums.results()
        entropies = log_z - mean if plan.entropy else None
        ctx.plan, ctx.compute = plan, compute
        ctx.save_for_backward(hidden, weight, bias, labels, log_z, mean, slope)
        ctx.set_materialize_grads(False)
        if entropies is not None and not plan.entropy_grad:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_logprob: torch.Tensor | None, by_entropy: torch.Tensor | None) -> tuple[Any, ...]:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return (*_gradients(ctx, by_logprob, by_entropy), None, None, None)


def _gradients(ctx: Any, by_logprob: torch.Tensor | None, by_entropy: torch.Tensor | None) -> tuple[Any, Any, Any]:
    hidden, weight, bias, labels, log_z, mean, slope = ctx.saved_tensors
    for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
    upstream = [torch.zeros_like(log_z) if g is None else g.to(log_z.dtype) for g in (by_logprob, by_entropy)]
    d_hidden: torch.Tensor | None = None
    if for_hidden and slope is not None:
        d_hidden = (slope * upstream[0].unsqueeze(1)).to(hidden.dtype)
    if not (for_weight or for_bias) and (d_hidden is not None or not for_hidden):
        return d_hidden, None, None
    # Tokens without a gradient from above take no part.
    live = (upstream[0] != 0) | (upstream[1] != 0)
    rows = None if bool(live.all()) else live.nonzero().squeeze(1)
    if rows is not None:
        hidden_live, labels, log_z, mean = (t.index_select(0, rows) for t in (hidden, labels, log_z, mean))
        upstream = [g.index_select(0, rows) for g in upstream]
    else:
        hidden_live = hidden
    tiles = _Tiles(hidden_live, weight, bias, labels, ctx.plan, ctx.compute)
    back = _Backward(tiles, upstream, log_z, mean, for_hidden and slope is None, for_weight, for_bias)
    back.run()
    if for_hidden and d_hidden is None:
        assert back.d_hidden is not None
        d_live = back.d_hidden.to(hidden.dtype)
        d_hidden = d_live if rows is None else torch.zeros_like(hidden).index_copy_(0, rows, d_live)
    return d_hidden, back.d_weight, back.d_bias


class _Backward:
    """Gradients from tiles that are made again.

    Args:
        tiles: of the tokens that take part.
        upstream: (N,) gradients with respect to log-probability and entropy.
        log_z, mean: (N,) log Z and E[x].
        for_hidden, for_weight, for_bias: what to compute.
    """

    def __init__(
        self,
        tiles: _Tiles,
        upstream: list[torch.Tensor],
        log_z: torch.Tensor,
        mean: torch.Tensor,
        for_hidden: bool,
        for_weight: bool,
        for_bias: bool,
    ) -> None:
        self.tiles, self.plan = tiles, tiles.plan
        self.by_logprob, self.by_entropy = (g.unsqueeze(1) for g in upstream)
        self.log_z, self.mean = log_z.unsqueeze(1), mean.unsqueeze(1)
        hidden, weight, bias = tiles.hidden, tiles.weight, tiles.bias
        self.d_hidden = hidden.new_zeros(hidden.shape, dtype=tiles.sums) if for_hidden else None
        make = torch.empty_like if tiles.n else torch.zeros_like
        self.d_weight = make(weight, memory_format=torch.contiguous_format) if for_weight else None
        self.d_bias = torch.zeros_like(bias) if for_bias and bias is not None else None
        # Without a soft cap and an entropy gradient, a token's own factors go to its hidden state once, and a tile is
        # (p - [v = y]) alone.
        self.plain = self.plan.softcap is None and not self.plan.entropy_grad and not for_hidden
        factors = self.by_logprob * -self.plan.factor
        self.right = (tiles.hidden * factors).to(tiles.compute) if self.plain else tiles.hidden
        self.factors = factors

    def run(self) -> None:
        """Fill the gradients."""
        sums = self.tiles.sums
        for place, weight, bias in self.tiles.weights():
            add = False
            into = None if self.d_weight is None else self.d_weight[place]
            room = into if into is None or into.dtype == sums else into.new_empty(into.shape, dtype=sums)
            for rows in self.tiles.tokens():
                x = self.tiles.logits(rows, weight, bias)
                g = self._by_probability(x, rows, place) if self.plain else self._by_logit(x, rows, place)
                if self.d_hidden is not None:
                    _product(g, weight, self.d_hidden[rows], add=True)
                if room is not None:
                    _product(g.t(), self.right[rows], room, add)
                if self.d_bias is not None:
                    own = (g.t() @ self.factors[rows]).squeeze(1) if self.plain else g.sum(dim=0)
                    self.d_bias[place] += own.to(self.d_bias.dtype)
                add = True
            if into is not None and room is not None and room is not into and add:
                into.copy_(room)

    def _by_probability(self, x: torch.Tensor, rows: slice, place: slice) -> torch.Tensor:
        """p - [v = y], in the place of the logits."""
        self.plan.bend(x)
        x.sub_(self.log_z[rows]).exp_()
        local, elsewhere = self.tiles.place_of_label(rows, place)
        return x.scatter_add_(1, local, elsewhere.to(x.dtype).sub_(1))

    def _by_logit(self, x: torch.Tensor, rows: slice, place: slice) -> torch.Tensor:
        """The gradient with respect to the logits z."""
        slope = self.plan.bend(x)
        p = (x - self.log_z[rows]).exp_()
        by_logprob = self.by_logprob[rows]
        g = x.sub_(self.mean[rows]).mul_(self.by_entropy[rows]).add_(by_logprob).mul_(p).neg_()
        local, elsewhere = self.tiles.place_of_label(rows, place)
        g.scatter_add_(1, local, by_logprob.masked_fill(elsewhere, 0))
        if slope is not None:
            g.mul_(slope)
        return g if self.plan.factor == 1 else g.mul_(self.plan.factor)
