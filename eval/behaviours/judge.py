"""A judge behind an endpoint that counts a behaviour in a response, and quotes each occurrence."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.eval.behaviours.catalogue import Behaviour
from reasonrl.eval.behaviours.responses import Response
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling, response_format, sampling_settings
from reasonrl.rewards.judges.streaming import stream_answers
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for, imitates
from reasonrl.rewards.judges.verdicts import Unreadable, read_object

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

_LOOKS_LIKE_A_COUNT = r"(?:count|quotes)[\"'\s]*:"
_SCHEMA = {
    "type": "object",
    "properties": {
        "code": {"type": "string"},
        "quotes": {"type": "array", "items": {"type": "string"}},
        "count": {"type": "integer"},
    },
    "required": ["code", "quotes", "count"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Task:
    """One question: how often one response shows one behaviour."""

    response: Response
    behaviour: Behaviour
    vote: int = 0


@dataclass(frozen=True)
class Counted:
    """What the judge said: occurrences, their beginnings in its quotes, how many of those stand in the response (None:
    it quoted nothing).
    """

    count: int
    quotes: tuple[str, ...]
    quoted: int | None


class BehaviourJudge:
    """Counts behaviours by asking a model, one question a behaviour as in OVR (arXiv 2507.05255, App. C.2), with a
    prompt of ours.

    Args:
        endpoint: settings of the judge's endpoint (`endpoints.EndpointConfig`).
        votes: how often each question is asked.
        temperature: None is 0 for one vote, else 1.
        max_tokens: of one reply.
        seed: of the first vote, the others count on from it; None sends no seed.
        re_asks: how often the judge is asked again, with the reason, after a reply without a count.
        reply: how the form of replies is asked of the server: `json_schema`, `json_object`, or `text` (not at all).
        prompt: file of a prompt of your own, with places for `problem`, `response` and `definition`, and if you like
            `examples`, `not_this` and `name`.

    Raises:
        EndpointSettingsError, RewardError: settings that cannot be.
    """

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        *,
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        reply: str = "json_schema",
        prompt: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient

        owner = "behaviour judge"
        form = response_format(owner, reply, "behaviour_count", _SCHEMA)
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
        self.reply = reply
        self.prompt = JudgePrompt(
            prompt,
            Path(__file__).with_name("behaviour.j2"),
            ("problem", "response", "definition"),
            ("examples", "not_this", "name"),
        )

    def settings(self) -> dict[str, Any]:
        """What changes the counts; counts made with other settings are not mixed with these."""
        prompt = hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16]
        return {**sampling_settings(self.client, self.sampling), "prompt": prompt, "reply": self.reply}

    def count(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
        """Each task with its answer (`verdict` is a `Counted`) as it comes, in no order.

        Raises:
            EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked with these settings.
        """
        for question, answer in stream_answers(self.client, self._questions(tasks), self.sampling):
            yield tasks[question.place], answer

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _questions(self, tasks: Iterable[Task]) -> Iterator[Question]:
        for place, task in enumerate(tasks):
            problem, response, behaviour = task.response.problem, task.response.text, task.behaviour
            # The behaviour is no part of the code: the questions about one response then begin alike, up to the
            # behaviour's definition, and a server with a prefix cache reads the response once.
            code = code_for(self.prompt.text, problem, response)
            values = {
                "problem": problem,
                "response": response,
                "definition": behaviour.definition,
                "examples": behaviour.examples,
                "not_this": behaviour.not_this,
                "name": behaviour.name,
            }
            needed = imitates(_LOOKS_LIKE_A_COUNT, response, problem)
            read = functools.partial(read_count, code=code, code_needed=needed, response=response)
            yield Question(place, self.prompt.fill(code, values), read, task.vote)


def read_count(reply: str, code: str, code_needed: bool, response: str) -> Counted:
    """The count in a judge's reply: a JSON object with the code, `count`, and as many `quotes` if there are any.

    Raises:
        Unreadable: there is none, or it cannot be; the text says what was wanted, for the judge to read too.
    """
    found = read_object(reply, ("count",), code, code_needed)
    count, quotes = found["count"], found.get("quotes")
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise Unreadable(f"count is {str(count)[:40]!r}, no whole number from 0 on")
    words = len(response.split())
    if count > words:
        raise Unreadable(f"count is {str(count)[:40]}, more than the {words} words of the reasoning")
    if quotes is None:
        return Counted(count, (), None)
    if not isinstance(quotes, list) or any(not isinstance(quote, str) for quote in quotes):
        raise Unreadable("quotes is no list of texts")
    if len(quotes) != count:
        raise Unreadable(f"count is {count}, but there are {len(quotes)} quotes; give one quote for each occurrence")
    text = _letters(response)
    return Counted(count, tuple(quotes), sum(bool(_letters(quote)) and _letters(quote) in text for quote in quotes))


def _letters(text: str) -> str:
    """Letters and digits alone: what survives another judge's spaces, quotation marks and ellipses."""
    return "".join(symbol for symbol in text.casefold() if symbol.isalnum())
