"""Texts on their way to a judge: the part that is judged, and fences that a response cannot break out of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

_CODE_LENGTH = 12
_ALIKE = "\u0130\u0131\u017f\u212a"
"""The letters beyond ASCII that regular expressions take for i, s and k where case does not count."""
# What chat templates are made of: a server that renders and then tokenizes would take it for turns of the conversation.
_TEMPLATE_MARKS = re.compile(
    r"<(?=[|｜]|/?(?:s|bos|eos|start_of_turn|end_of_turn|think|tool_call)>)|\[(?=/?INST\])", re.IGNORECASE
)


def visible(text: str) -> str:
    """The text without its think block: what follows the last `</think>`, or stands before a block without an end."""
    _, end, rest = text.rpartition("</think>")
    return (rest if end else text.partition("<think>")[0]).strip()


def problem_of(prompt: Any) -> str:
    """The problem in a prompt: the text itself, or that of the user's last turn."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    turns = [turn for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user"]
    content = turns[-1].get("content") if turns else ""
    if isinstance(content, str):
        return content
    parts = [part for part in content or () if isinstance(part, dict)]
    return "\n".join(part["text"] if isinstance(part.get("text"), str) else "[image]" for part in parts)


def code_for(*parts: str) -> str:
    """A code that stands in none of the parts, and that none of them could have foreseen.

    It is a hash of all of them rather than a random number, so that equal questions are equal requests and the cache
    answers them; to write a text that holds its own hash is not feasible.
    """
    for salt in range(1000):
        code = hashlib.sha256(json.dumps([salt, *parts]).encode()).hexdigest()[:_CODE_LENGTH]
        if not any(code in part for part in parts):
            return code
    raise AssertionError("a thousand hashes of a text stand in the text")


def fenced(label: str, text: str, code: str) -> str:
    """The text as data: between two lines with the code, the marks of chat templates broken by a space."""
    safe = _TEMPLATE_MARKS.sub(lambda found: found[0] + " ", text)
    return f"[{code} {label} begins]\n{safe}\n[{code} {label} ends]"


def imitates(pattern: str, *texts: str, words: Sequence[str] = ()) -> bool:
    """True if a text holds what could be taken for a verdict when a judge quotes it.

    JSON may spell any letter as `\\u` and four digits, so such spellings are held for imitations too.

    Args:
        pattern: regular expression; case does not count.
        texts: to be looked at.
        words: in lower-case ASCII, one of which stands in whatever the pattern finds: texts without are not searched.
    """
    if words:
        texts = tuple(text for text in texts if _may_hold(text, (*words, "\\u")))
    found = re.compile(rf"{pattern}|\\u[0-9a-f]{{4}}", re.IGNORECASE)
    return any(found.search(text) is not None for text in texts)


def _may_hold(text: str, words: Sequence[str]) -> bool:
    low = text.lower()
    return any(word in low for word in words) or any(letter in text for letter in _ALIKE)
