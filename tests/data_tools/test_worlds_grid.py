"""The grid world: answers and traces recomputed from the text, the law's rates, twins, splits, pictures on demand."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from reasonrl.data_tools import load_rows
from reasonrl.data_tools.pictures import open_picture, size_of
from reasonrl.data_tools.worlds import get_world
from reasonrl.data_tools.worlds.grid_figures import measure, read_trace
from reasonrl.errors import DataError

WORLD = get_world("grid")
LAW = {"misread": 0.25, "needless": 0.25, "recompute": 0.15, "halves": 0.10, "backward": 0.20}
SHARES = {f"{task}/{how}": 1 for task in ("read", "cell", "count", "path", "bare") for how in ("image", "text")}


def answer_of(row, modulus=10):
    """The answer by another way: Python's own arithmetic over the named cells."""
    digit = {f"{'ABC'[place % 3]}{place // 3 + 1}": mark for place, mark in enumerate(row["field"])}
    question = row["question"]
    if question == "grid":
        return "/".join(re.findall("...", row["field"]))
    if question[0] == "n":
        return str(sum(mark == question[1] for mark in row["field"]))
    value = int(digit[question[:2]])
    for sign, cell in re.findall(r"([-+*])([ABC][123])", question):
        value = eval(f"({value}{sign}{digit[cell]}) % {modulus}")
    return str(value)


def test_every_task_has_its_answer_and_a_twin():
    rows = WORLD.rows(1500, mix=SHARES, operands=[2, 3, 5])
    assert set(Counter(f"{row['task']}/{row['modality']}" for row in rows)) == set(SHARES)
    for row in rows:
        assert row["answer"] == answer_of(row)
        assert re.search(r"#(\d)\Z", row["solution"])[1] == row["answer"] if row["task"] != "read" else True
        written = "/".join(re.findall("...", row["field"]))
        drawn = row["modality"] == "image"
        assert row["problem"] == (f":{row['question']}" if drawn else f"{written}:{row['question']}")
        assert ("images" in row) == drawn
        cells = re.findall("[ABC][123]", row["question"])
        assert len(cells) == len(set(cells)) == (row["difficulty"] if cells else 0)
        if row["task"] in ("bare", "count"):
            assert len(row["solution"]) == 2
    pictures, twins = (WORLD.rows(200, split="test", mix=f"path/{how}") for how in ("image", "text"))
    for picture, twin in zip(pictures, twins, strict=True):
        same = ("id", "answer", "solution", "field", "question", "difficulty")
        assert all(picture[name] == twin[name] for name in same) and twin["problem"].endswith(picture["problem"])


def test_a_smaller_modulus_has_digits_and_results_below_it():
    rows = WORLD.rows(1500, mix=SHARES, operands=[2, 3, 5], modulus=6, **LAW)
    for row in rows:
        assert row["answer"] == answer_of(row, 6) and set(row["field"]) <= set("012345")
    paths = [row for row in rows if row["task"] == "path"]
    assert {digit for row in paths for digit in re.findall(r"=(\d)", row["solution"])} == set("012345")
    found, expected = measure(paths, modulus=6, **LAW)
    assert found["well_formed"] == found["pass@1"] == found["work_right"] == expected["pass@1"] == 1.0
    assert measure(paths)[0]["work_right"] < 0.9  # read modulo 10, what is 8 is not written so
    assert {int(row["question"][1]) for row in rows if row["task"] == "count"} <= set(range(6))
    for wrong in (1, 11, True, 6.0):
        with pytest.raises(DataError, match=r"modulus = .*allowed are 2 to 10"):
            WORLD.rows(2, modulus=wrong)
        with pytest.raises(DataError, match=r"modulus = .*allowed are 2 to 10"):
            measure(paths, modulus=wrong)


def test_slack_moves_questions_and_changes_nothing_else():
    plain, moved = (WORLD.rows(400, split="test", mix="path/text", slack=slack) for slack in (0, 8))
    pictures = WORLD.rows(400, split="test", mix="path/image", slack=8)
    leads = Counter()
    for one, other, picture in zip(plain, moved, pictures, strict=True):
        field, lead, question = re.fullmatch(r"([0-9/]+)(\.*):(.+)", other["problem"]).groups()
        assert f"{field}:{question}" == one["problem"] and picture["problem"] == f"{lead}:{question}"
        assert {**one, "problem": ""} == {**other, "problem": ""}
        leads[len(lead)] += 1
    assert set(leads) == set(range(9)) and min(leads.values()) > 20
    for wrong in (-1, 100, True):
        with pytest.raises(DataError, match=r"slack = .*allowed are 0 to 99"):
            WORLD.rows(2, slack=wrong)


def test_solutions_follow_the_law_and_the_reader_finds_what_was_planted():
    rows = WORLD.rows(6000, mix="path/text", **LAW)
    found, expected = measure(rows, **LAW)
    assert found["well_formed"] == found["pass@1"] == found["finished"] == found["work_right"] == found["mends"] == 1.0
    assert found["looks_at_wrong"] == 1.0 and found["spoils"] == 0.0
    rates = {"looks": 0.5, "recomputes": 0.15, "halves": 0.10, "backward": 0.20}
    for name, rate in rates.items():
        assert abs(found[name] - rate) < 4 * (rate * (1 - rate) / 6000) ** 0.5, name
    assert all(abs(found[name] - expected[name]) < 0.03 for name in expected if name not in ("characters", "look_gain"))
    assert abs(found["characters"] - expected["characters"]) < 1
    masked = [row for row in rows if row["masked"]]
    assert abs(len(masked) / 6000 - 0.25) < 0.025
    for row in masked:
        ((start, end),) = row["masked"]
        cell, wrong = re.search(r"([ABC][123])=(\d)$", row["solution"][:end]).groups()
        assert end == start + 1 and row["solution"][start] == wrong
        right = re.match(rf";\?{cell}=(\d);", row["solution"][end:])[1]
        assert right == answer_of({**row, "question": cell}) != wrong
    plain = WORLD.rows(6000, mix="path/text")
    assert [row["problem"] for row in plain] == [row["problem"] for row in rows]
    assert not any(row["masked"] or set(row["solution"]) & set("?!<~") for row in plain)


def test_no_answer_is_a_safe_guess():
    answers = Counter(row["answer"] for row in WORLD.rows(4000, mix="bare/text"))
    assert len(answers) == 10 and max(answers.values()) < 0.20 * 4000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B2=1;A1=3;1+3=4;C3=4;4-4=0;#0", {"well_formed": True, "answer": 0, "reads": [True] * 3, "steps": [True] * 2}),
        ("B2=2;?B2=1;A1=3;1+3=4;C3=4;4-4=0;#0", {"well_formed": True, "looks": [(False, True)]}),
        ("B2=1;?B2=2;A1=3;2+3=5;C3=4;5-4=1;#1", {"well_formed": True, "looks": [(True, False)], "answer": 1}),
        (
            "B2=1;A1=3;1+3=5;!1+3=4;C3=4;4-4=0;#0",
            {"well_formed": True, "recomputes": True, "steps": [False, True, True]},
        ),
        ("<B2|+A1-C3>;~C3=4;B2=1;A1=3;1+3=4;4-4=0;#0", {"well_formed": True, "halves": True, "backward": True}),
        ("B2=1;A1=3;C3=4;1+3=4;4-4=0;#0", {"well_formed": False, "answer": 0}),  # read before its turn
        ("B2=1;A1=3;1+3=4;4-4=0;#0", {"well_formed": False}),  # a cell that was never read
        ("B2=1;A1=3;2+3=5;C3=4;5-4=1;#1", {"well_formed": False}),  # another digit than was read
        ("B2=1;A1=3;1+3=4;C3=4;4-4=0;#1", {"well_formed": False, "answer": 1}),  # another answer than was found
        ("B2=1;A1=3;1+3=4;?B2=1;C3=4;4-4=0;#0", {"well_formed": False}),  # a look at what was not just read
        ("B2=1;A1=3;1+3=4;C3=4;4-4=0;", {"well_formed": False, "answer": None}),
        ("#0", {"well_formed": False, "answer": 0, "reads": []}),
        ("", {"well_formed": False, "answer": None}),
        ("?B2=1;x;A1=10;#٣", {"well_formed": False, "answer": None, "looks": []}),
    ],
)
def test_the_reader_reads_what_models_write(text, expected):
    found = read_trace("372518904", "B2+A1-C3", text)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_reader_survives_any_text():
    draw = random.Random(0)
    for row in WORLD.rows(400, mix="path/text", **LAW):
        text = list(row["solution"])
        for _ in range(draw.randint(1, 4)):
            text[draw.randrange(len(text))] = draw.choice("?!~<|>;=#+-*ABC1239٣ ")
        found = read_trace(row["field"], row["question"], "".join(text))
        assert found.answer is None or 0 <= found.answer <= 9
    with pytest.raises(DataError, match="no field of nine digits and no path"):
        read_trace("372518904", "grid", "#1")


def test_what_a_second_look_is_worth_is_counted_at_equal_lengths():
    field = "372518904"
    made = [
        ("A1", "A1=3;?A1=3;#3"),
        ("A1", "A1=2;#2"),
        ("B2+A1", "B2=1;?B2=1;A1=3;1+3=4;#4"),
        ("B2+A1", "B2=1;A1=3;1+3=4;#4"),
    ]
    found, _ = measure([{"field": field, "question": question, "text": text} for question, text in made])
    assert found["look_gain"] == pytest.approx(0.5) and found["looks"] == 0.5 and found["read_right"] == 5 / 6
    assert "look_gain" not in measure([{"field": field, "question": "A1", "text": "A1=3;#3"}])[0]


def test_splits_share_no_problem_however_it_is_asked():
    mix = {"path/text": 1, "bare/image": 1}
    keys = {
        split: {
            f"{row['field']}/{row['question']}" for row in WORLD.rows(500, split=split, mix=mix, operands=[1, 2, 4])
        }
        for split in ("train", "validation", "test")
    }
    assert not keys["train"] & keys["test"] and not keys["validation"] & (keys["train"] | keys["test"])
    tests = WORLD.rows(800, split="test")
    assert len({row["id"] for row in tests}) == 800


def test_pictures_are_drawn_from_the_row_the_same_everywhere():
    rows = json.loads(json.dumps(load_rows(world="grid", n=5, seed=2)))
    code = (
        "import json, sys; from reasonrl.data_tools.pictures import open_picture; import hashlib;"
        "print(*[hashlib.sha256(open_picture(r['images'][0]).tobytes()).hexdigest() for r in json.load(sys.stdin)])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "5"}
    out = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(rows), capture_output=True, text=True, env=env, check=True
    )
    mine = [hashlib.sha256(open_picture(row["images"][0]).tobytes()).hexdigest() for row in rows]
    assert out.stdout.split() == mine and len(set(mine)) == 5
    assert size_of(rows[0]["images"][0]) == (84, 84)
    assert len(json.dumps(rows[0])) < 500  # nothing is drawn beforehand


def test_digits_stand_in_their_cells_with_noise_as_asked():
    looks: dict[str, set[bytes]] = {}
    for row in WORLD.rows(60, mix="read/image", noise=0.0, contrast=1.0):
        dark = np.asarray(open_picture(row["images"][0]))[..., 0] < 128
        for place, digit in enumerate(row["field"]):
            box = dark[place // 3 * 28 : place // 3 * 28 + 28, place % 3 * 28 : place % 3 * 28 + 28]
            if box.all(axis=1).any():
                continue  # a bar across
            rows, columns = np.nonzero(box)
            glyph = box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            looks.setdefault(digit, set()).add(glyph.tobytes() + str(glyph.shape).encode())
    assert len(looks) == 10 and all(len(forms) == 1 for forms in looks.values())
    assert len({form for forms in looks.values() for form in forms}) == 10
    drawing = {"field": "372518904", "seed": 3}
    clean, noisy = (np.asarray(WORLD.picture(**drawing, noise=noise, contrast=0.3)).astype(int) for noise in (0, 0.25))
    assert (noisy[..., 0] == noisy[..., 2]).all() and 30 < (noisy - clean)[clean < 200].std() < 70
    faint = [clean[y : y + 28, x : x + 28].min() for y in (0, 28, 56) for x in (0, 28, 56)]
    assert min(faint) >= 0 and max(faint) <= 255 * 0.7 and len(set(faint)) == 9


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"mix": "path"}, "mix names 'path', allowed are read/image"),
        ({"mix": {"path/image": 0}}, "task/modality, such as path/image"),
        ({"mix": {"path/image": -1}}, "the weight -1"),
        ({"operands": 10}, "operands = 10, allowed are 1 to 9"),
        ({"operands": []}, "operands = "),
        ({"misread": 0.6, "needless": 0.6}, "misread . needless = 1.2"),
        ({"halves": 2}, "halves = 2, allowed are 0 to 1"),
        ({"noise": -1}, "noise = -1, allowed are 0 to 1"),
        ({"n": 0}, "n = 0"),
        ({"split": "dev"}, "split 'dev' is unknown"),
    ],
)
def test_what_cannot_be_asked_is_refused(args, message):
    with pytest.raises(DataError, match=message):
        WORLD.rows(**{"n": 3, **args})
    with pytest.raises(DataError, match="row r: a picture of the world 'grid'"):
        open_picture({"world": "grid", "field": "372518904"}, "r")


@pytest.mark.parametrize("field", ["12345678", "12345678x", "1234567890", 123456789])
def test_a_picture_of_no_field_is_refused_with_its_row(field):
    with pytest.raises(DataError, match=r"row q7: .*'grid'.*a field is 9 digits"):
        open_picture({"world": "grid", "field": field, "seed": 1}, "q7")
