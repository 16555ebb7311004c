"""Pictures with a question and an exact answer, each with a twin in text.

Six kinds, graded 1 to 5: counting shapes (`count`), reading drawn numbers (`number`), bar charts (`bars`), figures on a
lattice (`geometry`), digits in the cells of a field (`cells`), and chains of arithmetic over those cells (`path`).
`visual_scenes.py` says what they hold, `visual_drawing.py` how they are drawn.

Train, validation and test are disjoint by construction: the split of a problem is a hash of its kind, its content and
its question, whether it is drawn or written. So no twin of a test picture stands in a training set.

Solutions may come from an imperfect teacher, who boxes a wrong answer with probability `slip`; problems, pictures and
answers are exact all the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from reasonrl.data_tools.worlds.arithmetic import check_asked, split_of
from reasonrl.data_tools.worlds.visual_drawing import LEAST_SIZE, draw_scene
from reasonrl.data_tools.worlds.visual_scenes import DIFFICULTIES, SCENES, Scene
from reasonrl.errors import DataError

MODALITIES = ("image", "text", "mixed")


def key_of(scene: Scene) -> str:
    """What makes a problem the same problem, however it is drawn."""
    return f"{scene.kind}/{scene.twin}/{scene.question}"


class VisualWorld:
    """Drawn problems, their twins in text, or both."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        kinds: str | Sequence[str] = tuple(SCENES),
        difficulty: int | Sequence[int] = (1, 2, 3),
        modality: str = "image",
        size: int = 84,
        wear: float = 0.0,
        slip: float = 0.0,
    ) -> list[dict[str, Any]]:
        """Write `n` problems.

        Args:
            n: number of rows; problems may repeat in `train` (drawn anew), never in `validation` and `test`.
            split: `train`, `validation` or `test`; the three share no problem, drawn or written.
            seed: of the problems and of their drawing.
            kinds: one of `count`, `number`, `bars`, `geometry`, `cells`, `path`, or several to draw from.
            difficulty: 1 to 5, or several to draw from.
            modality: `image` asks about a picture, `text` about its twin, `mixed` is either, half and half by chance.
            size: side of the pictures in pixels, 42 to 2048. With 84, a cell of a field of digits is 28 pixels wide.
            wear: 0 to 1: noise, and for digits less contrast and strokes across them.
            slip: probability that the solution boxes a wrong answer: its last digit is one too high, 0 for 9.

        Returns:
            Rows with `id`, `problem` (the question, after the twin where there is no picture), `answer` (text),
            `solution`, `images` (one PNG as bytes; missing in text rows), `kind`, `difficulty`, `modality`, `twin`
            and `slips` (1 where the boxed answer is wrong, else 0).

        Raises:
            DataError: an argument is out of range, or the split has fewer distinct problems than asked for.
        """
        chosen, grades = _kinds(kinds), _difficulties(difficulty)
        _check(n, split, modality, size, {"wear": wear, "slip": slip})
        draw = random.Random(f"visual/{split}/{seed}")
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        misses = 0
        while len(rows) < n:
            scene = SCENES[draw.choice(chosen)](draw, draw.choice(grades))
            key = key_of(scene)
            if split_of(key) != split or (split != "train" and key in seen):
                misses += 1
                if misses > 1000 * (n + 1):
                    raise DataError(
                        f"visual: the {split} split holds fewer than {n} distinct problems of the kinds"
                        f" {', '.join(chosen)} at difficulty {grades} -> ask for fewer rows, more kinds or higher"
                        " difficulties"
                    )
                continue
            seen.add(key)
            drawn = modality == "image" or (modality == "mixed" and draw.random() < 0.5)
            row = _row(scene, split, seed, len(rows), drawn, size, wear)
            # A generator of its own: the same problems and pictures are drawn whatever the teacher gets wrong.
            row["slips"] = int(random.Random(f"teacher/{split}/{seed}/{len(rows)}").random() < slip)
            if row["slips"]:
                row["solution"] = _misread(scene)
            rows.append(row)
        return rows


def _row(scene: Scene, split: str, seed: int, number: int, drawn: bool, size: int, wear: float) -> dict[str, Any]:
    name = f"visual/{split}/{'image' if drawn else 'text'}/{key_of(scene)}"
    row: dict[str, Any] = {
        "id": f"{name}/{number}" if split == "train" else name,
        "problem": scene.question if drawn else f"{scene.twin}\n{scene.question}",
        "answer": str(scene.answer),
        "solution": scene.solution,
        "kind": scene.kind,
        "difficulty": scene.difficulty,
        "modality": "image" if drawn else "text",
        "twin": scene.twin,
    }
    if drawn:
        row["images"] = [draw_scene(scene, random.Random(f"drawing/{split}/{seed}/{number}"), size, wear)]
    return row


def _misread(scene: Scene) -> str:
    """The solution with its steps right and its boxed answer wrong: the last digit is one too high."""
    right = str(scene.answer)
    wrong = f"{right[:-1]}{(int(right[-1]) + 1) % 10}"
    return f"{scene.solution.removesuffix(f'{right}}}')}{wrong}}}"


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _kinds(kinds: Any) -> list[str]:
    chosen = _several(kinds)
    if not chosen or any(kind not in SCENES for kind in chosen):
        raise DataError(f"visual: kinds = {kinds!r}, allowed are {', '.join(SCENES)}, or a list of them")
    return chosen


def _difficulties(difficulty: Any) -> list[int]:
    grades = _several(difficulty)
    if not grades or any(isinstance(one, bool) or one not in DIFFICULTIES for one in grades):
        raise DataError(f"visual: difficulty = {difficulty!r}, allowed are 1 to 5, or a list of them to draw from")
    return grades


def _check(n: int, split: str, modality: str, size: Any, shares: dict[str, Any]) -> None:
    check_asked("visual", n, split)
    if modality not in MODALITIES:
        raise DataError(f"visual: modality = {modality!r}, allowed are {', '.join(MODALITIES)}")
    if isinstance(size, bool) or not isinstance(size, int) or not LEAST_SIZE <= size <= 2048:
        raise DataError(f"visual: size = {size!r}, allowed are {LEAST_SIZE} to 2048 pixels")
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"visual: {name} = {share!r}, allowed are 0 (clean) to 1")
