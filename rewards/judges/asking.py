"""Asking a judge many questions at once: votes, replies that cannot be read, failures, and what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reasonrl.rewards.early import Begun
from reasonrl.rewards.judges.verdicts import Unreadable

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointClient
    from reasonrl.endpoints.request import Request


@dataclass(frozen=True)
class Question:
    """One question to the judge.

    Attributes:
        place: which completion it is about.
        prompt: the text.
        read: the verdict in a reply, or `Unreadable`.
        vote: which of several equal questions.
        extra: further fields of its requests, beside those of the sampling.
        media: parts of the conversation's first turn that stand before the text, such as pictures.
    """

    place: int
    prompt: str
    read: Callable[[str], Any]
    vote: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[Mapping[str, Any], ...] = ()

    def turn(self) -> dict[str, Any]:
        """What the judge is told first."""
        text = {"type": "text", "text": self.prompt}
        return {"role": "user", "content": [*self.media, text] if self.media else self.prompt}


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        verdict: what `read` gave; None if there is none.
        reply: the judge's last words; empty if it never replied.
        failure: why there is no verdict; empty if there is one.
        asked: replies that were wanted of the judge.
        prompt_tokens, completion_tokens: of all its replies together, as far as the server says; a cached one has none.
    """

    verdict: Any
    reply: str = ""
    failure: str = ""
    asked: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def unreadable(self) -> bool:
        """The judge replied, and no verdict was found."""
        return bool(self.failure and self.reply)


@dataclass(frozen=True)
class Sampling:
    """How the judge is sampled; `seed` plus the vote is each request's seed, None sends none."""

    temperature: float | None
    max_tokens: int
    seed: int | None
    re_asks: int
    extra: Mapping[str, Any] = field(default_factory=dict)


def ask_early(client: EndpointClient, questions: Sequence[Question], sampling: Sampling, begun: Begun[Answer]) -> None:
    """Start to ask, without waiting; `ask_all` finds the answers in `begun`."""
    for one in questions:
        begun.put((one.prompt, one.vote), client.start(ask(client, one, sampling)))


def ask_all(
    client: EndpointClient, questions: Sequence[Question], sampling: Sampling, begun: Begun[Answer]
) -> list[Answer]:
    """An answer a question, in order; the settings of the endpoint bound how many are asked at once. What was begun
    before is not asked again.

    Raises:
        EndpointSettingsError, BudgetSpent, Rejected: nothing can be asked with these settings, so no batch ever will
            be; what failed for a reason of the moment is an `Answer` with a failure instead.
    """

    async def answer(one: Question) -> Answer:
        early = begun.take((one.prompt, one.vote))
        return await (ask(client, one, sampling) if early is None else asyncio.wrap_future(early))

    async def every() -> list[Answer | BaseException]:
        return await asyncio.gather(*map(answer, questions), return_exceptions=True)

    answers = []
    for outcome in client.run(every()) if questions else []:
        if isinstance(outcome, BaseException):
            raise outcome
        answers.append(outcome)
    return answers


def first_request(client: EndpointClient, question: Question, sampling: Sampling) -> Request:
    """What a question is begun with, written already: whoever calls this spares the endpoints' loop that work."""
    request = _request([question.turn()], question, sampling, 1)
    request.written(client.config.model, client.config.extra_body)
    return request


def _request(turns: list[dict[str, Any]], question: Question, sampling: Sampling, attempt: int) -> Request:
    from reasonrl.endpoints import chat

    return chat(
        turns,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=None if sampling.seed is None else sampling.seed + question.vote,
        sample=question.vote * (sampling.re_asks + 1) + attempt - 1,
        extra={**sampling.extra, **question.extra},
    )


async def ask(client: EndpointClient, question: Question, sampling: Sampling, first: Request | None = None) -> Answer:
    """The answer to one question, in the endpoints' loop; the errors are those of `ask_all`."""
    from reasonrl.endpoints import BudgetSpent, EndpointError, EndpointSettingsError, Rejected

    turns: list[dict[str, Any]] = [question.turn()]
    said, failure, used = "", "", [0, 0]
    for attempt in range(1, sampling.re_asks + 2):
        begun = first if attempt == 1 and first is not None else None
        request = begun or _request(turns, question, sampling, attempt)
        try:
            reply = await client.asend(request)
        except EndpointError as problem:
            if isinstance(problem, (EndpointSettingsError, BudgetSpent)):
                raise
            if isinstance(problem, Rejected) and problem.settings_fault:
                raise
            return Answer(None, "", str(problem), attempt, *used)
        if not reply.cached:
            used = [used[0] + (reply.prompt_tokens or 0), used[1] + (reply.completion_tokens or 0)]
        choice = reply.choices[0]
        said = choice.text
        try:
            return Answer(question.read(said), said, "", attempt, *used)
        except Unreadable as problem:
            cut = f" (it was cut at max_tokens={sampling.max_tokens})" if choice.finish_reason == "length" else ""
            failure = f"{problem}{cut}"
            # Its own words back, so that it need not think everything over again; what it was told stands before them.
            turns = [turns[0], {"role": "assistant", "content": said or "…"}]
            turns.append({"role": "user", "content": f"This cannot be used: {problem}. Reply again in the form asked."})
    return Answer(None, said or "…", failure, sampling.re_asks + 1, *used)
