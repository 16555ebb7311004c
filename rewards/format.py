"""The form of a response: think and answer tags, or a box. All checks take time linear in its length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.latex import last_box
from reasonrl.plugins import near
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.extract import after_thinking

STYLES = ("boxed", "think", "think_answer")


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
    instant = True

    def __init__(self, style: str = "think_answer", think_in_prompt: bool = False) -> None:
        if style not in STYLES:
            raise RewardError(f"reward 'format': style {style!r} is unknown{near(str(style), STYLES)}")
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
        opened = ("<think>" + text if self.think_in_prompt else text).strip()
        thinking = _only(opened.partition("</think>")[0] + "</think>", "think")
        rest = opened.partition("</think>")[2].strip()
        if thinking is None or "<think>" in rest or "</think>" in rest:
            return False
        if self.style == "think":
            return bool(thinking.strip() and rest)
        answer = _only(rest, "answer")
        return answer is not None and bool(answer.strip())


def _only(text: str, tag: str) -> str | None:
    """What one pair of tags holds that encloses the whole text; None if it is not so."""
    start, end = f"<{tag}>", f"</{tag}>"
    if not (text.startswith(start) and text.endswith(end)) or text.count(start) != 1 or text.count(end) != 1:
        return None
    return text[len(start) : -len(end)]
