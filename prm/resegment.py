"""Segmentation by a language model: it joins numbered pieces of a solution to coherent steps.

arXiv:2505.14391 has a model re-segment reasoning into modular steps of a controlled number and length.
Here the model names the pieces that steps begin with, so that whatever it says keeps every character of the text; what
cannot be is refused and asked for again with the reason, and where the model has no answer the rules cut.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.prm.judges.base import Usage
from reasonrl.prm.segment import Rules, aligned, segment
from reasonrl.prm.steps import Step
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling, response_format, sampling_settings
from reasonrl.rewards.judges.streaming import stream_answers
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for, fenced
from reasonrl.rewards.judges.verdicts import Unreadable, read_object

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

VERSION = 1
"""Of how pieces are made and replies are read."""

_SCHEMA = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "starts": {"type": "array", "items": {"type": "integer"}}},
    "required": ["code", "starts"],
    "additionalProperties": False,
}


NOTHING = Usage()


@dataclass(frozen=True)
class Text:
    """What is to be cut: a solution to a problem. `place` is the asker's own."""

    place: int
    problem: str
    text: str


@dataclass(frozen=True)
class Segmented:
    """A solution's steps.

    Attributes:
        place: of the text.
        steps: a partition of it.
        failure: why the rules made them and not the model; empty if the model did.
        usage: what the model cost.
    """

    place: int
    steps: tuple[Step, ...]
    failure: str = ""
    usage: Usage = NOTHING


Keep = Callable[[Segmented], None]


class LLMSegmenter:
    """Asks a model where steps begin.

    Args:
        endpoint: the model's server (`reasonrl.endpoints.EndpointConfig`, or its settings).
        rules: the band of lengths that is asked for, and what cuts where the model has no answer.
        temperature, max_tokens, seed: of its replies.
        re_asks: how often it is asked again, with the reason, after a reply that cannot be used.
        reply: how the form of replies is asked of the server: `json_schema`, `json_object`, or `text` (not at all).
        prompt: file of a prompt of your own, with places for `problem` and `listing` or `pieces`, and if you like
            `shortest`, `longest`. It may also ask for `"steps"`, a list of the steps' own texts, which must be the
            solution word for word.

    Raises:
        EndpointSettingsError, RewardError: settings that cannot be.
    """

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        rules: Rules | None = None,
        *,
        temperature: float = 0.0,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        reply: str = "json_schema",
        prompt: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient

        owner = "segmentation by a model"
        form = response_format(owner, reply, "step_starts", _SCHEMA)
        self.sampling = judge_sampling(
            owner, votes=1, temperature=temperature, max_tokens=max_tokens, seed=seed, re_asks=re_asks, extra=form
        )
        self.rules = rules or Rules()
        own = Path(__file__).with_name("resegment.j2")
        self.prompt = JudgePrompt(prompt, own, ("problem",), ("pieces", "listing", "shortest", "longest", "text"))
        self.client = EndpointClient(endpoint)
        self.reply = reply

    def settings(self) -> dict[str, Any]:
        """What changes the steps."""
        return {
            **sampling_settings(self.client, self.sampling),
            "prompt_hash": hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16],
            "version": VERSION,
            "reply": self.reply,
            "rules": [self.rules.shortest, self.rules.longest, list(self.rules.reflection)],
        }

    def many(self, texts: Iterable[Text], keep: Keep = lambda one: None) -> Iterator[Segmented]:
        """Each text's steps as they come, in no order. `keep` is called with each before another takes its place.

        Raises:
            EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked with these settings.
        """
        asked: dict[int, Text] = {}
        kept: deque[Segmented] = deque()

        def note(question: Question, answer: Answer) -> None:
            one = self._segmented(asked.pop(question.place), answer)
            keep(one)
            kept.append(one)

        for _ in stream_answers(self.client, self._questions(texts, asked), self.sampling, note):
            yield kept.popleft()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _questions(self, texts: Iterable[Text], asked: dict[int, Text]) -> Iterator[Question]:
        for number, one in enumerate(texts):
            asked[number] = one
            pieces = pieces_of(one.text)
            code = code_for(self.prompt.text, one.problem, one.text)
            parts = [one.text[piece.start : piece.end].strip() for piece in pieces]
            listing = "\n".join(f"({place}) {part}" for place, part in enumerate(parts, start=1))
            values = {
                "problem": one.problem,
                "text": one.text,
                "pieces": parts,
                "listing": fenced("solution", listing, code),
                "shortest": self.rules.shortest,
                "longest": self.rules.longest,
            }
            read = functools.partial(read_reply, code=code, text=one.text, pieces=pieces, longest=self.rules.longest)
            yield Question(number, self.prompt.fill(code, values), read)

    def _segmented(self, one: Text, answer: Answer) -> Segmented:
        price = self.client.config.price
        cost = (answer.prompt_tokens * price.input + answer.completion_tokens * price.output) / 1e6
        usage = Usage(answer.asked, answer.prompt_tokens, answer.completion_tokens, cost)
        if answer.failure:
            return Segmented(one.place, tuple(segment(one.text, self.rules)), answer.failure, usage)
        return Segmented(one.place, tuple(answer.verdict), "", usage)


def pieces_of(text: str) -> list[Step]:
    """The finest pieces that a step may be made of: paragraphs, lines and sentences; nothing is cut inside code,
    display mathematics or an environment.
    """
    return segment(text, Rules(shortest=0, longest=1))


def read_reply(reply: str, code: str, text: str, pieces: Sequence[Step], longest: int) -> list[Step]:
    """The steps in a model's reply: `starts`, the numbers of the pieces that steps begin with, or `steps`, their texts.

    Raises:
        Unreadable: there are none, or they are no partition of the text; the text says what was wanted, for the model
            to read too.
    """
    try:
        found = read_object(reply, ("starts",), code, False)
    except Unreadable:
        try:
            texts = read_object(reply, ("steps",), code, False)["steps"]
        except Unreadable:
            raise Unreadable(f'there is no JSON object with "code": "{code}" and starts; end with it') from None
        return _by_texts(texts, text)
    return _by_starts(found["starts"], pieces, longest)


def _by_starts(starts: Any, pieces: Sequence[Step], longest: int) -> list[Step]:
    numbers = isinstance(starts, list) and all(type(start) is int for start in starts)
    if not numbers or not starts:
        raise Unreadable("starts is no list of whole numbers")
    if starts[0] != 1:
        raise Unreadable(f"starts begins with {starts[0]}, but the first step begins with piece 1")
    for before, after in itertools.pairwise(starts):
        if after <= before:
            raise Unreadable(f"starts has {after} after {before}; give the numbers in rising order, each once")
    if starts[-1] > len(pieces):
        raise Unreadable(f"starts has {starts[-1]}, but there are {len(pieces)} pieces")
    steps = []
    for number, (first, after) in enumerate(zip(starts, [*starts[1:], len(pieces) + 1], strict=True), start=1):
        step = Step(pieces[first - 1].start, pieces[after - 2].end)
        if step.end - step.start > longest and after - first > 1:
            raise Unreadable(
                f"step {number} (pieces {first} to {after - 1}) has {step.end - step.start} characters, at most"
                f" {longest} are allowed; begin another step within it"
            )
        steps.append(step)
    return steps


def _by_texts(texts: Any, text: str) -> list[Step]:
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise Unreadable("steps is no list of texts")
    try:
        return [Step(start, end) for start, end in aligned(text, texts)]
    except DataError as problem:
        raise Unreadable(f"the steps are not the solution word for word: {problem}") from None


def emit(text: str, steps: Sequence[Step], separator: str) -> tuple[str, list[Step]]:
    """A solution as a generator that marks its steps is to write it: in each step all white space is one space (the
    paper replaces line breaks by spaces), and after each but the last stands the separator.

    Returns:
        The new text and its steps, the separator being the end of the step before it.

    Raises:
        DataError: a step holds the separator, so that nobody could tell where it ends.
    """
    parts = [" ".join(text[step.start : step.end].split()) for step in steps]
    parts = [part for part in parts if part]
    for part in parts:
        if separator.strip() and separator in part:
            raise DataError(f"a step holds the separator {separator!r}: {part[:60]!r} -> take another separator")
    made, start = [], 0
    for number, part in enumerate(parts, start=1):
        end = start + len(part) + (len(separator) if number < len(parts) else 0)
        made.append(Step(start, end))
        start = end
    return separator.join(parts), made
