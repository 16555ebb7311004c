"""The questions that language models are asked about the steps of solutions, and the reading of their replies: the same
for a model behind an endpoint, in this process, and in a batch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.prm.judges.base import Solution, Task
from reasonrl.prm.label_checks import KINDS, LABEL_OF_KIND, sequence_faults
from reasonrl.rewards.judges.asking import Question
from reasonrl.rewards.judges.sampling import response_format
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for, fenced, imitates
from reasonrl.rewards.judges.verdicts import Unreadable, read_object

READER_VERSION = 2
"""Of how replies are read; other labels may come of the same reply when it changes."""

EXACT = "exact"
_WORDS_OF_LABELS = ("kind", "label", "steps")
_LOOKS_LIKE_LABELS = rf"(?:{'|'.join(_WORDS_OF_LABELS)})[\"'\s]*:"


class StepQuestions:
    """Makes the question about a solution.

    Args:
        owner: the judge, for messages.
        prompt: file of a prompt of the user's; None is ours.
        reply: how the form of replies is asked of the model: `json_schema`; `exact`, a schema with this question's
            code, its number of steps and the longest reason, for servers that hold every token to it (vLLM, SGLang);
            `json_object`; `text` (not at all).
        longest_reason: characters, for `exact`.

    Raises:
        RewardError: settings that cannot be.
    """

    def __init__(
        self, owner: str, prompt: str | None = None, reply: str = "json_schema", longest_reason: int = 300
    ) -> None:
        if isinstance(longest_reason, bool) or not isinstance(longest_reason, int) or longest_reason < 1:
            raise RewardError(f"{owner}: longest_reason={longest_reason!r} -> give a whole number from 1 on")
        self.owner, self.reply, self.longest_reason = owner, reply, longest_reason
        self.extra = {} if reply == EXACT else response_format(owner, reply, "step_labels", schema_of())
        own = Path(__file__).with_name("step_labels.j2")
        self.prompt = JudgePrompt(prompt, own, ("problem", "steps"), ("answer", "correct", "listing"))

    def settings(self) -> dict[str, Any]:
        """What changes the labels."""
        settings = {
            "prompt_hash": hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16],
            "reader": READER_VERSION,
            "reply": self.reply,
        }
        return settings | ({"longest_reason": self.longest_reason} if self.reply == EXACT else {})

    def about(self, task: Task, place: int) -> Question:
        """The question of a task."""
        solution = task.solution
        answer = "" if solution.answer is None else solution.answer
        code = code_for(self.prompt.text, solution.problem, answer, solution.text)
        steps = [part.strip("\n") for part in solution.parts()]
        listed = [fenced(f"step {number}", step, code) for number, step in enumerate(steps, start=1)]
        values = {
            "problem": solution.problem,
            "answer": solution.answer,
            "steps": steps,
            "listing": "\n".join(listed),
            "correct": solution.correct,
        }
        needed = imitates(_LOOKS_LIKE_LABELS, solution.text, solution.problem, words=_WORDS_OF_LABELS)
        read = functools.partial(read_steps, code=code, code_needed=needed, solution=solution)
        extra: Mapping[str, Any] = {}
        if self.reply == EXACT:
            schema = schema_of(code, len(steps), self.longest_reason)
            extra = response_format(self.owner, "json_schema", "step_labels", schema)
        return Question(place, self.prompt.fill(code, values), read, task.vote, extra)


def schema_of(code: str | None = None, steps: int | None = None, longest_reason: int | None = None) -> dict[str, Any]:
    """The JSON schema of a reply: of any, or of the one with this code and so many steps."""
    reason: dict[str, Any] = {"type": "string"}
    listed: dict[str, Any] = {"type": "array"}
    first: dict[str, Any] = {"type": "string"}
    if code is not None:
        first["enum"] = [code]
        reason["maxLength"] = longest_reason
        listed |= {"minItems": steps, "maxItems": steps}
    step = {
        "type": "object",
        "properties": {
            "step": {"type": "integer"},
            "reason": reason,
            "kind": {"type": "string", "enum": list(KINDS)},
        },
        "required": ["step", "reason", "kind"],
        "additionalProperties": False,
    }
    if code is not None and steps is not None:
        listed["prefixItems"] = [_numbered(step, number) for number in range(1, steps + 1)]
    return {
        "type": "object",
        "properties": {"code": first, "steps": {**listed, "items": step if code is None else False}},
        "required": ["code", "steps"],
        "additionalProperties": False,
    }


def _numbered(step: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {**step, "properties": {**step["properties"], "step": {"type": "integer", "enum": [number]}}}


def read_steps(
    reply: str, code: str, code_needed: bool, solution: Solution
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...] | None]:
    """Labels, reasons and kinds in a judge's reply: a JSON object with the code and one entry a step.

    Args:
        reply: what the judge wrote.
        code: of the question.
        code_needed: the object must hold it.
        solution: what it is about.

    Raises:
        Unreadable: there is none, or it cannot be; the text says what was wanted, for the judge to read too.
    """
    entries = read_object(reply, ("steps",), code, code_needed)["steps"]
    count = len(solution.steps)
    if not isinstance(entries, list) or any(type(entry) is not dict for entry in entries):
        raise Unreadable("steps is no list of objects")
    if len(entries) != count:
        raise Unreadable(f"steps has {len(entries)} entries, but the solution has {count} steps; give one for each")
    labels: list[int] = []
    reasons: list[str] = []
    kinds: list[str] = []
    for number, entry in enumerate(entries, start=1):
        label, reason, kind = _read_entry(entry, number)
        labels.append(label)
        reasons.append(reason)
        if kind is not None:
            kinds.append(kind)
    if kinds and len(kinds) != count:
        raise Unreadable("some steps have a kind and some have none; give each its kind")
    if faults := [*sequence_faults(labels, kinds, solution.correct)]:
        more = f" (and {len(faults) - 3} more faults)" if len(faults) > 3 else ""
        raise Unreadable("; ".join(faults[:3]) + more)
    return tuple(labels), tuple(reasons), tuple(kinds) or None


def _read_entry(entry: Mapping[str, Any], number: int) -> tuple[int, str, str | None]:
    """Label, reason and kind (None if it has none) of one step."""
    if entry.get("step", number) != number:
        raise Unreadable(f"entry {number} is about step {str(entry['step'])[:20]}; give the steps in order from 1")
    reason = entry.get("reason", "")
    if not isinstance(reason, str):
        raise Unreadable(f"the reason of step {number} is no text")
    kind = None
    if "kind" in entry:
        kind = str(entry["kind"]).strip().lower()
        if kind not in LABEL_OF_KIND:
            raise Unreadable(f"step {number}: the kind is {kind[:40]!r}, allowed are {', '.join(KINDS)}")
    label = entry.get("label", None if kind is None else LABEL_OF_KIND[kind])
    if isinstance(label, bool) or label not in (0, 1):
        raise Unreadable(f"step {number} has no kind, one of {', '.join(KINDS)}")
    return int(label), reason, kind
