"""Drawing one token per row from logits through the inverse CDF; pure tensor functions."""

from __future__ import annotations

import torch

# Rows are drawn in slices so that the sort and the float64 CDF of a large vocabulary never need more than a few GiB.
_CDF_ELEMENTS = 1 << 26


def draw_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token per row.

    Args:
        logits: (B, V), any float type.
        uniforms: (B,) in [0, 1); unused at temperature 0.
        temperature: divides the logits; 0 is greedy.
        top_p: nucleus mass, in (0, 1].

    Returns:
        tokens (B,) int64 and their log-probabilities (B,) float32 under the distribution they were drawn from; at
        temperature 0 the log-probability is that of the temperature-1 distribution, since a point mass says nothing. A
        row that is no distribution (a NaN among its logits) gets the log-probability NaN.
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, _gather(torch.log_softmax(logits, dim=-1), tokens)
    rows = max(1, _CDF_ELEMENTS // logits.shape[-1])
    drawn = [
        _draw(part, uniform, temperature, top_p)
        for part, uniform in zip(logits.split(rows), uniforms.split(rows), strict=True)
    ]
    return torch.cat([tokens for tokens, _ in drawn]), torch.cat([logprobs for _, logprobs in drawn])


def _draw(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    if top_p < 1:
        logprobs = _nucleus(logprobs, top_p)
    tokens = _inverse_cdf(logprobs, uniforms)
    return tokens, _gather(logprobs, tokens)


def _gather(logprobs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _inverse_cdf(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    cdf = logprobs.double().exp().cumsum(dim=-1)
    # Scaled by the row's own total: rounding never leaves a gap at the upper end.
    threshold = uniforms.to(cdf).unsqueeze(-1) * cdf[:, -1:]
    tokens = torch.searchsorted(cdf, threshold, right=True).squeeze(-1)
    last = (logprobs > -torch.inf).long().cumsum(dim=-1).argmax(dim=-1)
    return torch.minimum(tokens, last)


def _nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of most probable tokens whose mass reaches `top_p`, renormalised (Holtzman et al. 2020)."""
    # Stable, and summed in float64: which of equals is kept must not depend on the batch, nor the edge on rounding.
    ordered, index = logprobs.sort(dim=-1, descending=True, stable=True)
    probs = ordered.double().exp()
    ordered = ordered.masked_fill(probs.cumsum(dim=-1) - probs >= top_p, -torch.inf)
    kept = torch.full_like(logprobs, -torch.inf).scatter(-1, index, ordered)
    return kept - kept.logsumexp(dim=-1, keepdim=True)
