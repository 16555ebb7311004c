"""Decontamination: which rows of one data set stand in another, word for word or in long n-grams.

for pair in find_overlaps(train, test).pairs:
    print(pair.kind, pair.share, pair.first, pair.second)
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasonrl.errors import DataError

WORDS = 10
"""Words of an n-gram: long enough that two different problems rarely share one by chance, short enough for one sentence
of a problem. Published filters take 8 to 13 (arXiv 2005.14165, appendix C: 13)."""

SHARE = 0.5
"""Least share of a row's n-grams that must stand in the other row."""

_DRESSING = re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|quad|qquad|[,;:! ])(?![a-zA-Z])|\\(?=[dt]frac)")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*(?=\{)")
_TOKEN = re.compile(r"[^\W_]+|[+\-*/^=<>|%]")


def words_of(text: str) -> list[str]:
    """The words, numbers and operators of a problem, without what differs between copies of it.

    Unicode forms (NFKC) and case are made alike; LaTeX dressing (dollars, `\\left`, `\\text{}`, spaces, `\\dfrac` for
    `\\frac`), braces and punctuation go; commands keep their names; commas inside numbers go.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = _WRAPPED.sub(" ", _DRESSING.sub(" ", plain))
    plain = re.sub(r"\b[dt]?frac ?(\d)(\d)(?!\d)", r" frac \1 \2 ", plain)
    plain = re.sub(r"\b[dt]frac\b", "frac", plain)
    plain = re.sub(r"(?<=\d)(?:,|\{,\}|\\!)(?=\d{3}(?!\d))", "", plain)
    # Signs that keyboards and typesetters write differently.
    plain = plain.replace("\u2212", "-").replace("\\cdot", "*").replace("\\times", "*").replace("\u00b7", "*")
    return _TOKEN.findall(plain)


@dataclass(frozen=True)
class Overlap:
    """A row of the first data set and one of the second that share text.

    Attributes:
        kind: `text` where their words are the same, `ngrams` where the second shares long n-grams with the first.
        share: of the second row's n-grams that stand in the first, 0 to 1; 1 for `text`.
        first, second: ids of the rows.
        same_answer: whether their answers are written alike; None where one has none. Same words but for the numbers
            and another answer: a sibling, not a copy.
        first_text, second_text: their problems.
    """

    kind: str
    share: float
    first: str
    second: str
    same_answer: bool | None
    first_text: str
    second_text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Overlaps:
    """What two data sets share.

    Attributes:
        pairs: overlapping rows: equal texts first, then by falling share.
        first_rows, second_rows: rows that were compared.
        second_hit: rows of the second data set that are in a pair.
        short: rows of the second too short for one n-gram, which are compared as whole texts only.
        words, share: what counted as an overlap.
    """

    pairs: tuple[Overlap, ...]
    first_rows: int
    second_rows: int
    second_hit: int
    short: int
    words: int
    share: float

    def counts(self) -> dict[str, int]:
        """Rows of the second data set by their strongest overlap: `text`, `ngrams`, `none`."""
        best = {pair.second: pair.kind for pair in reversed(self.pairs)}
        found = Counter(best.values())
        return {"text": found["text"], "ngrams": found["ngrams"], "none": self.second_rows - len(best)}


def problem_text(row: Mapping[str, Any]) -> str:
    """What a row asks: its `problem`, or the user's messages of its `prompt`."""
    if isinstance(row.get("problem"), str):
        return str(row["problem"])
    messages = row.get("prompt") or ()
    if isinstance(messages, str):
        return messages
    parts = [message.get("content") for message in messages if message.get("role") == "user"]
    texts = [part if isinstance(part, str) else _typed_text(part) for part in parts if part is not None]
    return "\n".join(texts)


def _typed_text(parts: Iterable[Any]) -> str:
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("type") == "text")


def find_overlaps(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    *,
    words: int = WORDS,
    share: float = SHARE,
) -> Overlaps:
    """The pairs of rows of two data sets (say of training and test) with the same words or long n-grams in common.

    Args:
        first, second: rows with `id` and `problem` (or `prompt`), as `load_rows` gives them.
        words: words of an n-gram.
        share: least share of the second row's different n-grams that a pair must have in common.

    Raises:
        DataError: a setting outside its range.
    """
    if words < 2 or not 0 < share <= 1:
        raise DataError(f"words={words}, share={share:g}: allowed are at least 2 words and a share above 0, at most 1")
    index = OverlapIndex(second, words=words)
    pairs = [
        (kind == "ngrams", much, number, place)
        for number, row in enumerate(first)
        for kind, much, place in index.hits(row, share)
    ]
    pairs.sort(key=lambda pair: (pair[0], -pair[1], pair[3], pair[2]))
    found = tuple(_overlap(first[one], second[other], grams, much) for grams, much, one, other in pairs)
    return Overlaps(found, len(first), len(second), len({pair[3] for pair in pairs}), index.short, words, share)


class OverlapIndex:
    """The words and n-grams of some rows, to look others up in.

    Args:
        rows: with `problem` or `prompt`.
        words: of an n-gram.

    Attributes:
        short: rows that are too short for one, and are compared as whole texts only.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, words: int = WORDS) -> None:
        self.words, self.short = words, 0
        self._grams: dict[int, list[int]] = {}
        self._texts: dict[str, list[int]] = {}
        self._sizes: list[int] = []
        for place, row in enumerate(rows):
            tokens = words_of(problem_text(row))
            grams = _grams(tokens, words)
            self._sizes.append(len(grams))
            self.short += not grams
            if tokens:
                self._texts.setdefault(" ".join(tokens), []).append(place)
            for gram in grams:
                self._grams.setdefault(gram, []).append(place)

    def hits(self, row: Mapping[str, Any], share: float = SHARE) -> list[tuple[str, float, int]]:
        """(`text` or `ngrams`, share, number of the row) of each row that overlaps with this one, equal texts first."""
        tokens = words_of(problem_text(row))
        equal = self._texts.get(" ".join(tokens), []) if tokens else []
        met: Counter[int] = Counter()
        for gram in _grams(tokens, self.words):
            met.update(self._grams.get(gram, ()))
        return [("text", 1.0, place) for place in equal] + [
            ("ngrams", hits / self._sizes[place], place)
            for place, hits in met.items()
            if hits >= share * self._sizes[place] and place not in equal
        ]


def _grams(tokens: Sequence[str], words: int) -> set[int]:
    # Hashes of 64 bits: a million n-grams collide with one chance in tens of millions, and a pair needs many.
    return {hash(tuple(tokens[start : start + words])) for start in range(len(tokens) - words + 1)}


def _overlap(first: Mapping[str, Any], second: Mapping[str, Any], grams: bool, share: float) -> Overlap:
    answers = [row.get("answer") for row in (first, second)]
    same = None if None in answers else words_of(str(answers[0])) == words_of(str(answers[1]))
    return Overlap(
        "ngrams" if grams else "text",
        share,
        str(first["id"]),
        str(second["id"]),
        same,
        problem_text(first),
        problem_text(second),
    )
