"""Penalties for a response that repeats itself, by n-grams of its words or tokens."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.length import token_counts

UNITS = ("words", "tokens")

# One word: a run of letters and digits; a single character of a script written without spaces (Thai, Lao, Burmese,
# Khmer, kana, Chinese); any other visible character by itself, so that formulas repeat as text does.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|\S")


class RepetitionReward:
    """`max_penalty * (1 - distinct / all)` over the n-grams of a response; 0 where it is shorter than one n-gram.

    The scalar form of the n-gram repetition penalty of arXiv:2502.03373, appendix C.2, as open-r1 uses it. With
    `per_token` it is that appendix's dense form: every token of an n-gram that stood before gets `max_penalty`, every
    other token 0.

    Args:
        ngram_size: units in an n-gram (open-r1: 3 words; the dense form in the paper: 40 tokens).
        max_penalty: the reward of a response that is all repetition, 0 or less.
        unit: `words` of the text (case folded, any language), or `tokens` of the trainer's ids.
        per_token: reward tokens instead of responses; needs `unit: tokens`.
    """

    def __init__(
        self, ngram_size: int = 3, max_penalty: float = -1.0, unit: str = "words", per_token: bool = False
    ) -> None:
        if ngram_size < 1:
            raise RewardError(f"reward 'repetition': ngram_size={ngram_size} must be 1 or more")
        if max_penalty > 0:
            raise RewardError(f"reward 'repetition': max_penalty={max_penalty} must be 0 or less: it is a penalty")
        if unit not in UNITS:
            raise RewardError(f"reward 'repetition': unit {unit!r} is unknown{near(str(unit), UNITS)}")
        if per_token and unit != "tokens":
            raise RewardError(f"reward 'repetition': per_token is true, but unit is {unit!r} -> set unit: tokens")
        self.__name__ = "repetition"
        self.token_level = per_token
        self.ngram_size = ngram_size
        self.max_penalty = max_penalty
        self.unit = unit

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[Any]:
        """A number in [`max_penalty`, 0] a completion; with `per_token` a list of them, one a token."""
        units: list[Sequence[Hashable]]
        if self.unit == "tokens":
            token_counts(completions, completion_ids, "repetition")
            units = [list(ids) for ids in completion_ids or ()]
        else:
            units = [words_of(text_of(completion)) for completion in completions]
        return [self._of_tokens(one) if self.token_level else self._of_response(one) for one in units]

    def _of_response(self, units: Sequence[Hashable]) -> float:
        grams = ngram_ranks(units, self.ngram_size)
        return self.max_penalty * (1 - len(set(grams)) / len(grams)) if grams else 0.0

    def _of_tokens(self, units: Sequence[Hashable]) -> list[float]:
        rewards, seen, painted = [0.0] * len(units), set(), 0
        for start, gram in enumerate(ngram_ranks(units, self.ngram_size)):
            if gram in seen:
                end = start + self.ngram_size
                for place in range(max(start, painted), end):
                    rewards[place] = self.max_penalty
                painted = end
            seen.add(gram)
        return rewards


def words_of(text: str) -> list[str]:
    """The words of a text in any language, case folded."""
    return _WORD.findall(text.casefold())


def ngram_ranks(units: Sequence[Hashable], size: int) -> list[int]:
    """A number for each n-gram of a sequence, in order; equal n-grams have equal numbers, and only they.

    Numbers of n-grams twice as long are made from pairs of numbers, so the time is that of the sequence times the
    logarithm of `size`, and nothing is left to chance as with rolling hashes.
    """
    if len(units) < size:
        return []
    ranks = _ranked(units)
    have = 1
    while have < size:
        step = min(have, size - have)  # two overlapping n-grams of length `have` cover one of `have + step`
        ranks = _ranked([(ranks[place], ranks[place + step]) for place in range(len(ranks) - step)])
        have += step
    return ranks


def _ranked(keys: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
