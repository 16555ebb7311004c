"""Rounds over a rollout engine of ours: one round of many conversations goes in together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from reasonrl.pacore.rounds import Answer, Call, Failure, Outcome, Rounds

if TYPE_CHECKING:
    from reasonrl.rollout.engine import Request, RolloutEngine

Known: TypeAlias = Callable[[str, Call], "Answer | Failure | None"]
OnSample: TypeAlias = Callable[[str, Call, Answer], None]


def run_rounds_on_engine(
    all_rounds: Mapping[str, Rounds],
    engine: RolloutEngine,
    render: Callable[[Sequence[Mapping[str, Any]]], Sequence[int]],
    *,
    max_tokens: int,
    known: Known | None = None,
    on_sample: OnSample | None = None,
    more: Mapping[str, Sequence[Call]] | None = None,
    on_end: Callable[[str, Outcome], None] | None = None,
) -> None:
    """Ask round after round of all conversations to the end; each holds its outcome then.

    An engine's samples do not fail, so a round always closes.

    Args:
        all_rounds: by id.
        engine: draws the samples; a call's seed decides its text, whatever is drawn beside it.
        render: the token ids of a conversation.
        max_tokens: of a call whose plan sets none.
        known: an answer that is there already.
        on_sample: told of every new answer.
        more: further calls to be drawn beside the first rounds; their answers go to `on_sample` alone.
        on_end: told of every conversation as its outcome is there.
    """
    further = [(name, call) for name, calls in (more or {}).items() for call in calls]
    while open_ones := {name: rounds for name, rounds in all_rounds.items() if rounds.outcome is None}:
        answers: dict[tuple[str, int], Answer | Failure] = {}
        wanted: dict[int, list[tuple[str, Call]]] = {}
        for name, rounds in open_ones.items():
            for call in rounds.calls():
                there = known(name, call) if known is not None else None
                if there is not None:
                    answers[name, call.index] = there
                else:
                    wanted.setdefault(_limit(call, max_tokens), []).append((name, call))
        for name, call in further:
            if known is None or known(name, call) is None:
                wanted.setdefault(_limit(call, max_tokens), []).append((name, call))
        further = []
        for limit, calls in wanted.items():
            for (name, call), answer in _drawn(engine, calls, render, limit, open_ones):
                answers[name, call.index] = answer
                if on_sample is not None:
                    on_sample(name, call, answer)
        for name, rounds in open_ones.items():
            rounds.close([answers[name, call.index] for call in rounds.calls()])
            if rounds.outcome is not None and on_end is not None:
                on_end(name, rounds.outcome)


def _limit(call: Call, max_tokens: int) -> int:
    return max_tokens if call.max_tokens is None else min(call.max_tokens, max_tokens)


def _drawn(
    engine: RolloutEngine,
    calls: Sequence[tuple[str, Call]],
    render: Callable[[Sequence[Mapping[str, Any]]], Sequence[int]],
    limit: int,
    all_rounds: Mapping[str, Rounds],
) -> Any:
    from reasonrl.rollout.engine import Request, SamplingParams

    plan = next(iter(all_rounds.values())).plan
    prompts: dict[tuple[str, int], tuple[int, ...]] = {}
    requests: list[Request] = []
    for place, (name, call) in enumerate(calls):
        ids = prompts.setdefault((name, call.round), ()) or tuple(render(call.messages))
        prompts[name, call.round] = ids
        requests.append(Request(id=str(place), prompt_ids=ids, seed=call.seed))
    for sample in engine.stream(requests, SamplingParams(limit, plan.temperature, plan.top_p)):
        yield (
            calls[int(sample.request.id)],
            Answer(sample.text, None, sample.finish_reason, len(sample.request.prompt_ids), sample.length),
        )
