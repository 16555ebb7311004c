"""Which step every sampled token of a solution belongs to, from the ids that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from reasonrl.errors import DataError
from reasonrl.prm.steps import Step

Span = tuple[int, int]


def token_spans(tokenizer: Any, ids: Sequence[int], text: str) -> list[Span | None]:
    """The characters of `text` that every token stands for: (start, end), together all of them, in order; None for
    special tokens, which the text is without.

    The ids need not be those that the tokenizer would give the text: models also draw other splits of a word. Of
    several tokens of one character the last one has it, and the others none (start = end).

    Args:
        tokenizer: the one that the text was decoded with, without its special tokens.
        ids: [T] of the solution.
        text: the solution.

    Raises:
        DataError: the ids do not decode to the text.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    special = set(tokenizer.all_special_ids)
    plain = [token for token in ids if token not in special]
    ends = _ends_as_encoded(tokenizer, plain, text)
    if ends is None:
        ends = _ends_as_decoded(tokenizer, plain, text)
    pairs = iter(zip([0, *ends], ends, strict=False))
    return [None if token in special else next(pairs) for token in ids]


def steps_of_tokens(steps: Sequence[Step], spans: Sequence[Span | None]) -> list[int | None]:
    """[T] index of the step that holds a token's first character, so a token across a boundary goes to the earlier
    step; None for special tokens.

    Args:
        steps: a partition of the text.
        spans: [T] from `token_spans`.
    """
    found: list[int | None] = []
    step = 0
    for span in spans:
        while span is not None and step < len(steps) - 1 and span[0] >= steps[step].end:
            step += 1
        found.append(None if span is None or not steps else step)
    return found


def step_sizes(tokenizer: Any, steps: Sequence[Step], text: str, ids: Sequence[int] | None = None) -> list[int]:
    """[K] tokens of every step, special tokens left out.

    Args:
        tokenizer: the one that the text was decoded with.
        steps: a partition of the text.
        text: the solution.
        ids: [T] that were drawn; where there are none, or others than the text's, those that the tokenizer gives it.
    """
    spans: list[Span | None] | None = None
    if ids is not None:
        with suppress(DataError):
            spans = token_spans(tokenizer, [int(token) for token in ids], text)
    if spans is None:
        plain = getattr(tokenizer, "tokenizer", tokenizer)
        spans = token_spans(tokenizer, plain(text, add_special_tokens=False)["input_ids"], text)
    sizes = [0] * len(steps)
    for step in steps_of_tokens(steps, spans):
        if step is not None:
            sizes[step] += 1
    return sizes


def _ends_as_encoded(tokenizer: Any, ids: list[int], text: str) -> list[int] | None:
    """Where every token ends, if the tokenizer gives the text just these; else None."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if encoding["input_ids"] != ids:
        return None
    offsets = encoding["offset_mapping"]
    # Tokens of one character all say it is theirs.
    nexts = [start for start, _ in offsets[1:]] + [len(text)]
    ends = [min(end, after) for (_, end), after in zip(offsets, nexts, strict=True)]
    return ends if ends[-1:] == [len(text)] or not text else None


def _ends_as_decoded(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    """Where every token ends, by decoding a window that moves on with every whole character."""
    ends: list[int] = []
    start = read = done = 0
    for place in range(len(ids)):
        before = tokenizer.decode(ids[start:read], skip_special_tokens=True)
        now = tokenizer.decode(ids[start : place + 1], skip_special_tokens=True)
        last = place == len(ids) - 1
        if last or (len(now) > len(before) and not now.endswith("\ufffd")):
            if text[done : done + len(now) - len(before)] != now[len(before) :]:
                break
            done += len(now) - len(before)
            start, read = read, place + 1
        ends.append(done)
    if len(ends) != len(ids) or done != len(text):
        raise DataError(
            f"its completion_ids decode to {tokenizer.decode(ids, skip_special_tokens=True)[:60]!r}…, but its text is"
            f" {text[:60]!r}… -> give the tokenizer that drew them, or the ids again"
        )
    return ends
