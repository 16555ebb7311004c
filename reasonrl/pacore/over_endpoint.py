"""Rounds over OpenAI-compatible endpoints: all calls of a round at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from reasonrl.endpoints import BudgetSpent, EndpointClient, EndpointError, EndpointSettingsError, Rejected, Reply, chat
from reasonrl.endpoints import Request as EndpointRequest
from reasonrl.pacore.rounds import Answer, Call, Failure, Outcome, Rounds

Ask: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""Draws the answer to a call; raises an EndpointError if that fails for good."""

OnAnswer: TypeAlias = Callable[[Call, "Answer | Failure"], None]

_TOO_LONG = re.compile(r"context|too long|too large|maximum|max_tokens|exceed|length", re.IGNORECASE)
_LENGTH_STATUSES = (400, 413, 422)


class _TooLong(Exception):
    """A server finds a prompt too long."""


_FATAL = (BudgetSpent, EndpointSettingsError)
"""What every further call would meet too."""


def is_too_long(problem: Exception) -> bool:
    """Whether a server has refused a request for its length."""
    return isinstance(problem, Rejected) and problem.status in _LENGTH_STATUSES and bool(_TOO_LONG.search(str(problem)))


def request_of(call: Call, temperature: float, top_p: float, extra: Mapping[str, Any]) -> EndpointRequest:
    """The request that a call is."""
    return chat(
        call.messages,
        temperature=temperature,
        top_p=top_p,
        max_tokens=call.max_tokens,
        seed=call.seed,
        extra=extra,
    )


def answer_of(reply: Reply) -> Answer:
    """What a reply brings."""
    one = reply.choices[0]
    return Answer(one.text, one.reasoning, one.finish_reason, reply.prompt_tokens, reply.completion_tokens)


def asking(client: EndpointClient, temperature: float, top_p: float, extra: Mapping[str, Any] | None = None) -> Ask:
    """Asks a client with these settings; `extra` goes into every request."""
    fields = dict(extra or {})

    async def ask(call: Call) -> Answer:
        return answer_of(await client.asend(request_of(call, temperature, top_p, fields)))

    return ask


async def run_rounds(rounds: Rounds, ask: Ask, on_answer: OnAnswer | None = None) -> Outcome:
    """Ask round after round to the end.

    Cancelling it cancels what is under way, at the servers too.

    Args:
        rounds: they may have gone some way.
        ask: draws one answer.
        on_answer: told of every call as it ends, those of a round that is asked again with a shorter prompt too.

    Raises:
        RoundFailed: as `Rounds.close` and `Rounds.refit`.
        EndpointError: a setting or a budget lets no call through.
    """
    while rounds.outcome is None:
        if (outcomes := await one_round(rounds.calls(), ask, on_answer)) is None:
            rounds.refit()
        else:
            rounds.close(outcomes)
    return rounds.outcome


async def one_round(calls: list[Call], ask: Ask, on_answer: OnAnswer | None = None) -> list[Answer | Failure] | None:
    """The outcomes of a round's calls in their order; None where a server finds their prompt too long.

    Raises:
        EndpointError: as `run_rounds`.
    """
    if len(calls) == 1:
        try:
            return [await _one(calls[0], ask, on_answer)]
        except _TooLong:
            return None
    tasks = [asyncio.ensure_future(_one(call, ask, on_answer)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except _TooLong:
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one(call: Call, ask: Ask, on_answer: OnAnswer | None) -> Answer | Failure:
    """One outcome; raises _TooLong where less of the messages may help."""
    outcome: Answer | Failure
    try:
        outcome = await ask(call)
    except _FATAL:
        raise
    except EndpointError as problem:
        if isinstance(problem, Rejected) and problem.settings_fault:
            raise
        if is_too_long(problem) and call.round > 0:
            raise _TooLong from problem
        outcome = Failure(str(problem))
    if on_answer is not None:
        on_answer(call, outcome)
    return outcome
