"""What a scripted judge can see in its prompts, and the verdicts it gives."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "endpoints"))
from scripted_server import Act, ScriptedServer, Seen

__all__ = ["Act", "ScriptedServer", "Seen", "code_in", "parts_of"]

_FENCED = re.compile(r"^\[(\w{12}) ([^\n]+?) begins\]\n(.*?)\n\[\1 \2 ends\]$", re.MULTILINE | re.DOTALL)


def parts_of(seen: Seen) -> dict[str, str]:
    """Label -> fenced text of the first turn."""
    return {label: text for _, label, text in _FENCED.findall(seen.body["messages"][0]["content"])}


def code_in(seen: Seen) -> str:
    """The code of the first turn's fences."""
    return _FENCED.findall(seen.body["messages"][0]["content"])[0][0]
