"""A suite of sums in a YAML file, and a real server that answers by the seed alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "endpoints"))
from scripted_server import Act, ScriptedServer, Seen

SUITE = """
sums:
  about: small sums
  source: {path: sums.jsonl}
  template: "{problem}"
  n: 2
  temperature: 0.8
  max_tokens: 64
"""


def write_suite(folder: Path, count: int = 30) -> Path:
    """`sums.yaml` with its data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"p{index}", "problem": f"{index} + {3 * index} = ?", "answer": str(4 * index)} for index in range(count)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(SUITE)
    return folder / "sums.yaml"


def said(seen: Seen) -> dict[str, Any]:
    """A choice that depends on what was asked and on the seed: right, wrong, thinking aside, or cut."""
    text = seen.body["messages"][-1]["content"]
    first, second = (int(word) for word in text.replace("?", "").replace("=", "").split("+"))
    seed = seen.body["seed"]
    right = first + second + (0 if seed % 10 < 6 else 1)
    message: dict[str, Any] = {"role": "assistant", "content": f"so it is \\boxed{{{right}}} (draw {seed % 1000})"}
    if seed % 7 == 0:
        message["reasoning_content"] = "perhaps \\boxed{0}?\u2028no"
    finish = "length" if seed % 11 == 0 else "content_filter" if seed % 23 == 0 else "stop"
    return {"index": 0, "message": message, "finish_reason": finish}


def body(seen: Seen) -> str:
    """The whole reply."""
    choice = said(seen)
    usage = {"prompt_tokens": 9, "completion_tokens": len(choice["message"]["content"])}
    return json.dumps({"id": "x", "model": seen.body["model"], "choices": [choice], "usage": usage})


def serving(seconds: float = 0.0) -> ScriptedServer:
    """The server; each answer takes so long."""
    return ScriptedServer(lambda seen, number: Act(body=body(seen), seconds=seconds))
