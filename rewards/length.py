"""Rewards of a response's length in tokens: soft overlong punishment, and a band."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.completions import text_of

Unit = Literal["tokens", "words", "characters"]
UNITS: tuple[Unit, ...] = get_args(Unit)
PARTS = ("whole", "think")
_WORD = re.compile(r"\S+")


class LengthReward:
    """0 up to `max_tokens - buffer_tokens` tokens, then falling linearly to -1 at `max_tokens` and beyond: soft
    overlong punishment (DAPO, arXiv:2503.14476, equation 13).

    Args:
        max_tokens: where the punishment is whole.
        buffer_tokens: over how many tokens it grows.
    """

    token_level = False
    instant = True

    def __init__(self, max_tokens: int, buffer_tokens: int) -> None:
        max_tokens = whole_number("length", "max_tokens", max_tokens)
        buffer_tokens = whole_number("length", "buffer_tokens", buffer_tokens)
        if not 0 < buffer_tokens <= max_tokens:
            raise RewardError(f"reward 'length': buffer_tokens={buffer_tokens} must lie in 1..max_tokens={max_tokens}")
        self.__name__ = "length"
        self.max_tokens = max_tokens
        self.buffer_tokens = buffer_tokens

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number in [-1, 0] a completion; the trainer's token ids are needed."""
        free = self.max_tokens - self.buffer_tokens
        counts = token_counts(completions, completion_ids, "length")
        return [-min(max(count - free, 0) / self.buffer_tokens, 1.0) for count in counts]


class LengthBandReward:
    """1 if a length lies in [`min_tokens`, `max_tokens`], else 0 (Step-Audio 2, arXiv:2507.16632, first PPO stage:
    thinking that is neither empty nor above a maximum); with `ramp_tokens` it falls to 0 linearly outside.

    Args:
        max_tokens: the longest that is good, in units.
        min_tokens: the shortest that is good.
        part: `whole`, or `think`: what stands between `<think>` and the last `</think>`. A response whose thinking is
            empty, missing or never closed gets 0.
        ramp_tokens: units over which the reward falls to 0 outside the band; 0 is a hard edge.
        unit: `tokens` (needs the trainer's token ids), `words` (divided by white space) or `characters`.
        end_ids: token ids that close the thinking, such as those of `</think>`. With them its tokens are counted;
            without, its share of the characters stands for its share of the tokens.
    """

    token_level = False
    instant = True

    def __init__(
        self,
        max_tokens: int,
        min_tokens: int = 1,
        part: str = "whole",
        ramp_tokens: int = 0,
        unit: str = "tokens",
        end_ids: Sequence[int] | int | None = None,
    ) -> None:
        max_tokens = whole_number("length_band", "max_tokens", max_tokens)
        min_tokens = whole_number("length_band", "min_tokens", min_tokens)
        ramp_tokens = whole_number("length_band", "ramp_tokens", ramp_tokens)
        if not 0 <= min_tokens <= max_tokens:
            raise RewardError(f"reward 'length_band': min_tokens={min_tokens} must lie in 0..max_tokens={max_tokens}")
        if ramp_tokens < 0:
            raise RewardError(f"reward 'length_band': ramp_tokens={ramp_tokens} must be 0 or more")
        if part not in PARTS:
            raise RewardError(f"reward 'length_band': part {part!r} is unknown{near(str(part), PARTS)}")
        if unit not in UNITS:
            raise RewardError(f"reward 'length_band': unit {unit!r} is unknown{near(str(unit), UNITS)}")
        self.__name__ = "length_band"
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.part = part
        self.ramp_tokens = ramp_tokens
        self.unit = unit
        self.end_ids = [end_ids] if isinstance(end_ids, int) else list(end_ids or ())

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number in [0, 1] a completion."""
        texts = [text_of(completion) for completion in completions]
        ids: Sequence[Sequence[int]] = [()] * len(texts)
        if self.unit == "tokens":
            token_counts(completions, completion_ids, "length_band")
            ids = completion_ids or ()
        return [self._score(self._length(text, of_text)) for text, of_text in zip(texts, ids, strict=True)]

    def _score(self, length: float | None) -> float:
        if length is None:
            return 0.0
        beyond = max(self.min_tokens - length, length - self.max_tokens, 0.0)
        return 1.0 if beyond == 0 else max(1.0 - beyond / self.ramp_tokens, 0.0) if self.ramp_tokens else 0.0

    def _length(self, text: str, ids: Sequence[int]) -> float | None:
        """Units of the part that counts; None where there is no thinking to count."""
        if self.part == "whole":
            return len(ids) if self.unit == "tokens" else measure(text, self.unit)
        thinking = thinking_of(text)
        if thinking is None or not thinking.strip():
            return None
        if self.unit != "tokens":
            return measure(thinking, self.unit)
        end = _find(ids, self.end_ids) if self.end_ids else None
        if end is not None:
            return end
        return len(ids) * len(thinking) / len(text)


def thinking_of(text: str) -> str | None:
    """What stands before the last `</think>`, after the first `<think>` if there is one (a chat template may have
    opened it); None if the thinking is not closed.
    """
    before, end, _ = text.rpartition("</think>")
    if not end:
        return None
    _, opened, inside = before.partition("<think>")
    return inside if opened else before


def measure(text: str, unit: str) -> int:
    """Words (divided by white space) or characters of a text."""
    return len(text) if unit == "characters" else sum(1 for _ in _WORD.finditer(text))


def whole_number(reward: str, argument: str, value: Any) -> int:
    """The value of a reward's argument; 512.0 is 512.

    Raises:
        RewardError: it is no whole number.
    """
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise RewardError(f"reward {reward!r}: {argument}={value!r} must be a whole number -> write one, such as 512")
    return int(value)


def token_counts(completions: Sequence[Any], ids: Sequence[Sequence[int]] | None, name: str) -> list[int]:
    """Tokens of every completion.

    Raises:
        RewardError: the caller gave no token ids for every completion.
    """
    if ids is None or len(ids) != len(completions):
        raise RewardError(
            f"reward {name!r}: it counts tokens, and the caller gave no completion_ids for every completion"
        )
    return [len(of_one) for of_one in ids]


def _find(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where the last run `wanted` begins in `ids`."""
    for start in range(len(ids) - len(wanted), -1, -1):
        if ids[start] == wanted[0] and list(ids[start : start + len(wanted)]) == list(wanted):
            return start
    return None
