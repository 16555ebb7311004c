"""A judge behind an OpenAI-compatible endpoint: all steps of a solution in one question, the right answer given."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.prm.judges.base import Judged, Keep, Solution, Task, Usage
from reasonrl.prm.label_checks import KINDS, LABEL_OF_KIND, sequence_faults
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling, response_format, sampling_settings
from reasonrl.rewards.judges.streaming import stream_answers
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for, fenced, imitates
from reasonrl.rewards.judges.verdicts import Unreadable, read_object

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

READER_VERSION = 1
"""Of how replies are read; other labels may come of the same reply when it changes."""

_WORDS_OF_LABELS = ("kind", "label", "steps")
_LOOKS_LIKE_LABELS = rf"(?:{'|'.join(_WORDS_OF_LABELS)})[\"'\s]*:"
_STEP = {
    "type": "object",
    "properties": {
        "step": {"type": "integer"},
        "reason": {"type": "string"},
        "kind": {"type": "string", "enum": list(KINDS)},
    },
    "required": ["step", "reason", "kind"],
    "additionalProperties": False,
}
_SCHEMA = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "steps": {"type": "array", "items": _STEP}},
    "required": ["code", "steps"],
    "additionalProperties": False,
}


class EndpointJudge:
    """Asks a model for the kind of every step (arXiv:2505.14391, Section 4.2 and Figure 7), with a prompt of ours.

    A reply is held against what is known: a kind a step, no cessation or propagation without an open error, no step
    that is plainly right while one is open, a last step that fits the verdict on the final answer. One that fails is
    asked for again with the reason.

    Args:
        endpoint: settings of the judge's endpoint (`endpoints.EndpointConfig`).
        votes: how often each solution is asked about.
        temperature: None is 0 for one vote, else 1.
        max_tokens: of one reply.
        seed: of the first vote, the others count on from it; None sends no seed.
        re_asks: how often the judge is asked again, with the reason, after a reply without labels.
        reply: how the form of replies is asked of the server: `json_schema`, `json_object`, or `text` (not at all).
        prompt: file of a prompt of your own, with places for `problem` and `steps`, and if you like `answer`, `correct`
            and `listing` (all steps, each between lines with the code). A prompt may also ask for `"label": 0 or 1` in
            place of `"kind"`.

    Raises:
        EndpointSettingsError, RewardError: settings that cannot be.
    """

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        *,
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 4096,
        seed: int | None = 0,
        re_asks: int = 2,
        reply: str = "json_schema",
        prompt: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient

        owner = "step judge"
        form = response_format(owner, reply, "step_labels", _SCHEMA)
        self.sampling = judge_sampling(
            owner,
            votes=votes,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            re_asks=re_asks,
            extra=form,
        )
        self.client = EndpointClient(endpoint)
        self.votes = votes
        self.at_once = self.client.config.max_concurrency
        self.reply = reply
        own = Path(__file__).with_name("step_labels.j2")
        self.prompt = JudgePrompt(prompt, own, ("problem", "steps"), ("answer", "correct", "listing"))

    def settings(self) -> dict[str, Any]:
        """What changes the labels."""
        return {
            **sampling_settings(self.client, self.sampling),
            "prompt_hash": hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16],
            "reader": READER_VERSION,
            "votes": self.votes,
            "reply": self.reply,
        }

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`.

        Raises:
            EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked with these settings.
        """
        asked: dict[int, Task] = {}
        kept: deque[Judged] = deque()

        def note(question: Question, answer: Answer) -> None:
            judged = self._judged(asked.pop(question.place), answer)
            keep(judged)
            kept.append(judged)

        for _ in stream_answers(self.client, self._questions(tasks, asked), self.sampling, note):
            yield kept.popleft()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _questions(self, tasks: Iterable[Task], asked: dict[int, Task]) -> Iterator[Question]:
        for number, task in enumerate(tasks):
            asked[number] = task
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
            yield Question(number, self.prompt.fill(code, values), read, task.vote)

    def _judged(self, task: Task, answer: Answer) -> Judged:
        price = self.client.config.price
        cost = (answer.prompt_tokens * price.input + answer.completion_tokens * price.output) / 1e6
        usage = Usage(answer.asked, answer.prompt_tokens, answer.completion_tokens, cost)
        if answer.failure:
            return Judged(task, failure=answer.failure, usage=usage)
        labels, reasons, kinds = answer.verdict
        return Judged(task, labels, reasons, kinds, usage=usage)


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
