"""The synthesis prompt: the problem, the numbered messages of the round before, and a request for an own solution.

Its structure is the paper's (arXiv 2601.05593, table 6); the words are ours and may be replaced by a file.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.pacore.errors import PacoreError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]

_OWN = Path(__file__).with_name("synthesis.j2")
_PLACE = f"<{secrets.token_hex(16)}>"
"""Stands for the problem while the template is filled; no message can hold it."""


@dataclass(frozen=True)
class SynthesisPrompt:
    """A template with the fields `problem` (exactly once) and `messages` (a list of texts), in Jinja.

    Args:
        path: a file of the user's own, or `world:NAME`, a synthetic world's; None takes ours.

    Raises:
        PacoreError: no such file, or it is no such template.
    """

    path: str | None = None

    def __post_init__(self) -> None:
        before, after = self.around(["one", "two"])
        if _PLACE in before + after:
            raise PacoreError(f"synthesis prompt {self.path}: {{{{ problem }}}} stands in it more than once")

    def around(self, messages: Sequence[str]) -> tuple[str, str]:
        """What stands before and after the problem."""
        from jinja2 import TemplateError

        try:
            rendered = _template(self.path).render(problem=_PLACE, messages=list(messages))
        except TemplateError as problem:
            raise PacoreError(
                f"synthesis prompt {self.path}: {problem} -> its fields are problem and messages"
            ) from None
        before, found, after = rendered.partition(_PLACE)
        if not found:
            raise PacoreError(f"synthesis prompt {self.path}: {{{{ problem }}}} does not stand in it -> put it in once")
        return before, after

    @property
    def fingerprint(self) -> str:
        """Of the template's text."""
        return hashlib.sha256(_text(self.path).encode()).hexdigest()[:16]


def last_user_turn(conversation: Sequence[Message]) -> int:
    """The place of the last user message.

    Raises:
        PacoreError: there is none.
    """
    for place in range(len(conversation) - 1, -1, -1):
        if conversation[place].get("role") == "user":
            return place
    raise PacoreError("the conversation has no message of the user -> add one: it is the problem")


def with_messages(
    conversation: Sequence[Message], messages: Sequence[str], prompt: SynthesisPrompt
) -> list[dict[str, Any]]:
    """The conversation with its last user message framed by the synthesis prompt; unchanged where no message is left.

    Pictures and other parts of that message stay where they are; every other turn stays as it is.
    """
    turns = [dict(turn) for turn in conversation]
    place = last_user_turn(turns)
    if messages:
        before, after = prompt.around(messages)
        turns[place]["content"] = _framed(before, turns[place].get("content"), after)
    return turns


def _framed(before: str, content: Any, after: str) -> Any:
    if content is None or isinstance(content, str):
        return f"{before}{content or ''}{after}"
    parts = [{"type": "text", "text": part} if isinstance(part, str) else dict(part) for part in content]
    for edge, text in ((0, before), (-1, after)):
        if parts and parts[edge].get("type") == "text":
            own = parts[edge].get("text") or ""
            parts[edge]["text"] = text + own if edge == 0 else own + text
        else:
            parts.insert(0 if edge == 0 else len(parts), {"type": "text", "text": text})
    return parts


def texts_of(conversation: Sequence[Message]) -> tuple[list[str], int]:
    """Every text of a conversation, and how many parts of other kinds (pictures) it has."""
    texts, others = [], 0
    for turn in conversation:
        content = turn.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            if isinstance(part, str):
                texts.append(part)
            elif part.get("type") == "text":
                texts.append(part.get("text") or "")
            else:
                others += 1
    return texts, others


def world_part(spec: str, part: str) -> Any:
    """What the world of `world:NAME` says of rounds: its `message` (compaction) or its `synthesis` (prompt).

    Raises:
        PacoreError: the world has none.
        DataError: there is no such world.
    """
    from reasonrl.data_tools.worlds import get_world

    found = getattr(get_world(spec.removeprefix("world:")), part, None)
    if found is None:
        raise PacoreError(f"{spec}: this world has no {part} of its own -> world:worksheet has")
    return found


def _text(path: str | None) -> str:
    if path is not None and path.startswith("world:"):
        return str(world_part(path, "synthesis"))
    try:
        return (_OWN if path is None else Path(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise PacoreError(f"synthesis prompt {path}: {problem} -> name a text file") from None


@lru_cache(maxsize=32)
def _compiled(text: str) -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)


def _template(path: str | None) -> Template:
    from jinja2 import TemplateError

    try:
        return _compiled(_own_text() if path is None else _text(path))
    except TemplateError as problem:
        raise PacoreError(f"synthesis prompt {path}: {problem} -> its fields are problem and messages") from None


@lru_cache(maxsize=1)
def _own_text() -> str:
    return _text(None)
