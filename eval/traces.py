"""How coherent and how diverse responses to several problems are, from their text alone (arXiv:2505.07049).

The paper measures both and its definitions are not known to us; these are ours: cheap, deterministic, and the same for
monologues and plays. The final answers are left out: they go through all problems again, whoever wrote them. Every
segment of the rest (a sentence, a line, a turn) is about one problem: the one that it or a heading before it names,
else the one whose statement shares most words with it, else the one before.

    trace_figures(read_trace("Problem 1: 3 and 4 is 7.\\nProblem 2: …", ["3 + 4?", "5 + 6?"]))["extra_switches"]
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from reasonrl.latex import box_spans
from reasonrl.plays import DEFAULT_FORM, Play, PlayForm, read_play
from reasonrl.rewards.answer_lines import LABEL
from reasonrl.rewards.extract_text import after_thinking

HESITATIONS = (
    "wait",
    "hmm",
    "alternatively",
    "hold on",
    "actually",
    "let me re-check",
    "let me recheck",
    "on second thought",
)
"""Words of hesitation."""
DISSENT = (
    "no,",
    "wrong",
    "disagree",
    "not so",
    "mistake",
    "are you sure",
    "that is not",
    "that's not",
    "incorrect",
    "but ",
)
"""What a turn that disagrees or corrects says."""
STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "algebra": ("substitut", "expand", "factor", "equation", "simplif", "solve for"),
    "casework": ("case ", "cases", "either", "otherwise"),
    "depth first": ("backtrack", "go deeper", "follow this", "dead end"),
    "breadth first": ("enumerate", "list all", "each possib", "one by one", "all possib"),
    "geometry": ("triangle", "angle", "circle", "parallel", "perpendicular"),
    "invariants": ("invariant", "parity", "modulo", "mod ", "remainder"),
    "guess and check": ("try ", "guess", "plug in", "test "),
    "simulation": ("simulate", "step by step", "iterate", "loop"),
}
"""Words by which a segment is tagged with a strategy; a closed list."""

MEANINGS: Mapping[str, str] = {
    "hesitations": "words of hesitation, per 1,000 words",
    "extra_switches": "changes of the problem worked on beyond k - 1, a response; 0 is ideal",
    "switch_entropy": "bits of what problem comes next when it changes; log2 of nothing but order is 0",
    "off_problem": "share of words in segments that name another problem than the one of their scene or stretch",
    "similarity": "mean Jaccard likeness of word pairs between the stretches of two problems; lower is more diverse",
    "strategy_entropy": "bits of the strategies that stretches are tagged with",
    "scenes": "scenes, a response",
    "voices": "named voices, a response",
    "turns": "turns, a response",
    "turns_a_voice": "turns of one voice",
    "dissent": "share of turns that disagree or correct",
    "words": "words, a response without its final answers",
}
"""Figures of single responses (means over responses)."""
SEVERAL: Mapping[str, str] = {
    "distinct_2": "distinct pairs of words over all pairs, of one prompt's samples together",
    "self_bleu": "mean likeness (pairs of words) of a sample to the others of its prompt; lower is more diverse",
    "strategies": "distinct strategies in what is about one problem, over the samples that got it right",
}
"""Figures of several samples of one prompt (means over prompts)."""

_WORD = re.compile(r"\w+")
_SEGMENT = re.compile(r"[^\n.!?]+[.!?]*|\n")
_NAMED = re.compile(r"\b(?:problem|question)[ \t]*#?[ \t]*([0-9]{1,2})\b", re.IGNORECASE)
_HESITATION = re.compile(r"\b(?:" + "|".join(map(re.escape, HESITATIONS)) + r")\b", re.IGNORECASE)
_SHORT = 4
"""Words of fewer letters tell nothing about the problem, unless they are numbers."""
_BARE = 4
"""A numbered line with a box and fewer words than this besides is a final answer; with more it is reasoning."""


@dataclass(frozen=True)
class Segment:
    """A piece of a response: its words (small letters), the problem it is about (from 0), and whether it says so."""

    words: tuple[str, ...]
    problem: int
    named: bool


@dataclass(frozen=True)
class Trace:
    """A response, read.

    Attributes:
        text: all of it but its final answers.
        pieces: its segments, in order.
        play: as which it was read; None where it holds no play.
        problems: how many its prompt asks.
    """

    text: str
    pieces: Sequence[Segment]
    play: Play | None
    problems: int

    @cached_property
    def stretches(self) -> dict[int, list[str]]:
        """The words about each problem (from 0) that it says anything about."""
        found: dict[int, list[str]] = {}
        for piece in self.pieces:
            found.setdefault(piece.problem, []).extend(piece.words)
        return found

    @property
    def words(self) -> list[str]:
        """All words, in small letters."""
        return [word for piece in self.pieces for word in piece.words]


def read_trace(text: str, problems: Sequence[str], form: PlayForm = DEFAULT_FORM) -> Trace:
    """Reads a response.

    Args:
        text: the response.
        problems: the statements of the problems that its prompt asks.
        form: how plays are marked.
    """
    text = without_answers(text, form.answer)
    play = read_play(text, form) if f"<{form.play}>" in text else None
    starts = () if play is None else _scene_starts(play, len(problems))
    return Trace(text, segments(text, problems, starts), play, len(problems))


def without_answers(text: str, tag: str = "answer") -> str:
    """A response without its final answers: outside the think block the last block of this tag (to the end if it is
    not closed), or else the numbered lines at the end that say a box and next to nothing besides.
    """
    outside = after_thinking(text)
    begin = text.rfind(outside)
    start = outside.rfind(f"<{tag}>")
    if start >= 0:
        _, closing, behind = outside[start:].partition(f"</{tag}>")
        stop = len(outside) - len(behind) if closing else len(outside)
    else:
        start, stop = _answer_lines_from(outside), len(outside)
    return text[: begin + start] + text[begin + stop :]


def _answer_lines_from(text: str) -> int:
    """Where the run of answer lines at the end of a text begins; its length if there is none."""
    start = stop = len(text)
    while stop > 0:
        begin = text.rfind("\n", 0, stop) + 1
        line = text[begin:stop]
        if _is_answer_line(line):
            start = begin
        elif line.strip():
            break
        stop = begin - 1
    return start


def _is_answer_line(line: str) -> bool:
    label = LABEL.match(line)
    found = box_spans(line) if label else []
    if label is None or not found:
        return False
    rest = line[label.end() : found[0].start] + " " + line[found[-1].end :]
    return len(_WORD.findall(rest)) < _BARE


def _scene_starts(play: Play, problems: int) -> Sequence[int]:
    """Where the stretch of each problem begins by the order of scenes: there are as many, and none names another."""
    scenes = play.scenes
    if len(scenes) != problems or any(scene.problem not in (None, at) for at, scene in enumerate(scenes, start=1)):
        return ()
    return [scene.start for scene in scenes]


def segments(text: str, problems: Sequence[str], starts: Sequence[int] = ()) -> list[Segment]:
    """The pieces of a response with the problem that each is about.

    Args:
        text: the response.
        problems: the statements of its problems.
        starts: where the stretches of the first, second, … problem begin, if that is known.
    """
    statements = [_telling(statement) for statement in problems]
    common = set.intersection(*statements) if len(statements) > 1 else set()
    statements = [statement - common for statement in statements]
    found: list[Segment] = []
    current = begun = 0
    for piece in _SEGMENT.finditer(text):
        words = tuple(word.lower() for word in _WORD.findall(piece[0]))
        if not words:
            continue
        while begun < len(starts) and starts[begun] < piece.end():
            current = begun
            begun += 1
        named = _NAMED.search(piece[0])
        if named is not None and 1 <= int(named[1]) <= len(problems):
            current = int(named[1]) - 1
        elif len(problems) > 1:
            shared = [len(_telling_words(words) & statement) for statement in statements]
            best = max(shared)
            # A tie, or one word alone, is no reason to leave the problem.
            if best > 1 and best > shared[current] and shared.count(best) == 1:
                current = shared.index(best)
        found.append(Segment(words, current, named is not None))
    return found


def _telling(statement: str) -> set[str]:
    return _telling_words(word.lower() for word in _WORD.findall(statement))


def _telling_words(words: Iterable[str]) -> set[str]:
    return {word for word in words if len(word) >= _SHORT or word.isdigit()}


def trace_figures(trace: Trace) -> dict[str, float]:
    """The figures of `MEANINGS` of one response; those that it has nothing for are left out."""
    pieces = trace.pieces
    words = sum(len(piece.words) for piece in pieces)
    figures: dict[str, float] = {"words": words}
    if words:
        figures["hesitations"] = 1000 * len(_HESITATION.findall(trace.text)) / words
    order = [piece.problem for piece in pieces]
    changes = [(before, after) for before, after in pairwise(order) if before != after]
    figures["extra_switches"] = max(0, len(changes) - (trace.problems - 1))
    figures["switch_entropy"] = _switch_entropy(changes)
    if words:
        figures["off_problem"] = _off_problem(pieces) / words
    stretches = trace.stretches
    likeness = [_jaccard(_pairs(one), _pairs(other)) for one, other in combinations(stretches.values(), 2)]
    if likeness:
        figures["similarity"] = fmean(likeness)
    tags = [tag for said in stretches.values() for tag in strategies_of(" ".join(said))]
    if tags:
        figures["strategy_entropy"] = _entropy(Counter(tags).values())
    return figures | _dialogue(trace.play)


def strategies_of(text: str) -> list[str]:
    """The strategies of `STRATEGIES` that a text names."""
    low = text.lower()
    return [tag for tag, marks in STRATEGIES.items() if any(mark in low for mark in marks)]


def _dialogue(play: Play | None) -> dict[str, float]:
    voices = {} if play is None else play.voices()
    if play is None or not voices:
        return {"scenes": 0.0, "voices": 0.0, "turns": 0.0}
    said = [turn for turn in play.turns if turn.speaker is not None and play.is_agent(turn.speaker)]
    return {
        "scenes": float(len(play.scenes)),
        "voices": float(len(voices)),
        "turns": float(len(said)),
        "turns_a_voice": len(said) / len(voices),
        "dissent": sum(any(mark in turn.text.lower() for mark in DISSENT) for turn in said) / len(said),
    }


def _off_problem(pieces: Sequence[Segment]) -> int:
    """Words of segments that name a problem for themselves alone: the ones before and after are about another."""
    count = 0
    for before, piece, after in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if piece.named and before.problem == after.problem != piece.problem:
            count += len(piece.words)
    return count


def _switch_entropy(changes: Sequence[tuple[int, int]]) -> float:
    """Entropy (bits) of where a change leads, given where it starts."""
    by_start: dict[int, Counter[int]] = {}
    for before, after in changes:
        by_start.setdefault(before, Counter())[after] += 1
    return sum(sum(to.values()) / len(changes) * _entropy(to.values()) for to in by_start.values())


def _entropy(counts: Iterable[int]) -> float:
    sizes = list(counts)
    total = sum(sizes)
    return abs(sum(size / total * math.log2(size / total) for size in sizes))


def _pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(pairwise(words))


def _jaccard(one: set[Any], other: set[Any]) -> float:
    together = len(one | other)
    return len(one & other) / together if together else 0.0


def sample_figures(traces: Sequence[Trace], right: Sequence[Sequence[bool]]) -> dict[str, float]:
    """The figures of `SEVERAL` of one prompt's samples; empty for a single one.

    Args:
        traces: the samples, read.
        right: of each sample whether each of its problems is solved.
    """
    if len(traces) < 2:
        return {}
    pairs = [[*pairwise(trace.words)] for trace in traces]
    every = [pair for of_one in pairs for pair in of_one]
    found = {"distinct_2": len(set(every)) / len(every)} if every else {}
    counts = [Counter(of_one) for of_one in pairs]
    found["self_bleu"] = fmean(_precision(counts, place) for place in range(len(counts)))
    tags: dict[int, set[str]] = {}
    for trace, solved in zip(traces, right, strict=True):
        for problem, good in enumerate(solved):
            if good:
                said = " ".join(trace.stretches.get(problem, ()))
                tags.setdefault(problem, set()).update(strategies_of(said))
    return found | ({"strategies": fmean(map(len, tags.values()))} if tags else {})


def _precision(counts: Sequence[Counter[Any]], place: int) -> float:
    """Clipped share of a sample's word pairs that stand in another sample, too."""
    own, total = counts[place], sum(counts[place].values())
    most: Counter[Any] = Counter()
    for other, found in enumerate(counts):
        if other != place:
            most |= found
    return sum(min(count, most[pair]) for pair, count in own.items()) / total if total else 0.0
