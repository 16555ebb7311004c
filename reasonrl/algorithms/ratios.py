"""The ratio pi / pi_old of PPO at the level of tokens or of whole responses.

Token: Schulman et al. 2017 (arXiv 1707.06347, section 3). Sequence and sequence_token: Zheng et al. 2025 (GSPO, arXiv
2507.18071, Eq. 7 and Eq. 14): the ratio of a response to the power of one over its length, that is, the geometric mean
of its tokens' ratios.
"""

from __future__ import annotations

from typing import Literal

import torch

RatioLevel = Literal["token", "sequence", "sequence_token"]
RATIO_LEVELS: tuple[RatioLevel, ...] = ("token", "sequence", "sequence_token")


def level_log_ratios(log_ratio: torch.Tensor, counts: torch.Tensor, level: RatioLevel) -> torch.Tensor:
    """Logarithms of the ratios that a loss uses, from those of the tokens.

    `token`: as they are. `sequence`: their mean over the counting tokens of the response, at each of its tokens; the
    gradient goes to all of them. `sequence_token`: the same value, with each token's own gradient:
    sg[mean] + log pi - sg[log pi].

    Args:
        log_ratio: (B, T) log pi - log pi_old, zero where a token does not count.
        counts: (B, T), whether it counts. Responses must be whole: a mean over a part is another number.
        level: see above.

    Raises:
        ValueError: an unknown level.
    """
    if level == "token":
        return log_ratio
    if level not in RATIO_LEVELS:
        raise ValueError(f"importance_sampling_level = {level!r}, allowed are {', '.join(map(repr, RATIO_LEVELS))}")
    length = counts.sum(dim=1, keepdim=True).clamp(min=1).to(log_ratio.dtype)
    mean = (log_ratio.sum(dim=1, keepdim=True) / length).expand_as(log_ratio)
    return mean if level == "sequence" else mean.detach() + (log_ratio - log_ratio.detach())
