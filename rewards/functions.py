"""Reward functions: objects called the TRL way, `f(prompts, completions, completion_ids, **columns) -> list[float |
None]`.

They are classes with a `__name__`, so that they pickle, and they run unchanged in TRL's `reward_funcs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.latex import last_box
from reasonrl.plugins import near
from reasonrl.rewards.compare import POLICIES
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.extract import after_thinking
from reasonrl.rewards.math import verify
from reasonrl.rewards.verdict import STATUSES, Verdict

Log = Callable[..., None]


class MathReward:
    """1 for a right answer, 0 for a wrong one or none, None where the gold cannot be compared
    (`verdict.SCORE_OF_STATUS`).

    Args:
        policy: what counts as the same answer; a name in `compare.POLICIES`.
        gold: the column with the golds; None takes `answer`, or `solution` where there is no `answer` (TRL's layout).
    """

    token_level = False

    def __init__(self, policy: str = "default", gold: str | None = None) -> None:
        if policy not in POLICIES:
            raise RewardError(f"reward 'math': policy {policy!r} is unknown{near(policy, POLICIES)}")
        self.__name__ = "math"
        self.policy = policy
        self.gold = gold

    def verdicts(self, completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        """One verdict a completion; the columns as in a call."""
        golds = self._golds(columns)
        if len(golds) != len(completions):
            raise RewardError(f"reward 'math': {len(completions)} completions, but {len(golds)} golds")
        return [
            verify(gold, text_of(completion), self.policy) if isinstance(gold, str) else _bad_gold(gold)
            for gold, completion in zip(golds, completions, strict=True)
        ]

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Log | None = None,
        log_metric: Log | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores; the columns `verdict` and `extracted` go to `log_extra`, the share of each status to `log_metric`."""
        verdicts = self.verdicts(completions, **columns)
        if log_extra is not None:
            log_extra("verdict", [verdict.status for verdict in verdicts])
            log_extra("extracted", [verdict.extracted or "" for verdict in verdicts])
        if log_metric is not None and verdicts:
            for status in STATUSES:
                log_metric(f"verdict/{status}", sum(verdict.status == status for verdict in verdicts) / len(verdicts))
        return [verdict.score for verdict in verdicts]

    def _golds(self, columns: dict[str, Any]) -> Sequence[Any]:
        for name in (self.gold,) if self.gold is not None else ("answer", "solution"):
            if columns.get(name) is not None:
                golds: Sequence[Any] = columns[name]
                return golds
        wanted = repr(self.gold) if self.gold is not None else "'answer' or 'solution'"
        there = ", ".join(sorted(columns)) or "none"
        raise RewardError(
            f"reward 'math': there is no column {wanted} with the golds; columns: {there} -> map one with data.columns,"
            " or set args.gold"
        )


def _bad_gold(gold: Any) -> Verdict:
    if isinstance(gold, (int, float)) and not isinstance(gold, bool):
        raise RewardError(
            f"reward 'math': the gold {gold!r} is a number where text was expected -> load the rows with load_rows,"
            " which writes it out"
        )
    return Verdict("bad_gold", None, None, repr(gold)[:200], f"the gold is a {type(gold).__name__}, not text")


_STYLES: dict[str, re.Pattern[str]] = {
    "think": re.compile(
        r"<think>(?!.*<think>)(?:(?!</think>).)*\S(?:(?!</think>).)*</think>(?!.*</think>)\s*\S.*", re.DOTALL
    ),
    "think_answer": re.compile(
        r"<think>(?!.*<think>)(?:(?!</think>).)*</think>(?!.*</think>)\s*<answer>(?!.*<answer>)(?:(?!</answer>).)*\S(?:(?!</answer>).)*</answer>\s*",
        re.DOTALL,
    ),
}


class FormatReward:
    r"""1 if a completion keeps the form, 0 if not.

    Args:
        style: `think_answer` (`<think>…</think><answer>…</answer>` and nothing else, each once, the answer not empty),
            `think` (a think block, then something), or `boxed` (a complete, non-empty `\boxed{…}` outside the think
            block).
        think_in_prompt: the chat template's generation prompt already opens `<think>`, so the completion starts inside
            it.
    """

    token_level = False

    def __init__(self, style: str = "think_answer", think_in_prompt: bool = False) -> None:
        if style not in (*_STYLES, "boxed"):
            raise RewardError(f"reward 'format': style {style!r} is unknown{near(style, (*_STYLES, 'boxed'))}")
        self.__name__ = "format"
        self.style = style
        self.think_in_prompt = think_in_prompt

    def __call__(
        self, prompts: Sequence[Any] | None = None, completions: Sequence[Any] = (), **columns: Any
    ) -> list[float | None]:
        """1.0 or 0.0 a completion."""
        return [float(self._keeps(text_of(completion))) for completion in completions]

    def _keeps(self, text: str) -> bool:
        if self.style == "boxed":
            return bool((last_box(after_thinking(text)) or "").strip())
        opened = "<think>" + text if self.think_in_prompt else text
        return _STYLES[self.style].fullmatch(opened.strip()) is not None


class LengthReward:
    """0 up to `max_tokens - buffer_tokens` tokens, then falling linearly to -1 at `max_tokens` and beyond: soft
    overlong punishment (DAPO, arXiv:2503.14476, equation 13).

    Args:
        max_tokens: where the punishment is whole.
        buffer_tokens: over how many tokens it grows.
    """

    token_level = False

    def __init__(self, max_tokens: int, buffer_tokens: int) -> None:
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
        if completion_ids is None or len(completion_ids) != len(completions):
            raise RewardError(
                "reward 'length': it counts tokens, and the caller gave no completion_ids for every completion"
            )
        free = self.max_tokens - self.buffer_tokens
        return [-min(max(len(ids) - free, 0) / self.buffer_tokens, 1.0) for ids in completion_ids]
