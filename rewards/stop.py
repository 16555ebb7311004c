"""Whether a response ended by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonrl.errors import RewardError


class StopReward:
    """1 if a completion ended by itself, 0 if its length cut it off.

    What the trainer says counts first: a column `finish_reason` with `stop` or another word (our trainers fill it, and
    so may a `rollout_func` of TRL's). Without it the last token decides, if `eos_token_ids` are given, and else the
    number of tokens, if `max_tokens` is given.

    Args:
        eos_token_ids: tokens that end a response.
        max_tokens: the trainer's longest response; a shorter one ended by itself (one of exactly this length did not).
    """

    token_level = False
    instant = True

    def __init__(self, eos_token_ids: int | Sequence[int] | None = None, max_tokens: int | None = None) -> None:
        ids = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids or ())
        if not all(isinstance(one, int) for one in ids):
            raise RewardError(f"reward 'stop': eos_token_ids={eos_token_ids!r} -> give token ids")
        if max_tokens is not None and max_tokens < 1:
            raise RewardError(f"reward 'stop': max_tokens={max_tokens} must be 1 or more")
        self.__name__ = "stop"
        self.eos_token_ids = frozenset(ids)
        self.max_tokens = max_tokens

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 or 0.0 a completion.

        Raises:
            RewardError: nothing says how a completion ended.
        """
        said = columns.get("finish_reason") or [None] * len(completions)
        ids = completion_ids if completion_ids is not None else [None] * len(completions)
        return [float(self._stopped(*one)) for one in zip(said, ids, strict=True)]

    def _stopped(self, said: str | None, ids: Sequence[int] | None) -> bool:
        if said is not None:
            return said == "stop"
        if ids is not None and self.eos_token_ids:
            return len(ids) > 0 and int(ids[-1]) in self.eos_token_ids
        if ids is not None and self.max_tokens is not None:
            return len(ids) < self.max_tokens
        raise RewardError(
            "reward 'stop': nothing says how a completion ended: there is no column 'finish_reason' -> set"
            " args.eos_token_ids, or args.max_tokens, and give completion_ids"
        )
