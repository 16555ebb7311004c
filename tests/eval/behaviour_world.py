"""Records of evaluations on disk as the format says, and a judge that counts marks in the text over real HTTP."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rewards"))
from judging_server import Act, ScriptedServer, Seen, code_in, parts_of

from reasonrl.eval.behaviours import read_catalogue

__all__ = ["Act", "ScriptedServer", "Seen", "code_in", "honest", "marked", "name_in", "parts_of", "write_suite"]

DEFINITIONS = {one.definition: one.name for one in read_catalogue().behaviours()}


def write_suite(folder: Path, responses: Iterable[tuple[str, int, str, bool | None]], metric: str = "sample") -> Path:
    """A suite's record of (problem id, index, text, correct)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(responses)
    problems = [
        {"id": name, "prompt": f"<user>How many in {name}?", "prompt_hash": name, "answer": "1", "images": 0}
        for name in dict.fromkeys(row[0] for row in rows)
    ]
    samples = [
        {
            **{"id": name, "metric": metric, "index": index, "prompt_hash": name, "seed": "1", "text": text},
            **{"finish_reason": "stop", "length": len(text), "extracted": "1", "class": "1", "verdict": "correct"},
            **{"reason": "", "right": correct, "correct": correct, "score": 1.0, "grader": None},
        }
        for name, index, text, correct in rows
    ]
    (folder / "settings.json").write_text("{}")
    for file, lines in (("problems.jsonl", problems), ("samples.jsonl", samples)):
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def marked(**counts: int) -> str:
    """A text with so many marks of each behaviour; the judge below counts them."""
    return "Thinking. " + " ".join(
        f"({name}) number {index} happens here." for name, count in counts.items() for index in range(count)
    )


def name_in(seen: Seen) -> str:
    """The behaviour that is asked about, by its definition."""
    prompt = seen.body["messages"][0]["content"]
    (name,) = [name for definition, name in DEFINITIONS.items() if definition in prompt]
    return name


def reply(code: str, quotes: list[str], count: int | None = None) -> Act:
    """The judge's reply in the form asked."""
    return Act(json.dumps({"code": code, "quotes": quotes, "count": len(quotes) if count is None else count}))


def honest(seen: Seen, number: int) -> Act:
    """Counts the marks of the behaviour that is asked about, and quotes them."""
    quotes = re.findall(rf"\({name_in(seen)}\) number \d+", parts_of(seen)["reasoning"])
    return reply(code_in(seen), quotes)
