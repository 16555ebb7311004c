r"""Compound-QA: several independent problems in one prompt (arXiv:2505.07049; its exact form is not known to us).

    compound_rows(rows, 5)      # 500 rows -> 100 blocks of 5, each in 5 cyclic orders: 500 prompts

Each problem stands once at every position, in the company of the same others. How the answers are read is
`reasonrl.rewards.compound`, the figures are `reasonrl.eval.compound`.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from reasonrl.data_tools.pictures import pictures_of
from reasonrl.errors import DataError

log = logging.getLogger(__name__)

_IN_ITEMS = ("id", "problem", "answer", "options")
_MADE = ("items", "k", "rotation")
"""Columns of every row that is made, besides the problem's own `id`, `problem` and `answer`."""
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
BOX_LINE = "{number}. \\boxed{{…}}"
ASKED = {
    "math": "the answer in \\boxed{}",
    "choice": "the letter of the right option in \\boxed{}",
}
"""What a line holds, by the kind of the answers."""


def blocks(count: int, k: int, seed: int = 0) -> list[list[tuple[int, bool]]]:
    """Places of `count` problems in seeded blocks of k.

    The last block is filled up with the first problems of the order, which do not count there.

    Returns:
        Blocks of (place, whether it counts); each place counts exactly once.

    Raises:
        DataError: k is below 1, or above the number of problems.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DataError(f"compound: k = {k!r} problems in a prompt -> give a whole number of at least 1")
    if k > count:
        raise DataError(f"compound: k = {k} problems in a prompt, but there are {count} -> a smaller k")
    order = list(range(count))
    if k > 1:
        random.Random(f"compound/{seed}").shuffle(order)
    marked = [(place, True) for place in order]
    marked += [(place, False) for place in order[: -count % k]]
    return [marked[start : start + k] for start in range(0, len(marked), k)]


def rotated(block: Sequence[Any], by: int) -> list[Any]:
    """A block from its `by`-th member on, the ones before it at the end."""
    return [*block[by:], *block[:by]]


def compound_rows(
    rows: Sequence[Mapping[str, Any]],
    k: int,
    *,
    seed: int = 0,
    rotations: int | None = None,
    framed: bool | None = None,
    kind: str = "math",
) -> list[dict[str, Any]]:
    """Rows of compound prompts.

    Args:
        rows: with `id`, `problem` and `answer`, text or a number (`options` for questions with options, listed in the
            problem).
        k: problems in a prompt.
        seed: of the blocks; the blocks of one k are the same wherever they are asked.
        rotations: orders of each block, from 1 to k; None takes all k.
        framed: put even a single problem into the frame; None: from k = 2 on. A single problem without the frame
            stays as it is.
        kind: of the answers, a key of `ASKED`.

    Returns:
        Rows with `id`, `problem` (the whole prompt), `answer` (JSON list of golds), `items` (JSON; what
        `reasonrl.rewards.compound` reads), `k`, `group` (the block) and `rotation`. At k = 1 a row keeps its `id` and
        `group` and all its other columns (in the frame all but `prompt`, which would be asked instead of it); several
        problems have no common value of them, and those columns are left out.

    Raises:
        DataError: k or rotations do not fit, or a row has pictures, no id, no problem or no answer that is text or a
            number.
    """
    if kind not in ASKED:
        raise DataError(f"compound: kind {kind!r} is unknown -> one of {', '.join(ASKED)}")
    orders = k if rotations is None else rotations
    if isinstance(orders, bool) or not isinstance(orders, int) or not 1 <= orders <= k:
        raise DataError(f"compound: rotations = {rotations!r}, allowed are 1 to k = {k}")
    in_frame = k > 1 if framed is None else framed
    if k > 1 and not in_frame:
        raise DataError(f"compound: {k} problems in a prompt need the frame -> remove framed: false")
    _check(rows)
    _tell_left_out(rows, k == 1, in_frame, logging.INFO)
    made = []
    for number, block in enumerate(blocks(len(rows), k, seed)):
        for rotation in range(orders):
            order = rotated(block, rotation)
            asked = [rows[place] for place, _ in order]
            items = [_item(rows[place], counts) for place, counts in order]
            text = frame([str(row["problem"]) for row in asked], kind) if in_frame else str(asked[0]["problem"])
            made.append(_row(k, number, rotation, text, items, _own(asked[0], in_frame) if k == 1 else {}))
    return made


def frame(problems: Sequence[str], kind: str = "math") -> str:
    """The prompt that asks several problems at once; the wording is ours."""
    count = len(problems)
    word = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    head = (
        f"Here {'is' if count == 1 else 'are'} {word} problem{'' if count == 1 else 's'}"
        f"{'' if count == 1 else ', each independent of the others'}. Solve {'it' if count == 1 else 'all of them'}."
    )
    parts = [f"### Problem {number}\n{problem.strip()}" for number, problem in enumerate(problems, start=1)]
    lines = "\n".join(BOX_LINE.format(number=number) for number in range(1, count + 1))
    ask = (
        "Reason step by step. At the end give the final answers, one line a problem and in the order of the problems,"
        f" each with the number of the problem and {ASKED[kind]}:\n{lines}"
    )
    return "\n\n".join([head, *parts, ask])


def mixed_rows(
    rows: Sequence[Mapping[str, Any]],
    ks: Sequence[int],
    *,
    seed: int = 0,
    framed: bool = True,
    kind: str = "math",
    shares: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Training rows: the problems in a seeded order, each once, in prompts whose sizes are drawn from `ks`.

    Problems at the end that fill no drawn prompt are left out. Where all sizes are 1, rows keep their other columns as
    in `compound_rows`; else those are left out, and a warning names them.

    Args:
        rows, framed, kind: as in `compound_rows`; `framed` is about single problems.
        ks: sizes to draw from.
        seed: of order and sizes.
        shares: how often each size is drawn; None: equally.

    Raises:
        DataError: as `compound_rows` does, or the problems fill no prompt.
    """
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise DataError(f"compound: k = {list(ks)!r} -> a list of whole numbers of at least 1")
    _check(rows)
    # Rows of a table have the same columns: one problem among prompts of several keeps no more than they do.
    alone = max(ks) == 1
    _tell_left_out(rows, alone, framed, logging.WARNING)
    draw = random.Random(f"compound/mixed/{seed}")
    order = list(rows)
    draw.shuffle(order)
    made: list[dict[str, Any]] = []
    start = 0
    while start < len(order):
        k = draw.choices(list(ks), weights=shares)[0]
        asked = order[start : start + k]
        start += k
        if len(asked) < k:
            break
        in_frame = k > 1 or framed
        text = frame([str(row["problem"]) for row in asked], kind) if in_frame else str(asked[0]["problem"])
        own = _own(asked[0], in_frame) if alone else {}
        made.append(_row(k, len(made), 0, text, [_item(row, True) for row in asked], own))
    if not made:
        raise DataError(f"compound: {len(order)} problems fill no prompt of {max(ks)} -> more problems, or smaller k")
    return made


def _row(
    k: int, number: int, rotation: int, text: str, items: list[dict[str, Any]], own: Mapping[str, Any]
) -> dict[str, Any]:
    """A row that is made; `own` are columns that it keeps from the data."""
    row = {
        "id": f"cb{k}/{number}/{rotation}",
        "problem": text,
        "answer": json.dumps([item["answer"] for item in items], ensure_ascii=False),
        "items": json.dumps(items, ensure_ascii=False),
        "k": k,
        "group": f"block {number}",
        "rotation": rotation,
    }
    if k == 1:
        row["id"] = items[0]["id"]  # a single problem keeps its name
        del row["group"]
    return {**row, **own}


def _own(row: Mapping[str, Any], framed: bool) -> dict[str, Any]:
    """The columns that a single problem keeps."""
    return {name: value for name, value in row.items() if name not in _replaced(framed, "id", "problem", "answer")}


def _replaced(framed: bool, *more: str) -> tuple[str, ...]:
    """Columns of a single problem's row that give way to what is made; messages would be asked instead of the frame."""
    return (*more, *_MADE, "prompt") if framed else (*more, *_MADE)


def _tell_left_out(rows: Sequence[Mapping[str, Any]], alone: bool, framed: bool, level: int) -> None:
    """One line in the log with the columns of the data that the made rows do not have."""
    names = dict.fromkeys(name for row in rows for name in row)
    if alone:
        left_out, why = [name for name in names if name in _replaced(framed)], "what is made stands in their place"
    else:
        left_out = [name for name in names if name not in _IN_ITEMS]
        why = "several problems have no common value of them; k = 1 alone keeps them"
    if left_out:
        log.log(level, "compound: %d rows: columns left out: %s (%s)", len(rows), ", ".join(left_out), why)


def _item(row: Mapping[str, Any], counts: bool) -> dict[str, Any]:
    item = {"id": str(row["id"]), "problem": str(row["problem"]), "answer": str(row["answer"])}
    if row.get("options") is not None:
        item["options"] = row["options"]
    return item if counts else {**item, "scored": False}


def _check(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses rows that compound prompts cannot be made of."""
    for place, row in enumerate(rows):
        if _is_blank(row.get("id")):
            raise DataError(
                f"compound: row {place} (from 0) has no 'id', by which a problem is told from the others -> give every"
                " row its own, or read the data with load_rows, which does"
            )
        for name, kinds, allowed in (("problem", str, "text"), ("answer", (str, Number), "text or a number")):
            value = row.get(name)
            if _is_blank(value):
                raise DataError(f"compound: row {row['id']!r} has no {name!r} -> compound prompts need both")
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise DataError(
                    f"compound: row {row['id']!r}: its {name} is {str(value)[:80]!r}, a {type(value).__name__};"
                    f" allowed: {allowed} -> write it so, or take another column as {name}"
                )
        if pictures_of(row):
            raise DataError(
                f"compound: row {row['id']!r} has pictures, and compound prompts are text -> text_only: true"
            )


def _is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: None, empty text, or the NaN of an empty cell of a table."""
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )
