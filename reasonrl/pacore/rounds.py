"""Parallel coordinated reasoning as a state machine: which calls come next, and what their answers make of it.

PaCoRe (arXiv 2601.05593, section 2.1): in each round so many answers are drawn apart from each other, compacted to
messages, and shown, all of this round and none of earlier ones, to the next; the last round is one call. Nothing here
asks a server or an engine: `over_endpoint` and `over_engine` do, with the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.pacore.compaction import Compacted
from reasonrl.pacore.errors import PacoreError, RoundFailed
from reasonrl.pacore.fitting import Fitted, fit_messages
from reasonrl.pacore.ordering import call_seed, ordered_messages
from reasonrl.pacore.plan import Plan
from reasonrl.pacore.synthesis import last_user_turn, texts_of, with_messages

MOST_REFITS = 8
_TURN_TOKENS = 16
"""What a chat template puts around a turn, at most."""


@dataclass(frozen=True)
class Call:
    """One answer to be drawn.

    Attributes:
        round: from 0.
        index: within the round.
        messages: the conversation, the same for all calls of a round.
        seed: 31 bits, its own for every call.
        max_tokens: None leaves it to the server.
        last: whether it is the one call of the last round.
    """

    round: int
    index: int
    messages: Sequence[Mapping[str, Any]] = field(hash=False)
    seed: int
    max_tokens: int | None
    last: bool


@dataclass(frozen=True)
class Answer:
    """What a call brought.

    Attributes:
        text: the answer, or thinking and answer where the server does not part them.
        reasoning: the thinking, where it does.
        prompt_tokens, completion_tokens: None where the server does not say.
    """

    text: str
    reasoning: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failure:
    """A call that failed for good, and how."""

    error: str


@dataclass(frozen=True)
class RoundRecord:
    """What one round cost and brought.

    Attributes:
        calls: asked.
        failed: that failed for good.
        cut_off: whose answer ended at `max_tokens`.
        empty: whose message was empty; it is dropped.
        untagged: whose text had no closing tag; the whole text is the message.
        messages: that the next round may be shown.
        shown: messages of the round before in this round's prompt.
        left_out, shortened: of them, to fit the context window.
        refits: how often the server found the prompt too long.
        prompt_tokens, completion_tokens: of all answers, as the server said.
        without_usage: answers whose tokens the server did not say.
    """

    calls: int
    failed: int = 0
    cut_off: int = 0
    empty: int = 0
    untagged: int = 0
    messages: int = 0
    shown: int = 0
    left_out: int = 0
    shortened: int = 0
    refits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0


@dataclass(frozen=True)
class Outcome:
    """The end of it.

    Attributes:
        text: the compacted answer of the last call.
        last: that answer as it came.
        thinking: what compaction took off it; None where nothing was.
        rounds: one record a round, the last one included.
    """

    text: str
    last: Answer
    thinking: str | None
    rounds: tuple[RoundRecord, ...]

    @property
    def prompt_tokens(self) -> int:
        """Of all calls."""
        return sum(one.prompt_tokens for one in self.rounds)

    @property
    def completion_tokens(self) -> int:
        """Of all calls: the paper's measure of test-time compute."""
        return sum(one.completion_tokens for one in self.rounds)


class Rounds:
    """The rounds of one conversation.

    Ask every call of `calls()`, give the outcomes to `close()`, in the order of the calls, until `outcome` is there.

    Args:
        conversation: messages of the API; its last user message is the problem.
        plan: what is asked.
        seed: decides the seeds of all calls and the order of messages.

    Raises:
        PacoreError: the conversation has no user message.
    """

    def __init__(self, conversation: Sequence[Mapping[str, Any]], plan: Plan, seed: int | str) -> None:
        last_user_turn(conversation)
        self.conversation = [dict(turn) for turn in conversation]
        self.plan = plan
        self.seed = seed
        self.round = 0
        self.records: list[RoundRecord] = []
        self.messages: list[str] = []
        self.made: list[Compacted | None] = []
        """What each call of the round that was closed last was compacted to; None for a failed one."""
        self.outcome: Outcome | None = None
        self._refits = 0
        self._spent = 0
        self._prepare()

    @property
    def last(self) -> bool:
        """Whether the present round is the last one."""
        return self.round == len(self.plan.rounds)

    def calls(self) -> list[Call]:
        """The calls of the present round."""
        limit = self._call_limit()
        return [
            Call(self.round, index, self._prompt, call_seed(self.seed, self.round, index), limit, self.last)
            for index in range(self.plan.all_rounds[self.round])
        ]

    def refit(self) -> None:
        """The server has found the present round's prompt too long: take less of the messages, and ask again.

        Raises:
            RoundFailed: there is nothing left to take away.
        """
        if not self._fitted.messages or self._refits >= MOST_REFITS:
            raise RoundFailed(f"round {self.round + 1}: the prompt is too long for the server even without messages")
        self._refits += 1
        self._prepare()

    def close(self, outcomes: Sequence[Answer | Failure]) -> None:
        """Go on to the next round.

        Args:
            outcomes: one a call, in their order.

        Raises:
            RoundFailed: more calls than `tolerate` allows have failed, or the last one has.
        """
        calls = self.plan.all_rounds[self.round]
        if len(outcomes) != calls:
            raise PacoreError(f"round {self.round + 1} has {calls} calls, and {len(outcomes)} outcomes were given")
        answers = [one for one in outcomes if isinstance(one, Answer)]
        self._check_failures(outcomes, calls)
        self.made = [
            self.plan.compaction(one.text, one.reasoning) if isinstance(one, Answer) else None for one in outcomes
        ]
        kept = [one.text for one in self.made if one is not None and one.text]
        record = RoundRecord(
            calls=calls,
            failed=calls - len(answers),
            cut_off=sum(one.finish_reason == "length" for one in answers),
            empty=len(answers) - len(kept),
            untagged=sum(one is not None and not one.tagged for one in self.made),
            messages=len(kept),
            shown=len(self._fitted.messages),
            left_out=self._fitted.left_out,
            shortened=self._fitted.shortened,
            refits=self._refits,
            prompt_tokens=sum(one.prompt_tokens or 0 for one in answers),
            completion_tokens=sum(one.completion_tokens or 0 for one in answers),
            without_usage=sum(one.prompt_tokens is None or one.completion_tokens is None for one in answers),
        )
        self.records.append(record)
        self._spent += record.completion_tokens
        if self.last:
            final = self.made[0]
            assert final is not None and answers  # a failed last call has raised
            self.outcome = Outcome(final.text, answers[0], final.thinking, tuple(self.records))
            return
        self.messages = ordered_messages(kept, self.seed, self.round)
        self.round += 1
        self._refits = 0
        self._prepare()

    def show(self, messages: Sequence[str]) -> None:
        """Show other messages in the present round: for controls."""
        self.messages = list(messages)
        self._prepare()

    def _check_failures(self, outcomes: Sequence[Answer | Failure], calls: int) -> None:
        failures = tuple(one.error for one in outcomes if isinstance(one, Failure))
        allowed = 0 if self.last else int(self.plan.tolerate * calls + 1e-9)
        if len(failures) > allowed:
            raise RoundFailed(
                f"round {self.round + 1} of {len(self.plan.all_rounds)}: {len(failures)} of {calls} calls failed, and"
                f" {allowed} may; the first one: {failures[0]}",
                failures,
            )

    def _prepare(self) -> None:
        """Make the present round's prompt."""
        self._fitted = self._fit()
        self._prompt = with_messages(self.conversation, self._fitted.messages, self.plan.prompt)

    def _fit(self) -> Fitted:
        fit = self.plan.fit
        if fit.window is None and not self._refits:
            return Fitted(list(self.messages))
        sizes = sum(map(fit.tokens, self.messages))
        room = sizes if fit.window is None else min(sizes, fit.window - self._taken(fit.window))
        # A server that finds the prompt too long counts otherwise than we do: each time a quarter less.
        room = int(room * 0.75**self._refits)
        return fit_messages(self.messages, room, fit.rule, fit.tokens)

    def _taken(self, window: int) -> int:
        """Tokens of the window that messages cannot have."""
        fit, limit = self.plan.fit, self._call_limit()
        reserve = limit if limit is not None else fit.reserve if fit.reserve is not None else window // 2
        texts, pictures = texts_of(self.conversation)
        # The frame with its numbers, of empty messages: two tokens more for each join.
        texts += self.plan.prompt.around([""] * len(self.messages)) if self.messages else ()
        frame = sum(map(fit.tokens, texts)) + pictures * fit.image_tokens + 2 * len(self.messages)
        return reserve + frame + _TURN_TOKENS * (len(self.conversation) + 1)

    def _call_limit(self) -> int | None:
        if self.plan.budget is None:
            return self.plan.max_tokens
        to_come = sum(self.plan.all_rounds[self.round :])
        # At least one: a server that went over its limits is cut short, not asked for nothing.
        share = max((self.plan.budget - self._spent) // to_come, 1)
        return share if self.plan.max_tokens is None else min(share, self.plan.max_tokens)
