r"""Compound-QA: several independent problems in one prompt (arXiv:2505.07049; its exact form is not known to us).

    compound_rows(rows, 5)      # 500 rows -> 100 blocks of 5, each in 5 cyclic orders: 500 prompts

Each problem stands once at every position, in the company of the same others. How the answers are read is
`reasonrl.rewards.compound`, the figures are `reasonrl.eval.compound`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.data_tools.pictures import pictures_of
from reasonrl.errors import DataError

_KEPT = ("level", "subject")
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
        rows: with `id`, `problem` and `answer` (`options` for questions with options, listed in the problem).
        k: problems in a prompt.
        seed: of the blocks; the blocks of one k are the same wherever they are asked.
        rotations: orders of each block, from 1 to k; None takes all k.
        framed: put even a single problem into the frame; None: from k = 2 on. A single problem without the frame
            stays as it is.
        kind: of the answers, a key of `ASKED`.

    Returns:
        Rows with `id`, `problem` (the whole prompt), `answer` (JSON list of golds), `items` (JSON; what
        `reasonrl.rewards.compound` reads), `k`, `group` (the block) and `rotation`.

    Raises:
        DataError: k or rotations do not fit, or a row has pictures, no problem or no answer.
    """
    if kind not in ASKED:
        raise DataError(f"compound: kind {kind!r} is unknown -> one of {', '.join(ASKED)}")
    orders = k if rotations is None else rotations
    if isinstance(orders, bool) or not isinstance(orders, int) or not 1 <= orders <= k:
        raise DataError(f"compound: rotations = {rotations!r}, allowed are 1 to k = {k}")
    in_frame = k > 1 if framed is None else framed
    if k > 1 and not in_frame:
        raise DataError(f"compound: {k} problems in a prompt need the frame -> remove framed: false")
    for row in rows:
        _check(row)
    made = []
    for number, block in enumerate(blocks(len(rows), k, seed)):
        for rotation in range(orders):
            order = rotated(block, rotation)
            asked = [rows[place] for place, _ in order]
            items = [_item(rows[place], counts) for place, counts in order]
            text = frame([str(row["problem"]) for row in asked], kind) if in_frame else str(asked[0]["problem"])
            made.append(_row(k, number, rotation, text, items, asked))
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

    Problems at the end that fill no drawn prompt are left out.

    Args:
        rows, framed, kind: as in `compound_rows`; `framed` is about single problems.
        ks: sizes to draw from.
        seed: of order and sizes.
        shares: how often each size is drawn; None: equally.
    """
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise DataError(f"compound: k = {list(ks)!r} -> a list of whole numbers of at least 1")
    for row in rows:
        _check(row)
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
        made.append(_row(k, len(made), 0, text, [_item(row, True) for row in asked], asked))
    if not made:
        raise DataError(f"compound: {len(order)} problems fill no prompt of {max(ks)} -> more problems, or smaller k")
    return made


def _row(
    k: int, number: int, rotation: int, text: str, items: list[dict[str, Any]], asked: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
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
        # A single problem keeps its name, and what accuracy is broken down by.
        row |= {"id": str(asked[0]["id"])} | {name: asked[0][name] for name in _KEPT if name in asked[0]}
        del row["group"]
    return row


def _item(row: Mapping[str, Any], counts: bool) -> dict[str, Any]:
    item = {"id": str(row["id"]), "problem": str(row["problem"]), "answer": str(row["answer"])}
    if row.get("options") is not None:
        item["options"] = row["options"]
    return item if counts else {**item, "scored": False}


def _check(row: Mapping[str, Any]) -> None:
    missing = [name for name in ("problem", "answer") if row.get(name) in (None, "")]
    if missing:
        raise DataError(f"compound: row {row.get('id')!r} has no {missing[0]!r} -> compound prompts need both")
    if pictures_of(row):
        raise DataError(
            f"compound: row {row.get('id')!r} has pictures, and compound prompts are text -> text_only: true"
        )
