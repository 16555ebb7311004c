"""Segmentation of a solution into steps: by rules, or by pieces that another splitter proposes.

The steps always partition the text exactly. The rules are those of arXiv:2505.14391, Appendix F, "split on reflection
words, merge short pieces", made precise: cuts are possible after paragraphs, before sentences that begin with a
reflection word and, within paragraphs that are too long, after lines and sentences; the pieces are then merged greedily
up to a band of lengths, and a reflection word always opens a step. Nothing is cut inside display mathematics, code or
an environment of LaTeX.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reasonrl.errors import DataError, ReasonRLError
from reasonrl.prm.steps import Step

REFLECTION = (
    "wait",
    "but wait",
    "oh wait",
    "no wait",
    "hmm",
    "hold on",
    "however",
    "alternatively",
    "actually",
    "on second thought",
    "let me check",
    "let me double-check",
    "let me recheck",
    "let me re-check",
    "let me verify",
    "let me reconsider",
    "let me re-examine",
    "let me try",
    "let's check",
    "let's double-check",
    "let's verify",
    "another approach",
    "another way",
)
"""Words with which a model turns back, checks or tries another way; at the beginning of a sentence they open a step."""

VERSION = 1
"""Of the rules; labels hold on to the steps that they were given for."""

# What opens a block that is one piece, and what ends it. One without its end is none: it would reach to the end.
_OPENS = re.compile(r"```|\$\$|\\\[|\\begin\{([A-Za-z]+\*?)\}")
_ENDS = {"```": "```", "$$": "$$", "\\[": "\\]"}
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_LINE = re.compile(r"\n[ \t]*")
# A stop, what may close after it, and white space; not after a single letter or a number at the beginning of a line
# ("e. g.", "2. Then"), which is no end of a sentence.
_SENTENCE = re.compile(r"(?<![\s.][A-Za-z])(?<!^\d)(?<!\n\d)[.!?]['\")\]*$]{0,3}\s+(?=[\"'(\[$*\\]{0,3}[A-Z0-9\\])")


@dataclass(frozen=True)
class Rules:
    """Settings of the rule-based segmentation; lengths are in characters.

    Attributes:
        shortest: a step is closed at the first cut from this length on; 0 closes it at every paragraph.
        longest: pieces are merged up to this length; a longer paragraph is cut at its lines, then at its sentences. A
            sentence or block longer than that stays whole.
        reflection: words that open a step at the beginning of a sentence, whatever the length of the step before.

    The default band is 150 to 600 tokens of about four characters, as long as the steps of the paper's generator.
    """

    shortest: int = 600
    longest: int = 2400
    reflection: tuple[str, ...] = REFLECTION

    def __post_init__(self) -> None:
        if self.shortest < 0 or self.longest < max(self.shortest, 1):
            raise DataError(
                f"segment: shortest = {self.shortest} and longest = {self.longest}; allowed are 0 <= shortest <="
                " longest, and longest at least 1"
            )
        if any(not word.strip() for word in self.reflection):
            raise DataError("segment: reflection holds an empty word -> remove it")


def segment(text: str, rules: Rules | None = None) -> list[Step]:
    """The steps of a solution by rules; a partition of the text. An empty text has none."""
    rules = rules or Rules()
    whole = list(_blocks(text))
    turns = {cut for cut in _turns(text, rules.reflection) if not _inside(cut, whole)}
    paragraphs = {found.end() for found in _PARAGRAPH.finditer(text)} | turns
    cuts = [0, *sorted(cut for cut in paragraphs if 0 < cut < len(text) and not _inside(cut, whole)), len(text)]
    pieces: list[tuple[int, int]] = []
    for start, end in pairwise(cuts):
        pieces += _shortened(text, start, end, rules.longest, whole)
    return merge(pieces, rules, turns)


def lines(text: str) -> list[Step]:
    """A step a line, its line break with it; only the line feed breaks a line."""
    cuts = [0, *(found.end() for found in re.finditer("\n", text)), len(text)]
    return [Step(start, end) for start, end in pairwise(cuts) if end > start]


def merge(pieces: Iterable[tuple[int, int]], rules: Rules, turns: Iterable[int] = ()) -> list[Step]:
    """Steps out of neighbouring pieces: greedily, each from `shortest` on and up to `longest` where that is possible.

    Args:
        pieces: (start, end) in characters, each beginning where the last ended.
        rules: the band.
        turns: starts of pieces that open a step in any case.

    What is left at the end and shorter than `shortest` goes to the step before, if both fit into `longest`.
    """
    opening = set(turns)
    steps: list[Step] = []
    for start, end in pieces:
        if end <= start:
            continue
        last = steps[-1] if steps else None
        length = 0 if last is None else last.end - last.start
        closed = (
            last is None or start in opening or length >= max(rules.shortest, 1) or end - last.start > rules.longest
        )
        if last is None or closed:
            steps.append(Step(start, end))
        else:
            steps[-1] = Step(last.start, end)
    if len(steps) > 1 and steps[-1].start not in opening:
        before, rest = steps[-2], steps[-1]
        if rest.end - rest.start < rules.shortest and rest.end - before.start <= rules.longest:
            steps[-2:] = [Step(before.start, rest.end)]
    return steps


def aligned(text: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where the pieces of a splitter stand in the text; white space between two of them goes to the first.

    Raises:
        DataError: a piece does not stand there, in this order, or text between two pieces is left out.
    """
    spans: list[tuple[int, int]] = []
    at = 0
    for number, piece in enumerate(pieces):
        words = piece.strip()
        if not words:
            continue
        start = text.find(words, at)
        if start < 0 or text[at:start].strip():
            raise DataError(
                f"segment: piece {number} ({words[:40]!r}) does not follow the pieces before it in the text"
            )
        if spans:
            spans[-1] = (spans[-1][0], start)
        spans.append((0 if not spans else start, start + len(words)))
        at = start + len(words)
    if text[at:].strip():
        raise DataError(f"segment: the pieces end at character {at}, but the text goes on: {text[at : at + 40]!r}")
    if not spans:
        return [(0, len(text))] if text else []
    spans[-1] = (spans[-1][0], len(text))
    return spans


class SaTSegmenter:
    """Steps out of the sentences of SaT, "Segment any Text" (Frohmann et al. 2024, arXiv:2406.16678), merged as the
    rules say.

    Args:
        model: name or folder of a SaT model, such as `sat-3l-sm`, as the library `wtpsplit` takes it.
        rules: band of lengths and reflection words.
        threshold: of SaT; higher cuts less; None takes the model's.

    Raises:
        ReasonRLError: `wtpsplit` is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str = "sat-3l-sm", rules: Rules | None = None, threshold: float | None = None) -> None:
        try:
            from wtpsplit import SaT  # type: ignore[import-not-found]
        except ImportError:
            raise ReasonRLError(
                "segment: method sat needs the package 'wtpsplit', which is not installed -> pip install wtpsplit, or"
                " use method: rules"
            ) from None
        try:
            self._sat = SaT(model)
        except (OSError, ValueError) as problem:
            raise ReasonRLError(
                f"segment: the SaT model {model!r} cannot be loaded: {problem} -> name a folder that holds it, or use"
                " method: rules"
            ) from None
        self.rules = rules or Rules()
        self._options = {} if threshold is None else {"threshold": threshold}

    def __call__(self, text: str) -> list[Step]:
        """The steps of one solution."""
        pieces = aligned(text, list(self._sat.split(text, **self._options)))
        turns = set(_turns(text, self.rules.reflection))
        return merge(pieces, self.rules, [start for start, _ in pieces if start in turns])


def _turns(text: str, words: Sequence[str]) -> Iterator[int]:
    """Where a sentence begins with one of the words."""
    if not words:
        return
    longest_first = sorted(words, key=len, reverse=True)
    choice = "|".join(r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", word.strip()))) for word in longest_first)
    pattern = rf"(?:\A|(?<=\n)|(?<=[.!?:;)\]]\s)|(?<=[.!?]\s\s))[ \t]*(?P<word>[*_\"'(]{{0,3}}(?:{choice})\b)"
    for found in re.finditer(pattern, text, re.IGNORECASE):
        if text[found.start("word") :].lstrip("*_\"'(")[:1].isupper() or _begins_line(text, found.start("word")):
            yield found.start("word")


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the blocks that stay whole, from left to right. Linear: an end that is not there is looked for once."""
    missing: set[str] = set()
    at = 0
    while (found := _OPENS.search(text, at)) is not None:
        end = _ENDS.get(found[0], f"\\end{{{found[1]}}}")
        place = -1 if end in missing else text.find(end, found.end())
        if place < 0:
            missing.add(end)
            at = found.end()
        else:
            at = place + len(end)
            yield found.start(), at


def _begins_line(text: str, place: int) -> bool:
    return not text[text.rfind("\n", 0, place) + 1 : place].strip()


def _shortened(
    text: str, start: int, end: int, longest: int, whole: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """A piece, cut at its lines and then at its sentences as far as it is too long."""
    pieces = [(start, end)]
    for pattern in (_LINE, _SENTENCE):
        finer: list[tuple[int, int]] = []
        for low, high in pieces:
            if high - low <= longest:
                finer.append((low, high))
                continue
            cuts = [found.end() for found in pattern.finditer(text, low, high) if not _inside(found.end(), whole)]
            places = [low, *(cut for cut in cuts if low < cut < high), high]
            finer += pairwise(places)
        pieces = finer
    return pieces


def _inside(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a cut at this place would go through one of the spans, which do not overlap and are in order."""
    number = bisect_right(spans, (place, -1)) - 1
    return number >= 0 and spans[number][0] < place < spans[number][1]
