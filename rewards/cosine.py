"""A reward of correctness and length together: the cosine reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.combining import Journal, check_rows, part_of
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.early import begin
from reasonrl.rewards.length import UNITS, measure, token_counts, whole_number


class CosineReward:
    """Length-scaled correctness (arXiv:2502.03373, section 4.2): right answers earn more when short, wrong ones lose
    less when long, and what reaches `max_tokens` gets `exceed`.

    With t the length and T = `max_tokens`, a right answer gets `c_T + (c_0 - c_T) (1 + cos(pi t / T)) / 2` with
    `correct` = [c_0, c_T], a wrong one likewise with `wrong`. An answer is right if its reward is at least 1.

    Args:
        max_tokens: T.
        correct: rewards of a right answer of length 0 and of length T.
        wrong: rewards of a wrong one.
        exceed: reward at T and beyond, right or wrong.
        reward: what decides whether an answer is right: any reward, by default `math`.
        unit: `tokens` (needs the trainer's token ids), `words` or `characters`.
        base_dir: where a relative `file.py:function` starts.
    """

    token_level = False

    def __init__(
        self,
        max_tokens: int,
        correct: Sequence[float] = (2.0, 1.0),
        wrong: Sequence[float] = (-10.0, 0.0),
        exceed: float = -10.0,
        reward: Any = "math",
        unit: str = "tokens",
        base_dir: str | Path | None = None,
    ) -> None:
        max_tokens = whole_number("cosine", "max_tokens", max_tokens)
        if max_tokens < 1:
            raise RewardError(f"reward 'cosine': max_tokens={max_tokens} must be 1 or more")
        if unit not in UNITS:
            raise RewardError(f"reward 'cosine': unit {unit!r} is unknown{near(str(unit), UNITS)}")
        self.__name__ = "cosine"
        self.max_tokens = max_tokens
        self.ranges = {True: _pair("correct", correct), False: _pair("wrong", wrong)}
        self.exceed = float(exceed)
        self.unit = unit
        self.part = part_of(reward, "cosine", base_dir)

    def __call__(
        self,
        prompts: Any = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion; None where correctness gives none."""
        if self.unit == "tokens":
            lengths = token_counts(completions, completion_ids, "cosine")
        else:
            lengths = [measure(text_of(completion), self.unit) for completion in completions]
        journal = Journal(prompts, completions, completion_ids, columns)
        scores = journal.call(self.part, self.part.__name__)
        journal.hand_on()
        return [
            None if score is None else self._score(score >= 1, length)
            for score, length in zip(scores, lengths, strict=True)
        ]

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the reward that decides correctness; see `early`."""
        begin(self.part, prompt, completion, row)

    def check_rows(self, rows: Sequence[Any]) -> None:
        """Rows that the correctness reward cannot use raise; see `reasonrl.rewards.check_rows`."""
        check_rows(self.part, rows)

    def _score(self, right: bool, length: int) -> float:
        if length >= self.max_tokens:
            return self.exceed
        at_zero, at_end = self.ranges[right]
        return at_end + (at_zero - at_end) * (1 + math.cos(math.pi * length / self.max_tokens)) / 2


def _pair(name: str, value: Sequence[float]) -> tuple[float, float]:
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not all(isinstance(one, (int, float)) and math.isfinite(one) for one in numbers):
        raise RewardError(
            f"reward 'cosine': {name}={value!r} -> give two numbers: the reward at length 0 and at max_tokens"
        )
    return float(numbers[0]), float(numbers[1])
