"""One request under way: its rounds, what of them is told as reasoning, and the last answer as it comes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from reasonrl.endpoints import BudgetSpent, DeadlinePassed, EndpointClient, EndpointError, Rejected
from reasonrl.pacore.compaction import Compacted
from reasonrl.pacore.errors import RoundFailed
from reasonrl.pacore.over_endpoint import answer_of, is_too_long, one_round, request_of
from reasonrl.pacore.rounds import Answer, Call, Failure, Outcome, Rounds
from reasonrl.pacore.server.asked import Asked
from reasonrl.pacore.server.errors import ApiError
from reasonrl.pacore.server.gate import FairGate
from reasonrl.pacore.server.metrics import Metrics
from reasonrl.pacore.server.splitting import Piece, Splitter

Say = Callable[[Piece], None]

STREAM_ATTEMPTS = 3
_ADDRESS = re.compile(r"endpoint https?://\S+")
_CLIENTS_FAULT = (400, 413, 422)


class Answering:
    """Answers one request.

    Runs in the endpoints' event loop; cancelling it cancels its calls, at the upstream too.

    Args:
        asked: what is asked for.
        client: of the upstream.
        gate: whose turn it is there.
        metrics: counts.
        who: the client, for fairness.
    """

    def __init__(self, asked: Asked, client: EndpointClient, gate: FairGate, metrics: Metrics, who: str) -> None:
        self.asked, self.client, self.gate, self.metrics, self.who = asked, client, gate, metrics, who
        self.rounds = Rounds(asked.conversation, asked.plan, asked.seed)
        self.outcome: Outcome | None = None
        self.problem: EndpointError | None = None
        self._tagged = self._answers = 0
        self._splitter: Splitter | None = None

    async def whole(self) -> tuple[Outcome, str]:
        """The outcome, and the reasoning before it.

        Raises:
            ApiError: nothing came of it.
        """
        told: list[str] = []
        outcome = await self._run(lambda piece: told.append(piece[1]), stream=False)
        return outcome, "".join(told) + (outcome.thinking or "")

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Reasoning and answer as they come; `outcome` is there at the end.

        Raises:
            ApiError: as `whole`; pieces may have been handed over.
        """
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._run(queue.put_nowait, stream=True))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, say: Say, stream: bool) -> Outcome:
        try:
            while self.rounds.outcome is None:
                await self._round(say, stream)
        except (RoundFailed, EndpointError) as problem:
            self.metrics.calls.labels("failed").inc(len(getattr(problem, "failures", "1")))
            raise self._api_error(problem) from problem
        self.outcome = self.rounds.outcome
        return self.outcome

    async def _round(self, say: Say, stream: bool) -> None:
        rounds, began = self.rounds, time.monotonic()
        calls, number, last = rounds.calls(), rounds.round, rounds.last
        outcomes: list[Answer | Failure] | None
        said: list[str] = []
        if last and stream:
            streamed = await self._streamed(calls[0], say, said)
            outcomes = None if streamed is None else [streamed]
        elif last:
            outcomes = await one_round(calls, self._ask)
        else:
            told = Telling(number, len(calls), len(self.asked.plan.all_rounds), self._compacted, say, self.asked.show)
            outcomes = await one_round(calls, self._ask, told.ended)
        if outcomes is None:
            rounds.refit()
            return
        rounds.close(outcomes)
        self.metrics.round(number, rounds.records[-1], time.monotonic() - began, last)
        if last and stream:
            self._say_rest(say, said)

    def _compacted(self, outcome: Answer | Failure) -> Compacted | None:
        if isinstance(outcome, Failure):
            return None
        return self.asked.plan.compaction(outcome.text, outcome.reasoning)

    def _request(self, call: Call) -> Any:
        asked = self.asked
        extra = {**asked.every, **asked.last} if call.last else asked.every
        return request_of(call, asked.plan.temperature, asked.plan.top_p, extra)

    async def _ask(self, call: Call) -> Answer:
        try:
            async with self.gate.turn(self.who, id(self)):
                answer = answer_of(await self.client.asend(self._request(call)))
        except EndpointError as problem:
            self.problem = problem
            raise
        self._answers += 1
        if self.asked.tag is not None and answer.reasoning is None:
            self._tagged += self.asked.tag in answer.text
        return answer

    # --- the last answer, as it comes

    async def _streamed(self, call: Call, say: Say, said: list[str]) -> Answer | Failure | None:
        """The last answer, said as far as it can be told apart from thinking; None where its prompt is too long."""
        if self.asked.tag is not None and self._answers:
            self._splitter = Splitter(self.asked.tag, thinks=self._tagged > 0)
        stream = LastStream(self._splitter, say, said)
        for attempt in range(STREAM_ATTEMPTS):
            stream.again()
            try:
                async with self.gate.turn(self.who, id(self)), aclosing(self._events(call)) as events:
                    async for event in events:
                        stream.event(event)
                return stream.answer()
            except EndpointError as problem:
                self.problem = problem
                if is_too_long(problem) and not stream.heard:
                    return None
                if not problem.retry or not stream.heard or attempt == STREAM_ATTEMPTS - 1:
                    return Failure(str(problem))
            except Diverged:
                return Failure("the upstream failed within its answer, and another one went on otherwise")
        return None

    def _events(self, call: Call) -> AsyncGenerator[Any]:
        return self.client.astream(self._request(call))  # type: ignore[return-value]

    def _say_rest(self, say: Say, said: list[str]) -> None:
        """What was held back of the last answer, now that it is whole."""
        outcome, before = self.rounds.outcome, "".join(said)
        assert outcome is not None
        if self._splitter is None and outcome.thinking:
            say(("reasoning", outcome.thinking))
        if not outcome.text.startswith(before):
            self.metrics.late_tags.inc()
        elif rest := outcome.text[len(before) :]:
            say(("content", rest))

    def _api_error(self, problem: Exception) -> ApiError:
        known = self.problem
        words = _ADDRESS.sub("upstream", str(problem))
        if isinstance(known, Rejected) and known.status in _CLIENTS_FAULT:
            return ApiError(400, words, code="upstream_refused")
        if isinstance(known, DeadlinePassed):
            return ApiError(504, words, code="upstream_timeout")
        if isinstance(known, BudgetSpent):
            return ApiError(503, words, code="upstream_budget_spent")
        return ApiError(502, words, code="upstream_failed")


class Telling:
    """Tells a round's messages as reasoning, each as soon as all before it have come, whatever order they end in.

    Nothing is told before a call has succeeded: a round that fails as a whole can then still be answered by a status.
    """

    def __init__(
        self,
        number: int,
        calls: int,
        rounds: int,
        compacted: Callable[[Answer | Failure], Compacted | None],
        say: Say,
        show: str,
    ) -> None:
        self.say, self.show, self.number, self.compacted = say, show, number, compacted
        self.next, self.there = 0, dict[int, Compacted | None]()
        answers = "1 answer" if calls == 1 else f"{calls} answers"
        self.untold = f"Round {number + 1} of {rounds}: {answers}\n\n"

    def ended(self, call: Call, outcome: Answer | Failure) -> None:
        """A call of the round has ended."""
        if self.show == "none":
            return
        self.there[call.index] = self.compacted(outcome)
        while self.next in self.there:
            message = self.there.pop(self.next)
            self.next += 1
            text = "(failed)" if message is None else message.text or "(empty)"
            self.untold += f"[{self.number + 1}.{self.next}] {text}\n\n"
            if message is not None:
                self.say(("reasoning", self.untold))
                self.untold = ""


class Diverged(Exception):
    """A second attempt at an answer says something else than what was handed over of the first."""


class LastStream:
    """Reads the events of a streamed answer, over attempts that must say the same.

    Args:
        splitter: parts thinking and answer; None says nothing before the end.
        say: takes pieces.
        said: takes the parts of the answer that were said.
    """

    def __init__(self, splitter: Splitter | None, say: Say, said: list[str]) -> None:
        self.splitter, self.say, self.said = splitter, say, said
        self.heard = False
        self._known = {"content": "", "reasoning": ""}
        self.again()

    def again(self) -> None:
        """Another attempt begins."""
        for kind, parts in getattr(self, "parts", {}).items():
            if len(text := "".join(parts)) > len(self._known[kind]):
                self._known[kind] = text
        self.parts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._left = dict(self._known)
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}

    def event(self, event: Any) -> None:
        """One event of the stream.

        Raises:
            Diverged: it does not say what an earlier attempt said.
        """
        self.usage = event.get("usage") or self.usage
        for choice in (event.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            self.finish = choice.get("finish_reason") or self.finish
            self._part("reasoning", delta.get("reasoning_content") or delta.get("reasoning"))
            self._part("content", delta.get("content"))

    def _part(self, kind: str, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        self.heard = True
        self.parts[kind].append(text)
        if left := self._left[kind]:
            size = min(len(left), len(text))
            if left[:size] != text[:size]:
                raise Diverged
            self._left[kind], text = left[size:], text[size:]
            if not text:
                return
        if self.splitter is None:
            return
        if kind == "reasoning":
            self.splitter.parted()
            self.say(("reasoning", text))
            return
        for piece in self.splitter.add(text):
            if piece[0] == "content":
                self.said.append(piece[1])
            self.say(piece)

    def answer(self) -> Answer:
        """The whole of it."""
        counts = [self.usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        prompt, completion = (count if isinstance(count, int) else None for count in counts)
        reasoning = "".join(self.parts["reasoning"])
        return Answer("".join(self.parts["content"]), reasoning or None, self.finish, prompt, completion)


def summary(outcome: Outcome) -> list[dict[str, Any]]:
    """The rounds' counts, for the reply."""
    return [asdict(record) for record in outcome.rounds]
