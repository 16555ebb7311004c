"""The worksheet world: its problems and law, its messages, and the figures that its design counts on."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from reasonrl.data_tools import load_rows
from reasonrl.data_tools.worlds import get_world
from reasonrl.data_tools.worlds.worksheet import (
    PARTS,
    PATTERN,
    ROOM,
    draw_sheet,
    merged,
    message_of,
    read_message,
    read_sheet,
    write_message,
    write_solution,
)
from reasonrl.data_tools.worlds.worksheet_figures import ceilings, measure
from reasonrl.errors import DataError

WORLD = get_world("worksheet")


def values_of(problem: str) -> str:
    """The answer by another way: Python's own arithmetic, from left to right."""
    found = ""
    for part in problem.split():
        value, rest = int(part[1]), part[2:]
        for place in range(0, len(rest), 2):
            value = eval(f"({value}{rest[place : place + 2]}) % 7")
        found += str(value)
    return found


def test_problems_answers_and_solutions():
    rows = WORLD.rows(500, slip=0.0)
    lengths = Counter()
    for row in rows:
        assert values_of(row["problem"]) == row["answer"] and len(row["solution"]) < ROOM
        assert read_sheet(row["problem"]).text == row["problem"]
        said, body = re.search(PATTERN, row["solution"]), row["solution"].partition("#")[0]
        worked = re.findall(r"([A-D]):", body)
        assert message_of(row["solution"])[::2] == "".join(p if p in worked else p.lower() for p in PARTS)
        assert all("".join(said.groups())[PARTS.index(name)] == row["answer"][PARTS.index(name)] for name in worked)
        assert (len(worked) == 4) == (row["difficulty"] <= 7)
        lengths[row["difficulty"]] += 1
    assert set(lengths) == set(range(4, 13))


def test_shorter_parts_are_a_drill():
    """One operation a part: everything fits, so that nothing is guessed; with three the rows are what they were."""
    rows = WORLD.rows(300, longest=1, slip=0.0)
    assert all(row["difficulty"] == 4 and message_of(row["solution"]).isupper() for row in rows)
    assert {row["difficulty"] for row in WORLD.rows(300, longest=2)} == set(range(4, 9))
    assert WORLD.rows(50, longest=3) == WORLD.rows(50)


def test_splits_are_disjoint_and_rows_are_the_seeds():
    texts = {
        split: {row["problem"] for row in WORLD.rows(400, split=split)} for split in ("train", "validation", "test")
    }
    assert not texts["train"] & texts["test"] and not texts["validation"] & (texts["train"] | texts["test"])
    assert WORLD.rows(5, seed=3) == WORLD.rows(5, seed=3) != WORLD.rows(5, seed=4)
    assert len(load_rows(world="worksheet", n=20, split="test")) == 20


def test_messages():
    solution = "D:4*4=2.A:3+4=0*5=0.#A0b5c3D2"
    assert message_of(solution) == "A0b5c3D2" and message_of(solution[:-1]) == "" == message_of("no line")
    said = read_message("A0b5c3D2")
    assert said == {"A": (0, True), "B": (5, False), "C": (3, False), "D": (2, True)}
    assert write_message(said) == "A0b5c3D2" and WORLD.erased("A0b5c3D2") == "A0B5C3D2"
    votes = ["A0b5c3D2", "A1B4c3D2", "A1b4c2d6"]
    assert merged(votes) == {"A": 1, "B": 4, "C": None, "D": 2}
    assert merged(votes, marks=False) == {"A": 1, "B": 4, "C": 3, "D": 2}


def test_solutions_below_messages_do_not_use_them_but_for_copied_guesses():
    rows = WORLD.rows(1500, messages=[2, 4], copies=1.0, slip=0.0)
    assert {row["prompt"][0]["content"].count("\n") for row in rows} == {2, 3, 4}
    for row in rows:
        head, *messages = row["prompt"][0]["content"].split("\n")
        assert head == row["problem"]
        for name, (value, worked) in read_message(message_of(row["solution"])).items():
            assert worked or value in {read_message(one)[name][0] for one in messages}
    plain = WORLD.rows(1500, messages=[2, 4], copies=0.0, slip=0.0)
    found = measure(plain)[0]
    assert found["well_formed"] == found["finished"] == 1 and found["slip"] == 0
    assert found["guess"] == pytest.approx(1 / 7, abs=0.04)  # whatever the messages say


def test_a_frame_is_the_synthesis_prompt_of_the_world():
    from reasonrl.pacore.synthesis import SynthesisPrompt, with_messages

    row = WORLD.rows(1, messages=[3, 3])[0]
    head, *messages = row["prompt"][0]["content"].split("\n")
    asked = with_messages([{"role": "user", "content": head}], messages, SynthesisPrompt("world:worksheet"))
    assert asked == row["prompt"]


def exact_solo(slip: float) -> float:
    """Right answers of the law, by enumeration of lengths and orders; two slips that cancel are left out."""
    total = 0.0
    for lengths in itertools.product((1, 2, 3), repeat=4):
        for order in itertools.permutations(range(4)):
            left, chance = 11, 1.0
            for part in order:
                if 1 + lengths[part] <= left:
                    left -= 1 + lengths[part]
                    chance *= (1 - slip) ** lengths[part]
                else:
                    chance /= 7
            total += chance
    return total / 81 / 24


def test_the_figures_that_the_design_counts_on():
    found = ceilings(2500)
    assert exact_solo(0.03) == pytest.approx(0.3865, abs=1e-4)  # .38 in the design
    assert found["solo"] == pytest.approx(exact_solo(0.03), abs=0.03)  # 3 standard errors
    assert found["fits"] == pytest.approx(31 / 81, abs=0.03)
    # Votes help and saturate; merging by marks does what they cannot, and copying alone nearly so.
    for name, value in {
        "maj@5": 0.47,
        "maj@9": 0.52,
        "maj@11": 0.54,
        "copy@4": 0.93,
        "own@2": 0.75,
        "own@4": 0.80,
        "own@8": 0.82,
        "merge@2": 0.79,
        "merge@4": 0.94,
        "merge@8": 0.995,
        "erased@4": 0.82,
        "all_wrong@4": 0.39,
        "all_wrong@8": 0.25,
        "copy_emergent@4": 0.87,
    }.items():
        assert found[name] == pytest.approx(value, abs=0.035), name


def test_measure_tells_what_is_not_as_the_law_has_it():
    sheet = draw_sheet(random.Random(1))
    good = write_solution(sheet, random.Random(2), slip=0.0)
    rows = [
        {"problem": sheet.text, "text": text} for text in (good, good[:-1], good.replace("=", "=9", 1), "#A0B0C0D0")
    ]
    found, law = measure(rows)
    assert found["pass@1"] == 0.5 and found["finished"] == 0.75 and found["well_formed"] == pytest.approx(1 / 3)
    assert law["finished"] == law["well_formed"] == 1
    with pytest.raises(DataError, match="no problem of this world"):
        measure([{"problem": "1+1", "text": ""}])
    with pytest.raises(DataError, match="there are no rows"):
        measure([])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"slip": 2}, "slip = 2, allowed are 0 to 1"),
        ({"messages": [3, 1]}, r"messages = \[3, 1\] -> \[fewest, most\]"),
        ({"room": 5}, "the last line alone takes 10"),
        ({"longest": 4}, "longest = 4, allowed are 1 to 3"),
        ({"split": "dev"}, "split 'dev' is unknown"),
    ],
)
def test_what_cannot_be_is_refused(args, message):
    with pytest.raises(DataError, match=message):
        WORLD.rows(1, **args)
