"""The grid world: nine digits in a field, drawn or written, and questions about them (`grid_law.py` shows a path).

A task is asked about a picture (`image`) or behind the field in text (`text`), led by a colon: `372/518/904:B2+A1`.

    read     grid       the whole field: 372/518/904
    cell     B2         one cell: B2=1;#1
    count    n4         how often a digit stands in the field: #1
    path     B2+A1-C3   a path, worked step by step
    bare     B2+A1-C3   the same path, the answer alone: #0

A row of a picture holds what draws it, not the picture, so that any number of rows costs no memory and no disk.

Train, validation and test are disjoint by a hash of field and question together, however the problem is asked: no twin
of a test picture stands in a training set. Equal problems have equal ids, drawn or written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.data_tools.worlds.arithmetic import check_asked, split_of
from reasonrl.data_tools.worlds.grid_drawing import draw_field
from reasonrl.data_tools.worlds.grid_law import CELLS, MOST, Law, Path, draw_digits, draw_path, written
from reasonrl.errors import DataError

TASKS = ("read", "cell", "count", "path", "bare")
MODALITIES = ("image", "text")
#: Which tasks have a path, and so a number of operands.
_PATHS = ("path", "bare")


class GridWorld:
    """Questions about drawn and written fields of digits, in any mix."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        mix: str | Mapping[str, float] = "path/image",
        operands: int | Sequence[int] = (4, 5, 6),
        misread: float = 0.0,
        needless: float = 0.0,
        recompute: float = 0.0,
        halves: float = 0.0,
        backward: float = 0.0,
        noise: float = 0.25,
        contrast: float = 0.3,
        modulus: int = 10,
        slack: int = 0,
    ) -> list[dict[str, Any]]:
        """Write `n` problems.

        Args:
            n: number of rows; problems may repeat in `train`, never in `validation` and `test`.
            split: `train`, `validation` or `test`; the three share no problem, drawn or written.
            seed: of problems, solutions and pictures.
            mix: `task/modality`, or several with their weights. One task asks the same problems in both modalities.
            operands: of a path, 1 to 9, or several to draw from.
            misread, needless, recompute, halves, backward: shares of the solutions of `path` (`grid_law.Law`).
            noise: of pictures: standard deviation, as a share of the range.
            contrast: of pictures: the least of a digit.
            modulus: of all values, 2 to 10; digits are below it, so that a smaller one has fewer facts (of 10: 300; of
                6: 108) and fewer shapes.
            slack: up to so many dots stand before a question, so that its place tells nothing: a picture takes fewer
                places than its twin, and what was learnt at one place is not known at another.

        Returns:
            Rows with `id`, `problem`, `answer` (text), `solution`, `masked` (spans of its characters that nobody should
            learn: digits misread on purpose), `task`, `modality`, `field` (nine digits), `question`, `difficulty`
            (operands; 1 where there is no path) and `images` (what draws the picture; missing in text rows).

        Raises:
            DataError: an argument is out of range, or the split has fewer distinct problems than asked for.
        """
        weights, lengths = _mix(mix), _operands(operands)
        shares = {"misread": misread, "needless": needless, "recompute": recompute}
        law = law_of(**shares, halves=halves, backward=backward)
        _check(n, split, {"noise": noise, "contrast": contrast})
        check_modulus(modulus)
        if isinstance(slack, bool) or not isinstance(slack, int) or not 0 <= slack <= 99:
            raise DataError(f"grid: slack = {slack!r}, allowed are 0 to 99")
        draw = random.Random(f"grid/{split}/{seed}")
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        misses = 0
        while len(rows) < n:
            name = draw.choices(list(weights), list(weights.values()))[0]
            task, modality = name.split("/")
            row = _asked(task, draw, lengths, law, random.Random(f"grid/law/{split}/{seed}/{len(rows)}"), modulus)
            key = f"{row['field']}/{row['question']}"
            if split_of(key) != split or (split != "train" and key in seen):
                misses += 1
                if misses > 1000 * (n + 1):
                    raise DataError(f"grid: the {split} split holds fewer than {n} distinct problems -> ask for fewer")
                continue
            seen.add(key)
            dots = random.Random(f"grid/slack/{split}/{seed}/{len(rows)}").randint(0, slack)
            row |= {"task": task, "modality": modality}
            rows.append(_placed(row, split, seed, len(rows), noise, contrast, "." * dots))
        return rows

    def picture(self, *, field: str, seed: int, noise: float = 0.25, contrast: float = 0.3) -> Any:
        """The PIL image that a row's `images` describe; raises DataError unless the field is nine digits."""
        if not (isinstance(field, str) and re.fullmatch(f"[0-9]{{{MOST}}}", field)):
            raise DataError(f"grid: field = {field!r}, but a field is {MOST} digits, row by row, as text")
        return draw_field(field, seed, noise, contrast)


def law_of(**shares: float) -> Law:
    """The law of some shares; raises DataError if one is no share, or misread and needless together exceed 1."""
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"grid: {name} = {share!r}, allowed are 0 to 1")
    law = Law(**shares)
    if law.misread + law.needless > 1:
        together = law.misread + law.needless
        raise DataError(f"grid: misread + needless = {together:g}, but a solution has one of both -> at most 1")
    return law


def check_modulus(modulus: Any) -> None:
    """Raise DataError unless it is one that the world can be worked with."""
    if isinstance(modulus, bool) or not isinstance(modulus, int) or not 2 <= modulus <= 10:
        raise DataError(f"grid: modulus = {modulus!r}, allowed are 2 to 10")


def _asked(
    task: str, draw: random.Random, lengths: Sequence[int], law: Law, teacher: random.Random, modulus: int
) -> dict[str, Any]:
    """A problem of a task, its solution written with a generator of its own: the same problems under every law."""
    digits = draw_digits(draw, modulus)
    row: dict[str, Any] = {"field": digits, "difficulty": 1, "masked": []}
    if task in _PATHS or task == "cell":
        path = draw_path(draw, draw.choice(lengths) if task in _PATHS else 1, modulus)
        trace = (law if task == "path" else Law()).write(path, digits, teacher)
        answer = str(path.value(digits))
        row |= {"question": path.text, "answer": answer, "difficulty": len(path.cells)}
        row["solution"] = f"#{answer}" if task == "bare" else trace.text
        row["masked"] = [list(span) for span in trace.masked] if task == "path" else []
    elif task == "count":
        # Mostly of a digit that is there.
        asked = draw.choice(digits) if draw.random() < 0.8 else str(draw.randrange(modulus))
        answer = str(digits.count(asked))
        row |= {"question": f"n{asked}", "answer": answer, "solution": f"#{answer}"}
    else:
        row |= {"question": "grid", "answer": written(digits), "solution": written(digits)}
    return row


def _placed(
    row: dict[str, Any], split: str, seed: int, number: int, noise: float, contrast: float, lead: str
) -> dict[str, Any]:
    name = f"grid/{split}/{row['field']}/{row['question']}"
    drawn = row["modality"] == "image"
    made = {
        "id": f"{name}/{number}" if split == "train" else name,
        # Led by the same sign, so that a question looks the same from behind whatever stands before it.
        "problem": f"{'' if drawn else written(row['field'])}{lead}:{row['question']}",
        **row,
    }
    if drawn:
        look = random.Random(f"grid/drawing/{split}/{seed}/{number}").getrandbits(48)
        drawing = {"world": "grid", "field": row["field"], "seed": look}
        made["images"] = [{**drawing, "noise": float(noise), "contrast": float(contrast)}]
    return made


def _mix(mix: Any) -> dict[str, float]:
    known = [f"{task}/{modality}" for task in TASKS for modality in MODALITIES]
    weights = {mix: 1.0} if isinstance(mix, str) else dict(mix) if isinstance(mix, Mapping) else {}
    for name, weight in weights.items():
        if name not in known:
            raise DataError(f"grid: mix names {name!r}, allowed are {', '.join(known)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
            raise DataError(f"grid: mix gives {name!r} the weight {weight!r} -> a number of at least 0")
    if not sum(weights.values()):
        raise DataError(f"grid: mix = {mix!r} -> task/modality, such as path/image, or several with their weights")
    return weights


def _operands(operands: Any) -> list[int]:
    several = isinstance(operands, Sequence) and not isinstance(operands, str)
    lengths = list(operands) if several else [operands]
    if not lengths or any(isinstance(one, bool) or not isinstance(one, int) or not 1 <= one <= MOST for one in lengths):
        raise DataError(f"grid: operands = {operands!r}, allowed are 1 to {MOST}, or a list of them to draw from")
    return lengths


def _check(n: Any, split: str, shares: Mapping[str, Any]) -> None:
    check_asked("grid", n, split)
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"grid: {name} = {share!r}, allowed are 0 to 1")


__all__ = ["CELLS", "TASKS", "GridWorld", "Law", "Path", "law_of"]
