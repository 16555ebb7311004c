"""What all judges of steps have in common: the solution they are given, what they hand back, and how they are named."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from reasonrl.errors import RewardError
from reasonrl.plugins import entry_point_names, is_file_reference, load_entry_point, load_from_file, near
from reasonrl.prm.steps import Step

JUDGES_GROUP = "reasonrl.judges"
"""Entry-point group of installed judges."""

JUDGES = {
    "endpoint": "reasonrl.prm.judges.endpoint:EndpointJudge",
    "vllm": "reasonrl.prm.judges.vllm:VLLMJudge",
    "oracle": "reasonrl.prm.judges.known:OracleJudge",
    "noisy": "reasonrl.prm.judges.known:NoisyJudge",
    "monte_carlo": "reasonrl.prm.judges.monte_carlo:MonteCarloJudge",
    "prm": "reasonrl.prm.judges.prm:PRMJudge",
}


@dataclass(frozen=True)
class Solution:
    """A solution and its steps.

    Attributes:
        id: of the solution.
        problem: what was asked.
        answer: the right answer; None where nobody knows it.
        text: the solution.
        steps: a partition of the text.
        correct: whether the final answer is right; None where nobody has checked.
        row: the whole record.
    """

    id: str
    problem: str
    answer: str | None
    text: str
    steps: tuple[Step, ...]
    correct: bool | None = None
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def parts(self) -> list[str]:
        """The text of every step."""
        return [self.text[step.start : step.end] for step in self.steps]


@dataclass(frozen=True)
class Task:
    """One question: the labels of one solution, by one of several votes. `place` is the asker's own; `attempt` counts
    the answers that it has had before.
    """

    solution: Solution
    vote: int = 0
    place: int = 0
    attempt: int = 0


@dataclass(frozen=True)
class Usage:
    """What one answer cost: replies asked for, tokens of all of them, and money."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.asked + other.asked,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True)
class Judged:
    """What a judge made of a task.

    Attributes:
        task: which.
        labels: [K] 1 (right), 0 (wrong) or None (left open); None for all if there are none.
        reasons: [K] its words, if it gives any.
        kinds: [K] of `labels.KINDS`, if it tells them.
        soft: [K] probability of being right, if it gives that; None where it has none.
        failure: why there are no labels; empty if there are.
        usage: what it cost.
    """

    task: Task
    labels: tuple[int | None, ...] | None = None
    reasons: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    soft: tuple[float | None, ...] | None = None
    failure: str = ""
    usage: Usage = Usage()


Keep = Callable[[Judged], None]


class Judge(Protocol):
    """Labels the steps of solutions.

    Attributes:
        votes: how often each solution is to be asked about.
        at_once: most tasks that are begun and not kept.
    """

    votes: int
    at_once: int

    def settings(self) -> dict[str, Any]:
        """What changes the labels, with `judge` (its name in label records) and `prompt_hash` (or None); labels made
        with other settings are not mixed with these.
        """
        ...

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """Each task's outcome as it comes, in no order. `keep` is called with each before another task takes its place,
        perhaps in another thread, never twice at once.
        """
        ...

    def close(self) -> None:
        """Let go of connections and models."""
        ...


def build_judge(name: str, args: Mapping[str, Any] | None = None, base_dir: str | Path | None = None) -> Judge:
    """The judge of a recipe.

    Args:
        name: of `JUDGES`, of an installed plugin (entry-point group `reasonrl.judges`), or `file.py:name`: a class that
            makes a `Judge`, or a function from a solution's record to a label a step.
        args: the class's own.
        base_dir: where a relative path starts.

    Raises:
        RewardError: an unknown name, or arguments that do not fit; what the judge raises about its settings.
    """
    from reasonrl.prm.judges.known import FunctionJudge

    if name in JUDGES:
        module, _, member = JUDGES[name].partition(":")
        maker = getattr(importlib.import_module(module), member)
    elif is_file_reference(name):
        maker = load_from_file(name, base_dir, error=RewardError)
    else:
        maker = load_entry_point(name, JUDGES_GROUP, error=RewardError)
        if maker is None:
            known = [*JUDGES, *entry_point_names(JUDGES_GROUP)]
            raise RewardError(f"judge {name!r} is unknown{near(name, known)}, or file.py:name")
    try:
        if isinstance(maker, type):
            judge: Judge = maker(**dict(args or {}))
            return judge
        return FunctionJudge(name, maker, **dict(args or {}))
    except TypeError as problem:
        raise RewardError(f"judge {name!r}: the arguments {dict(args or {})} do not fit it: {problem}") from None
