"""The visual world: answers from the twin's text and from the pixels by readers of their own, splits, determinism."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from reasonrl.data_tools import load_rows
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import DataError

WORLD = get_world("visual")
KINDS = ["count", "number", "bars", "geometry", "cells", "path"]
GRADES = [1, 2, 3, 4, 5]


def question_of(row):
    return row["problem"].split("\n")[-1]


def answer_from_twin(row):
    """The answer worked out anew from the written content and the question alone."""
    twin, question, kind = row["twin"], question_of(row), row["kind"]
    if kind == "count":
        colour, shape = re.fullmatch(r"How many (?:(red|green|blue) )?(circle|square|triangle)s\?", question).groups()
        mark = {"circle": "o", "square": "#", "triangle": "^"}[shape]
        return str(twin.count((colour or "")[:1] + mark))
    if kind == "number":
        return twin.replace(" ", "")
    if kind == "bars":
        heights = dict(re.findall(r"([A-F])(\d)", twin))
        return str(sum(int(heights[name]) for name in question.rstrip("?").split("+")))
    if kind == "geometry":
        figures = [[tuple(map(int, p.split(","))) for p in f.split(" ")] for f in twin.split(";")]
        outer = figures[0]
        sides = list(zip(outer, outer[1:] + outer[:1], strict=True))
        if question == "Width?":
            return str(max(x for x, _ in outer) - min(x for x, _ in outer))
        if question == "Height?":
            return str(max(y for _, y in outer) - min(y for _, y in outer))
        if question == "Perimeter?":
            return str(sum(abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in sides))
        assert question == "Area?"
        area = [
            abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(f, f[1:] + f[:1], strict=True))) // 2 for f in figures
        ]
        return str(area[0] - sum(area[1:]))
    lines = twin.split("/")
    digit = {f"{'ABC'[x]}{y + 1}": lines[y][x] for x in range(3) for y in range(3)}
    if kind == "cells":
        return "".join(digit[name] for name in question.rstrip("?").split(" "))
    value, signs = None, re.findall(r"[-+*]", question)
    for sign, name in zip(["+", *signs], re.findall(r"[A-C][1-3]", question), strict=True):
        right = int(digit[name])
        value = right if value is None else eval(f"{value}{sign}{right}") % 10
    return str(value)


def pixels(row):
    (png,) = row["images"]
    assert isinstance(png, bytes)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_solutions_are_those_of_an_independent_reader(kind):
    for grade in GRADES:
        for row in WORLD.rows(150, kinds=kind, difficulty=grade, modality="text", seed=grade):
            assert row["answer"] == answer_from_twin(row), row
            assert row["solution"].split("\n")[-1] == f"\\boxed{{{row['answer']}}}"
            assert row["problem"] == f"{row['twin']}\n{question_of(row)}" and "images" not in row
            lines = row["twin"].split("/") if kind == "path" else []
            values = {f"{'ABC'[x]}{y + 1}": d for y, line in enumerate(lines) for x, d in enumerate(line)}
            for step in re.findall(r"[^;\n]+(?==)=\w+", row["solution"]):
                left, right = step.split("=")
                if kind == "path" and left in values:
                    assert values[left] == right
                elif re.fullmatch(r"[\d+*-]+", left):
                    value = eval(left)
                    assert (value % 10 if kind == "path" else value) == int(right)


def test_counts_are_the_blobs_of_the_picture():
    rows = WORLD.rows(120, kinds="count", difficulty=GRADES, seed=5)
    for row in rows:
        picture = pixels(row)
        ink = {"r": picture[..., 0], "g": picture[..., 1], "b": picture[..., 2]}
        dark = picture.min(axis=-1) < 100
        _, blobs = ndimage.label(dark)
        marks = re.findall(r"([rgb]?)([o#^])", row["twin"])
        assert blobs == len(marks)
        found = Counter()
        for part in ndimage.find_objects(ndimage.label(dark)[0]):
            inside = dark[part]
            filled = inside.mean()
            shape = "#" if filled > 0.95 else "o" if filled > 0.66 else "^"
            strongest = max(ink, key=lambda tone: ink[tone][part][inside].mean())
            found[(strongest if row["difficulty"] >= 4 else "", shape)] += 1
        assert found == Counter(marks)
    assert len({row["answer"] for row in rows}) > 4


def test_bars_and_figures_are_as_large_as_their_numbers():
    for row in WORLD.rows(60, kinds="bars", difficulty=GRADES, seed=1):
        picture = pixels(row)
        heights = re.findall(r"[A-F](\d)", row["twin"])
        blue, width = (picture == (30, 60, 200)).all(axis=-1), 84 // len(heights)
        unit = (84 - 16 - 1) // 9
        drawn = [blue[:, i * width + width // 2].sum() for i in range(len(heights))]
        assert [round(tall / unit) for tall in drawn] == [int(height) for height in heights]
    for row in WORLD.rows(60, kinds="geometry", difficulty=GRADES, seed=1):
        # Between the lattice's points: the colour of a unit square's middle says whether it belongs to the figure.
        middles = pixels(row)[4:80:8, 4:80:8][:10, :10]
        inside = (middles == (90, 130, 220)).all(axis=-1)
        if question_of(row) == "Area?":
            assert str(inside.sum()) == row["answer"]
        else:
            wide, high = inside.any(axis=0).sum(), inside.any(axis=1).sum()
            assert row["answer"] == str({"W": wide, "H": high, "P": 2 * (wide + high)}[question_of(row)[0]])


@pytest.mark.parametrize("kind", ["number", "cells", "path"])
def test_digits_are_read_back_from_the_picture(kind):
    """By the pixels of the digits themselves: equal digits look alike wherever they stand, different ones do not."""
    looks = {}
    for row in WORLD.rows(40, kinds=kind, difficulty=1, seed=2):
        dark, cell = pixels(row).max(axis=-1) < 128, 28
        digits = row["twin"].replace("/", "").replace(" ", "")
        if kind == "number":
            top = np.nonzero(dark.any(axis=1))[0].min()
            boxes = [dark[:, i * cell : (i + 1) * cell] for i in range(len(digits))]
            assert top >= 0
        else:
            boxes = [dark[i // 3 * cell : i // 3 * cell + cell, i % 3 * cell : i % 3 * cell + cell] for i in range(9)]
        for digit, box in zip(digits, boxes, strict=True):
            rows, columns = np.nonzero(box)
            glyph = box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            looks.setdefault(digit, set()).add((glyph.shape, glyph.tobytes()))
    assert len(looks) >= 9 and all(len(forms) == 1 for forms in looks.values())
    assert len({next(iter(forms)) for forms in looks.values()}) == len(looks)


def digest(rows):
    plain = [{k: (v[0].hex() if k == "images" else v) for k, v in row.items()} for row in rows]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def test_rows_are_the_same_in_every_process():
    code = (
        "import sys, hashlib, json; from reasonrl.data_tools.worlds import get_world;"
        "rows = get_world('visual').rows(40, difficulty=[1,5], modality='mixed', wear=0.7, seed=3);"
        "plain = [{k: (v[0].hex() if k == 'images' else v) for k, v in r.items()} for r in rows];"
        "assert 'torch' not in sys.modules;"
        "print(hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    mine = digest(WORLD.rows(40, difficulty=[1, 5], modality="mixed", wear=0.7, seed=3))
    assert out.stdout.strip() == mine
    assert digest(WORLD.rows(40, difficulty=[1, 5], modality="mixed", wear=0.7, seed=4)) != mine


def test_splits_share_no_problem_drawn_or_written():
    problems = {}
    for split in ("train", "validation", "test"):
        for modality in ("image", "text"):
            rows = WORLD.rows(250, split=split, difficulty=GRADES, modality=modality, seed=len(split), size=42)
            found = {(row["kind"], row["twin"], question_of(row)) for row in rows}
            if split != "train":
                assert len(found) == len(rows) == len({row["id"] for row in rows})
            problems.setdefault(split, set()).update(found)
    assert not problems["train"] & problems["test"]
    assert not problems["train"] & problems["validation"]
    assert not problems["validation"] & problems["test"]


def test_difficulty_modality_size_and_wear_do_what_they_say():
    words = {grade: WORLD.rows(60, kinds="path", difficulty=grade, modality="text") for grade in GRADES}
    assert all({len(re.findall("[A-C]", question_of(r))) for r in rows} == {g + 1} for g, rows in words.items())
    easy, hard = (WORLD.rows(200, kinds="count", difficulty=d, modality="text") for d in (1, 5))
    most = [max(len(re.findall("[o#^]", row["twin"])) for row in rows) for rows in (easy, hard)]
    assert most == [4, 12]
    assert Counter(len(row["answer"]) for row in WORLD.rows(20, kinds="number", difficulty=4)) == {5: 20}
    mixed = Counter(row["modality"] for row in WORLD.rows(400, modality="mixed", size=42))
    assert abs(mixed["image"] - 200) < 45 and mixed["image"] + mixed["text"] == 400
    for size in (42, 56, 84, 224):
        for kind in KINDS:
            assert pixels(WORLD.rows(1, kinds=kind, difficulty=5, size=size)[0]).shape == (size, size, 3)
    clean, worn = (pixels(WORLD.rows(1, kinds="cells", difficulty=1, wear=wear)[0]) for wear in (0.0, 1.0))
    assert len(np.unique(clean)) == 2 and 50 < (worn - clean).std() < 110


@pytest.mark.parametrize("modality", ["image", "text"])
def test_an_imperfect_teacher_boxes_wrong_answers_and_changes_nothing_else(modality):
    args = {"difficulty": GRADES, "modality": modality, "size": 42, "seed": 5}
    right, sloppy = WORLD.rows(600, **args), WORLD.rows(600, slip=0.3, **args)
    for before, after in zip(right, sloppy, strict=True):
        steps, _, boxed = after["solution"].rpartition("\\boxed{")
        last = int(before["answer"][-1])
        wrong = before["answer"][:-1] + ("0" if last == 9 else str(last + 1))
        assert boxed == (wrong if after["slips"] else before["answer"]) + "}"
        assert steps == before["solution"].rpartition("\\boxed{")[0]
        changed = {"solution", "slips"} if after["slips"] else set()
        assert {name for name in before if before[name] != after[name]} == changed
    slips = sum(row["slips"] for row in sloppy)
    assert abs(slips - 180) < 4 * (600 * 0.3 * 0.7) ** 0.5 and not any(row["slips"] for row in right)
    assert all(row["slips"] for row in WORLD.rows(50, slip=1.0, **args))
    other = WORLD.rows(600, slip=0.3, **{**args, "seed": 6})
    assert [row["slips"] for row in other] != [row["slips"] for row in sloppy]


def test_rows_come_through_the_loader_with_their_pictures():
    rows = load_rows(world="visual", n=20, args={"modality": "mixed", "difficulty": 2}, seed=1, split="validation")
    assert len(rows) == 20
    for row in rows:
        assert (row["modality"] == "image") == ("images" in row)
        assert row["id"].startswith("visual/validation/")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"kinds": "counts"}, "kinds = 'counts', allowed are count, number"),
        ({"difficulty": 6}, "difficulty = 6, allowed are 1 to 5"),
        ({"modality": "sound"}, "modality = 'sound', allowed are image, text, mixed"),
        ({"size": 41}, "size = 41, allowed are 42 to 2048"),
        ({"wear": 2}, "wear = 2, allowed are 0"),
        ({"slip": -0.5}, "slip = -0.5, allowed are 0"),
        ({"slip": True}, "slip = True, allowed are 0"),
        ({"kinds": "number", "difficulty": 1, "split": "test", "n": 60}, "holds fewer than 60 distinct problems"),
        ({"split": "dev"}, "split 'dev' is unknown"),
    ],
)
def test_what_cannot_be_drawn_is_refused(args, message):
    with pytest.raises(DataError, match=message):
        WORLD.rows(**{"n": 3, **args})
