"""Solutions whose steps say what they are, and a judge that reads that over real HTTP."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rewards"))
from judging_server import Act, ScriptedServer, Seen, code_in, parts_of

from reasonrl.prm.judges import Solution
from reasonrl.prm.steps import steps_from_pieces

__all__ = ["Act", "ScriptedServer", "Seen", "code_in", "kinds_in", "parts_of", "reply_of", "row_of", "solution_of"]


def row_of(number: int, kinds: list[str], **more: Any) -> dict[str, Any]:
    """A record of a solution whose steps name their kinds."""
    right = kinds[-1] in ("right", "cessation")
    text = "".join(f"Line {number}.{place} is {kind}.\n\n" for place, kind in enumerate(kinds))
    row = {"id": f"s{number}", "problem": f"Problem {number // 2}?", "answer": "7", "text": text, "correct": right}
    return {**row, **more}


def solution_of(kinds: list[str], correct: bool | None = None, number: int = 0) -> Solution:
    """The same as a solution, a step a paragraph."""
    row = row_of(number, kinds)
    steps = steps_from_pieces([f"{part}\n\n" for part in row["text"].split("\n\n") if part])
    return Solution(row["id"], row["problem"], row["answer"], row["text"], tuple(steps), correct, row)


def kinds_in(seen: Seen) -> list[str]:
    """The kind that each step of the question names."""
    parts = parts_of(seen)
    steps = [parts[f"step {number}"] for number in range(1, 1 + sum(name.startswith("step ") for name in parts))]
    return [step.rstrip(".\n").rpartition(" is ")[2] for step in steps]


def reply_of(code: str, kinds: list[str]) -> str:
    """The judge's reply in the form asked."""
    entries = [{"step": place, "reason": f"because {kind}", "kind": kind} for place, kind in enumerate(kinds, start=1)]
    return json.dumps({"code": code, "steps": entries})


def honest(seen: Seen, number: int) -> Act:
    """Says what the steps say."""
    return Act(reply_of(code_in(seen), kinds_in(seen)))
