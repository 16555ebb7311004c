"""Scores of candidates that go on from the same solutions: what they share is read once.

In a guided search all candidates of a step share everything but that step; reading each of them whole costs as many
times more as there are candidates. Here the shared part goes through the model with a cache, which each candidate's own
tokens then read.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.prm.encoding import Encoded

if TYPE_CHECKING:
    import torch

    from reasonrl.prm.scoring import Scores, StepScorer

_log = logging.getLogger("reasonrl.prm")

CLOSE = 1e-3
"""Largest difference of a probability to the plain reading of the same solution, in single precision."""


@dataclass(frozen=True)
class _Family:
    """Solutions with the same first tokens."""

    prefix: tuple[int, ...]
    members: list[int]


class SharedPrefixScorer:
    """Scores like the `StepScorer` that it holds, from which its numbers differ by rounding alone.

    The first candidates that share something are also read plainly; a model whose cache does not give the same numbers
    is read plainly from then on.

    Attributes:
        scorer: what encodes solutions, and reads them plainly.
        usable: whether prefixes are shared.
    """

    def __init__(self, scorer: StepScorer) -> None:
        self.scorer, self.usable, self._checked = scorer, True, False

    def __call__(self, solutions: Sequence[Mapping[str, Any]]) -> Scores:
        """P(step is right) of every step of every solution."""
        encoded = [self.scorer.encoder(solution) for solution in solutions]
        self.scorer.cut += sum(one.cut for one in encoded)
        if not self.usable:
            return self.scorer.score_encoded(encoded)
        families = _families(encoded)
        alone = [one.members[0] for one in families if len(one.members) == 1]
        scores: Scores = [[] for _ in encoded]
        plain = self.scorer.score_encoded([encoded[index] for index in alone]) if alone else []
        for index, steps in zip(alone, plain, strict=True):
            scores[index] = steps
        for group in _groups([one for one in families if len(one.members) > 1], encoded, self.scorer.tokens):
            rows = [index for family in group for index in family.members]
            found = self._read(group, encoded)
            first = len(group[0].members)
            if not self._checked and not self._check(found[:first], [encoded[index] for index in rows[:first]]):
                return self.scorer.score_encoded(encoded)
            for index, one in zip(rows, found, strict=True):
                scores[index] = one
        return scores

    def _check(self, found: Scores, rows: Sequence[Encoded]) -> bool:
        """Whether scores are those of a plain reading, which decides on all that follow."""
        import torch

        plain = self.scorer.score_encoded(rows)
        pairs = [(a, b) for one, two in zip(found, plain, strict=True) for a, b in zip(one, two, strict=True)]
        apart = max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)
        half = next(self.scorer.model.parameters()).dtype in (torch.bfloat16, torch.float16)
        self._checked = True
        if apart > (50 * CLOSE if half else CLOSE) or apart != apart:
            self.usable = False
            _log.warning("scores read with a cache are off by %.2g: every candidate is read whole", apart)
        return self.usable

    def _read(self, group: Sequence[_Family], encoded: Sequence[Encoded]) -> Scores:
        """Scores of the members of some families, in their order."""
        import torch

        model = self.scorer.model
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                ids, mask, positions = _left_padded([one.prefix for one in group], device)
                first = model.backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
                before = _values(model, first.last_hidden_state)
                family = [place for place, one in enumerate(group) for _ in one.members]
                tails = [encoded[index].ids[len(one.prefix) :] for one in group for index in one.members]
                after = self._after(first.past_key_values, mask, family, tails, device) if any(tails) else None
        finally:
            model.train(was_training)
        width = ids.shape[1]
        scores: Scores = []
        members = [(place, one, index) for place, one in enumerate(group) for index in one.members]
        for row, (place, one, index) in enumerate(members):
            size = len(one.prefix)
            scores.append(
                [
                    None if end is None else before[place][width - size + end] if end < size else after[row][end - size]  # type: ignore[index]
                    for end in encoded[index].ends
                ]
            )
        return scores

    def _after(
        self,
        cache: Any,
        mask: torch.Tensor,
        family: Sequence[int],
        tails: Sequence[Sequence[int]],
        device: torch.device,
    ) -> list[list[float]]:
        """What is read at each own token of the members."""
        import torch

        rows = torch.tensor(family, device=device)
        cache = copy.copy(cache)
        cache.batch_select_indices(rows)
        width = max(map(len, tails))
        ids = torch.zeros(len(tails), width, dtype=torch.long)
        own = torch.zeros(len(tails), width, dtype=torch.long)
        for row, tail in enumerate(tails):
            ids[row, : len(tail)] = torch.tensor(tail, dtype=torch.long)
            own[row, : len(tail)] = 1
        read = mask[rows]
        positions = read.sum(-1, keepdim=True) + torch.arange(width, device=device)
        output = self.scorer.model.backbone(
            input_ids=ids.to(device),
            attention_mask=torch.cat([read, own.to(device)], dim=1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return _values(self.scorer.model, output.last_hidden_state)


def _values(model: Any, hidden: torch.Tensor) -> list[list[float]]:
    """[B][L] probabilities."""
    import torch

    found: list[list[float]] = torch.sigmoid(
        model.head(hidden.to(model.head.weight.dtype)).float().squeeze(-1)
    ).tolist()
    return found


def _families(encoded: Sequence[Encoded]) -> list[_Family]:
    """Solutions by what stands before their last step."""
    found: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for index, one in enumerate(encoded):
        ends = one.reached
        size = ends[-2] + 1 if len(ends) > 1 else one.prompt_length
        # A cut solution, or one without a prompt, has nothing to share that is worth it.
        prefix = one.ids[:size] if ends and size and not one.cut else one.ids
        # Pictures are no part of the ids: such a solution is read alone.
        found.setdefault((prefix, -1 if one.pictures is None else index), []).append(index)
    return [_Family(prefix, members) for (prefix, _), members in found.items()]


def _groups(families: Sequence[_Family], encoded: Sequence[Encoded], tokens: int) -> list[list[_Family]]:
    """Families that are read together: of about equal length, and within the budget of tokens, caches included."""
    groups: list[list[_Family]] = []
    room = 0
    for family in sorted(families, key=lambda one: (-len(one.prefix), one.members)):
        cost = sum(len(encoded[index]) for index in family.members)
        if not groups or cost > room:
            groups.append([])
            room = max(tokens * 4, cost)  # a cached token weighs less than one with all its activations
        groups[-1].append(family)
        room -= cost
    return groups


def _left_padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[number, width - len(row) :] = 1
    return ids.to(device), mask.to(device), (mask.cumsum(-1) - 1).clamp(min=0).to(device)
