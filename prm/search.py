"""Guided search: draw several continuations of one step, score them, keep the best, go on (step-level beam search).

`candidates` = 8 and `width` = 1 is the paper's online search (arXiv:2505.14391, Section 5): greedy, one chain. The
policy has to write steps that end with a separator; drawing goes through any rollout engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from reasonrl.data_tools.prompts import as_messages, prompt_ids
from reasonrl.errors import DataError
from reasonrl.prm.aggregation import DEFAULT_AGGREGATION, aggregate, check_aggregation
from reasonrl.prm.encoding import Messages
from reasonrl.prm.steps import spans_of, steps_from_pieces
from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams
from reasonrl.rollout.seeds import sample_seed

Scorer = Callable[[Sequence[Mapping[str, Any]]], Sequence[Sequence[float | None]]]


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        candidates: continuations drawn at every step of a problem, shared out evenly among its chains.
        width: chains that are kept.
        max_steps: steps a chain may have.
        max_step_tokens: tokens of one step; a longer one is cut there and counts as a step.
        separator: text that ends a step and belongs to it.
        temperature, top_p: of the draws.
        aggregation: what makes one score of a chain's step scores.
    """

    candidates: int = 8
    width: int = 1
    max_steps: int = 64
    max_step_tokens: int = 512
    separator: str = "\n\n"
    temperature: float = 1.0
    top_p: float = 1.0
    aggregation: str = DEFAULT_AGGREGATION

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation)
        if self.width < 1 or self.candidates < self.width or self.candidates % self.width:
            raise DataError(
                f"search: candidates = {self.candidates} cannot be shared out evenly among width = {self.width} chains"
                " -> a multiple of width"
            )
        if self.max_steps < 1 or not self.separator:
            raise DataError(
                f"search: max_steps = {self.max_steps} and separator = {self.separator!r} -> at least 1, a text"
            )


@dataclass(frozen=True)
class Chain:
    """A solution in the making, or a finished one.

    Attributes:
        pieces: text of every step.
        ids: its tokens, as the policy wrote them.
        step_scores: P(right) of every step.
        score: their aggregate; -1 before the first step.
        finished: the policy ended it.
    """

    pieces: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    step_scores: tuple[float | None, ...] = ()
    score: float = -1.0
    finished: bool = False

    @property
    def text(self) -> str:
        """The whole solution."""
        return "".join(self.pieces)

    @property
    def steps(self) -> list[list[int]]:
        """Its steps as spans of characters."""
        return spans_of(steps_from_pieces(self.pieces))


@dataclass(frozen=True)
class SearchResult:
    """What was found for one problem.

    Attributes:
        best: the chain with the highest score; a finished one if there is any.
        chains: all that were kept, best first.
        drawn_tokens: tokens drawn for it, those that were thrown away included.
    """

    best: Chain
    chains: tuple[Chain, ...]
    drawn_tokens: int


@dataclass(frozen=True)
class Wanted:
    """One next step that is asked for.

    Attributes:
        problem: number of the problem.
        chain: what the step comes after.
        step, place, turn: steps taken, the chain's place among those of its problem, the candidate's place.
    """

    problem: int
    chain: Chain
    step: int
    place: int
    turn: int


@dataclass(frozen=True)
class Grown:
    """The chain with the step that was written, and how many tokens were drawn for it."""

    chain: Chain
    tokens: int


class StepWriter(Protocol):
    """Writes next steps."""

    def write(self, wanted: Sequence[Wanted]) -> Sequence[Grown]:
        """A step each, in order; the same ones whenever the same are asked for."""
        ...


def guided_search(
    engine: RolloutEngine,
    tokenizer: Any,
    scorer: Scorer,
    problems: Sequence[Mapping[str, Any]],
    settings: SearchSettings | None = None,
    *,
    seed: int = 0,
    messages: Messages = as_messages,
) -> list[SearchResult]:
    """Search solutions of all problems at once, a step of each at a time.

    Args:
        engine: draws the steps.
        tokenizer: the policy's.
        scorer: gives the step scores of solution records, such as a `StepScorer`; its model may have another tokenizer.
        problems: rows with `id` and `problem` (or `prompt`).
        settings: how to search.
        seed: of all draws.
        messages: makes a problem's conversation.

    Returns:
        A result a problem, in order. The same arguments give the same results.
    """
    settings = settings or SearchSettings()
    writer = EngineWriter(engine, tokenizer, problems, settings, seed=seed, messages=messages)
    return search_with(writer, scorer, problems, settings)


def search_with(
    writer: StepWriter, scorer: Scorer, problems: Sequence[Mapping[str, Any]], settings: SearchSettings
) -> list[SearchResult]:
    """`guided_search` among the steps of any writer."""
    kept: list[list[Chain]] = [[Chain()] for _ in problems]
    drawn = [0] * len(problems)
    for step in range(settings.max_steps):
        wanted = [
            Wanted(number, chain, step, place, turn)
            for number, chains in enumerate(kept)
            for place, chain in enumerate(chain for chain in chains if not chain.finished)
            # Before the first step there is one chain, which gets all candidates.
            for turn in range(settings.candidates // (settings.width if step else 1))
        ]
        if not wanted:
            break
        grown: list[tuple[int, Chain]] = []
        for one, written in zip(wanted, writer.write(wanted), strict=True):
            drawn[one.problem] += written.tokens
            grown.append((one.problem, written.chain))
        rivals: list[list[Chain]] = [[chain for chain in chains if chain.finished] for chains in kept]
        for number, chain in grown:
            rivals[number].append(chain)
        # Where all are the same chain there is nothing to choose, and nothing is scored before there is.
        contested = [len({chain.pieces for chain in chains}) > 1 for chains in rivals]
        _score(rivals, contested, problems, scorer, settings.aggregation)
        # Sorting is stable: of equal scores, who was there or drawn first.
        kept = [
            (sorted(chains, key=lambda chain: -chain.score) if choice else chains)[: settings.width]
            for chains, choice in zip(rivals, contested, strict=True)
        ]
    _score(kept, [True] * len(kept), problems, scorer, settings.aggregation)
    ordered = [sorted(chains, key=lambda chain: (not chain.finished, -chain.score)) for chains in kept]
    return [SearchResult(chains[0], tuple(chains), tokens) for chains, tokens in zip(ordered, drawn, strict=True)]


class EngineWriter:
    """Steps by a model behind a rollout engine.

    Args:
        engine, tokenizer, problems, settings, seed, messages: as of `guided_search`.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        tokenizer: Any,
        problems: Sequence[Mapping[str, Any]],
        settings: SearchSettings,
        *,
        seed: int = 0,
        messages: Messages = as_messages,
    ) -> None:
        self.engine, self.tokenizer, self.settings, self.seed = engine, tokenizer, settings, seed
        self.names = [str(problem.get("id", number)) for number, problem in enumerate(problems)]
        self.prompts = [tuple(prompt_ids(tokenizer, messages(problem))) for problem in problems]
        self.params = SamplingParams(settings.max_step_tokens, settings.temperature, settings.top_p)

    def write(self, wanted: Sequence[Wanted]) -> list[Grown]:
        """All of them in one stream of the engine."""
        asked: dict[str, Wanted] = {}
        requests = []
        for one in wanted:
            name = f"{one.problem}/{one.place}/{one.turn}"
            asked[name] = one
            seed = sample_seed("search", self.seed, self.names[one.problem], one.step, one.place, one.turn)
            requests.append(Request(name, (*self.prompts[one.problem], *one.chain.ids), seed))
        separator = self.settings.separator
        with _stopping_at(self.engine, self.tokenizer, separator):
            samples = {sample.request.id: sample for sample in self.engine.stream(requests, self.params)}
        return [
            Grown(_grow(one.chain, samples[name], self.tokenizer, separator), samples[name].length)
            for name, one in asked.items()
        ]


def _grow(chain: Chain, sample: Sample, tokenizer: Any, separator: str) -> Chain:
    """The chain with the step that a sample begins with; what it wrote beyond is thrown away."""
    ids = list(sample.token_ids)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if separator in text:
        if separator not in tokenizer.decode(ids[:-1], skip_special_tokens=True):
            return replace(chain, pieces=(*chain.pieces, text), ids=(*chain.ids, *ids), finished=False)
        # The fewest tokens that hold the separator; what else its last token holds belongs to the step.
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            if separator in tokenizer.decode(ids[:middle], skip_special_tokens=True):
                high = middle
            else:
                low = middle + 1
        ids, finished = ids[:low], False
        text = tokenizer.decode(ids, skip_special_tokens=True)
    else:
        finished = sample.finish_reason == "stop"
    pieces = (*chain.pieces, text) if text else chain.pieces
    return replace(chain, pieces=pieces, ids=(*chain.ids, *ids), finished=finished)


def _score(
    chains_of: Sequence[list[Chain]],
    wanted: Sequence[bool],
    problems: Sequence[Mapping[str, Any]],
    scorer: Scorer,
    how: str,
) -> None:
    """Put the scores of their steps into those chains of the wanted problems that lack any; each chain is scored once,
    however often it was drawn.
    """
    records: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}
    for number, chains in enumerate(chains_of):
        asked = {name: value for name, value in problems[number].items() if name in ("id", "problem", "prompt")}
        for chain in chains if wanted[number] else ():
            if chain.pieces and len(chain.step_scores) < len(chain.pieces):
                records[number, chain.pieces] = {**asked, "text": chain.text, "steps": chain.steps}
    found = dict(zip(records, scorer(list(records.values())), strict=True)) if records else {}
    for number, chains in enumerate(chains_of):
        for place, chain in enumerate(chains):
            if (number, chain.pieces) in found:
                steps = tuple(found[number, chain.pieces])
                score = aggregate(steps, how)
                chains[place] = replace(chain, step_scores=steps, score=-1.0 if score is None else score)


@contextlib.contextmanager
def _stopping_at(engine: Any, tokenizer: Any, separator: str) -> Iterator[None]:
    """Let an engine that takes stop tokens end a sample at the separator, where that is one token of its own."""
    ids = tokenizer(separator, add_special_tokens=False)["input_ids"]
    before = getattr(engine, "stop_ids", None)
    if not isinstance(before, frozenset) or len(ids) != 1:
        yield
        return
    engine.stop_ids = before | {ids[0]}
    try:
        yield
    finally:
        engine.stop_ids = before
