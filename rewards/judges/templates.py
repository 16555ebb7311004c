"""Prompts of judges: Jinja files, ours or a recipe's, checked when they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.judges.texts import fenced

if TYPE_CHECKING:
    from jinja2 import Template

_MAY = frozenset({"fenced", "code"})


class JudgePrompt:
    """A prompt with places for texts. It pickles, with its text.

    Args:
        path: a file of the user's; None is ours.
        own: name of our file in this folder, or the path of one elsewhere.
        needed: the places that it must have.
        may: further ones that it may have, besides `fenced(label, text)` and `code`.

    Raises:
        RewardError: no such file, broken syntax, a place that is missing or unknown.
    """

    def __init__(self, path: str | None, own: str | Path, needed: Collection[str], may: Collection[str] = ()) -> None:
        from jinja2 import TemplateSyntaxError, meta

        file = Path(path).expanduser() if path is not None else Path(__file__).parent / own
        self.name = str(path) if path is not None else file.name
        try:
            self.text = file.read_text(encoding="utf-8")
            places = meta.find_undeclared_variables(_environment().parse(self.text))
        except (OSError, UnicodeDecodeError) as problem:
            raise RewardError(f"judge prompt {self.name!r} cannot be read: {problem} -> name a text file") from None
        except TemplateSyntaxError as problem:
            raise RewardError(f"judge prompt {self.name!r}, line {problem.lineno}: {problem.message}") from None
        missing = sorted(set(needed) - places)
        unknown = sorted(places - {*needed, *may, *_MAY})
        if missing:
            raise RewardError(f"judge prompt {self.name!r} has no place for {', '.join(missing)} -> add it")
        if unknown:
            raise RewardError(f"judge prompt {self.name!r}: {unknown[0]!r}{near(unknown[0], {*needed, *may, *_MAY})}")
        self._template: Template | None = None

    def fill(self, code: str, values: Mapping[str, Any]) -> str:
        """The prompt with these texts; `fenced` in it puts a text between lines with the code."""
        if self._template is None:
            self._template = _environment().from_string(self.text)

        def fence(label: str, text: str) -> str:
            return fenced(label, text, code)

        return self._template.render(**values, code=code, fenced=fence)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "text": self.text, "_template": None}


def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
