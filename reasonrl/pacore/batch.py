"""Rounds over many problems: every finished call is on the disk before the next begins, and is never asked again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reasonrl.endpoints import EndpointError
from reasonrl.pacore.errors import PacoreError, RoundFailed
from reasonrl.pacore.over_endpoint import Ask, one_round
from reasonrl.pacore.over_engine import run_rounds_on_engine
from reasonrl.pacore.plan import Plan
from reasonrl.pacore.rounds import Answer, Call, Failure, Outcome, Rounds
from reasonrl.pacore.store import CallStore, prompt_hash
from reasonrl.pacore.synthesis import last_user_turn

if TYPE_CHECKING:
    from reasonrl.rollout.engine import RolloutEngine

OnProgress = Callable[[int, int], None]
"""Told (calls ended, problems finished) since the start, those of earlier processes included."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: unique in the run.
        conversation: messages of the API.
        columns: carried over into the result.
    """

    id: str
    conversation: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Done:
    """What became of a batch.

    Attributes:
        finished: problems with a result, of earlier processes too.
        failed: problem -> why it has none.
        asked: calls of this process.
        reused: calls that were there.
    """

    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    reused: int = 0


class Batch:
    """The problems of one run over one store.

    Args:
        problems: with unique ids.
        plan: what is asked.
        store: the run's folder.
        seed: of the run; a problem's seeds come from it and its id.
        solo: so many answers to the bare problem are drawn in all, the first round's among them: the pool of the
            baselines.
        on_progress: told after every call.

    Raises:
        PacoreError: an id is there twice, a conversation has no user message.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        plan: Plan,
        store: CallStore,
        *,
        seed: int = 0,
        solo: int = 0,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.plan, self.store, self.on_progress = plan, store, on_progress
        self.done = Done()
        self.hashes = {one.id: prompt_hash(one.conversation) for one in problems}
        if len(self.hashes) < len(problems):
            raise PacoreError("two problems have one id -> ids must differ")
        self.solo = solo
        self.seed = seed
        self.open: dict[str, Problem] = {}
        for one in problems:
            last_user_turn(one.conversation)
            if (one.id, self.hashes[one.id]) in store.finished:
                self.done.finished += 1
            else:
                self.open[one.id] = one

    def _rounds(self, name: str) -> Rounds:
        return Rounds(self.open[name].conversation, self.plan, f"{self.seed} {name}")

    def _solo_calls(self, rounds: Rounds) -> list[Call]:
        """The calls of the bare problem that the first round does not ask."""
        if self.solo <= (first := self.plan.all_rounds[0]):
            return []
        wide = dataclasses.replace(self.plan, rounds=(self.solo,), budget=None)
        calls = Rounds(rounds.conversation, wide, rounds.seed).calls()
        limit = rounds.calls()[0].max_tokens
        return [dataclasses.replace(call, max_tokens=limit, last=False) for call in calls[first:]]

    def _asked(self, call: Call, name: str) -> str:
        return self.hashes[name] if call.round == 0 else prompt_hash(call.messages)

    def _finish(self, name: str, outcome: Outcome) -> None:
        self.store.finish(
            {
                "id": name,
                "prompt_hash": self.hashes[name],
                "content": outcome.text,
                "reasoning": outcome.thinking,
                "finish_reason": outcome.last.finish_reason,
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "rounds": [dataclasses.asdict(one) for one in outcome.rounds],
                "columns": dict(self.open[name].columns),
            }
        )
        self.done.finished += 1
        self._report()

    def _report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.done.asked + self.done.reused, self.done.finished)

    # --- endpoints

    async def over_endpoint(self, ask: Ask, at_once: int) -> Done:
        """Ask all; a problem that fails is counted, and its calls are kept for the next time.

        Args:
            ask: draws one answer.
            at_once: problems under way together.

        Raises:
            EndpointError: a setting or a budget lets no call through.
        """
        turn = asyncio.Semaphore(at_once)

        async def one(name: str) -> None:
            async with turn:
                await self._one(name, ask)

        tasks = [asyncio.ensure_future(one(name)) for name in self.open]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.done

    async def _one(self, name: str, ask: Ask) -> None:
        rounds = self._rounds(name)

        async def once(call: Call) -> Answer:
            there = self.store.known(name, call, self._asked(call, name))
            if there is not None:
                self.done.reused += 1
                if isinstance(there, Failure):
                    raise EndpointError(there.error)
                return there
            answer = await ask(call)
            self.done.asked += 1
            self.store.write(name, call, self._asked(call, name), answer)
            return answer

        try:
            if extra := self._solo_calls(rounds):
                await one_round(extra, once, self._told)
            while rounds.outcome is None:
                calls = rounds.calls()
                outcomes = await one_round(calls, once, self._told)
                if outcomes is None:
                    rounds.refit()
                    continue
                rounds.close(outcomes)
                self._keep_failures(name, calls, outcomes)
            self._finish(name, rounds.outcome)
        except RoundFailed as problem:
            self.done.failed[name] = str(problem)
            self._report()

    def _told(self, call: Call, outcome: Answer | Failure) -> None:
        self._report()

    def _keep_failures(self, name: str, calls: Sequence[Call], outcomes: Sequence[Answer | Failure]) -> None:
        """The next round's prompt stands on these failures: asked again, they might bring a message."""
        for call, outcome in zip(calls, outcomes, strict=True):
            asked = self._asked(call, name)
            if isinstance(outcome, Failure) and self.store.known(name, call, asked) is None:
                self.store.write(name, call, asked, outcome)

    # --- engines

    def over_engine(
        self,
        engine: RolloutEngine,
        render: Callable[[Sequence[Mapping[str, Any]]], Sequence[int]],
        max_tokens: int,
        at_once: int = 256,
    ) -> Done:
        """Ask all, so many problems together in every round."""

        def known(name: str, call: Call) -> Answer | Failure | None:
            there = self.store.known(name, call, self._asked(call, name))
            self.done.reused += there is not None
            return there

        def keep(name: str, call: Call, answer: Answer) -> None:
            self.done.asked += 1
            self.store.write(name, call, self._asked(call, name), answer)
            self._report()

        names = list(self.open)
        for start in range(0, len(names), at_once):
            part = {name: self._rounds(name) for name in names[start : start + at_once]}
            run_rounds_on_engine(
                part,
                engine,
                render,
                max_tokens=max_tokens,
                known=known,
                on_sample=keep,
                more={name: self._solo_calls(rounds) for name, rounds in part.items()} if self.solo else {},
                on_end=self._finish,
            )
        return self.done
