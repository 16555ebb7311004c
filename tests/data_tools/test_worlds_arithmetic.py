"""The arithmetic world: answers and solutions against an evaluator of its own, splits, and the teacher's laws."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reasonrl.data_tools import load_rows
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import DataError

WORLD = get_world("arithmetic")


def evaluate(problem: str, modulus: int) -> list[int]:
    """Every value of the chain from left to right, read from the text alone."""
    numbers = [int(n) for n in re.split(r"[-+*]", problem)]
    signs = re.findall(r"[-+*]", problem)
    assert "".join(a + b for a, b in zip(map(str, numbers), [*signs, ""], strict=True)) == problem
    values = [numbers[0] % modulus]
    for sign, n in zip(signs, numbers[1:], strict=True):
        if sign == "+":
            values.append((values[-1] + n) % modulus)
        elif sign == "-":
            values.append((values[-1] + modulus * n - n) % modulus)
        else:
            values.append(sum([values[-1]] * n) % modulus)
    return values


def read_solution(row, modulus):
    """Check the form of a solution line by line; returns (steps as (fact, written, redone), boxed)."""
    *lines, last = row["solution"].split("\n")
    boxed = re.fullmatch(r"\\boxed\{(\d)\}", last)
    assert boxed, last
    terms = re.findall(r"([-+*])(\d)", row["problem"])
    value = int(row["problem"][0])
    steps = []
    position = 0
    for sign, operand in terms:
        match = re.fullmatch(r"(\d)([-+*])(\d)=(\d)", lines[position])
        assert match, lines[position]
        assert match.groups()[:3] == (str(value), sign, operand), "a step works on what the last one wrote"
        written, redone = int(match[4]), False
        position += 1
        if position < len(lines) and lines[position].startswith("!"):
            assert lines[position].startswith(f"!{value}{sign}{operand}=")
            corrected = int(lines[position].rpartition("=")[2])
            assert corrected == evaluate(f"{value}{sign}{operand}", modulus)[-1] != written
            redone = True
            position += 1
        steps.append(((sign, value, int(operand)), written, redone))
        value = corrected if redone else written
    assert position == len(lines) and int(boxed[1]) == value
    return steps, value


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("arguments", [{}, {"operations": [1, 4], "modulus": 7}, {"operations": 6, "modulus": 2}])
def test_answers_and_perfect_solutions_equal_an_evaluator_of_the_text(split, arguments):
    modulus = arguments.get("modulus", 10)
    n = 1500 if split == "train" else 25
    for row in WORLD.rows(n, split=split, seed=3, **arguments):
        values = evaluate(row["problem"], modulus)
        assert row["answer"] == str(values[-1])
        steps, boxed = read_solution(row, modulus)
        assert [written for _, written, _ in steps] == values[1:] and boxed == values[-1]
        assert row["slips"] == 0 and not any(redone for _, _, redone in steps)
        assert row["difficulty"] == len(steps) == len(values) - 1
        lengths = arguments.get("operations", 3)
        assert row["difficulty"] in (lengths if isinstance(lengths, list) else [lengths])
        assert all(0 <= int(digit) < modulus for digit in re.findall(r"\d", row["problem"]))


def test_a_worked_example():
    assert evaluate("7+5*3-8", 10) == [7, 2, 6, 8]
    assert evaluate("0-9", 10) == [0, 1]


def test_splits_share_no_problem():
    drawn = {
        split: {row["problem"] for seed in (0, 1) for row in WORLD.rows(n, split=split, seed=seed)}
        for split, n in (("train", 10_000), ("validation", 1_000), ("test", 2_000))
    }
    assert len(set.union(*drawn.values())) == sum(len(problems) for problems in drawn.values())
    assert sum(len(problems) for problems in drawn.values()) > 20_000
    shares = {"train": range(3, 16), "validation": range(2, 3), "test": range(2)}
    for split, problems in drawn.items():
        buckets = {hashlib.sha256(problem.encode()).digest()[0] % 16 for problem in problems}
        assert buckets == set(shares[split])


def test_rows_of_validation_and_test_are_distinct_and_ids_name_rows():
    for split in ("validation", "test"):
        rows = WORLD.rows(300, split=split, seed=5, operations=2)
        assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 300
    train = WORLD.rows(3000, seed=5, operations=1)
    assert len({row["problem"] for row in train}) < 300, "train repeats problems"
    assert len({row["id"] for row in train}) == 3000
    # A held-out problem keeps its id whoever draws it.
    first, second = (
        {r["problem"]: r["id"] for r in WORLD.rows(300, split="test", seed=s, operations=2)} for s in (1, 2)
    )
    shared = first.keys() & second.keys()
    assert len(shared) > 20 and all(first[problem] == second[problem] for problem in shared)


IMPERFECT = {"hard_facts": 0.4, "slip": 0.6, "self_correction": 0.5}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 1000),
    st.sampled_from(["train", "validation", "test"]),
    st.sampled_from([{}, IMPERFECT, {"operations": [2, 5]}]),
)
def test_the_first_rows_do_not_depend_on_how_many_are_asked_for(few, more, seed, split, arguments):
    rows = WORLD.rows(few + more, split=split, seed=seed, **arguments)
    assert WORLD.rows(few, split=split, seed=seed, **arguments) == rows[:few]


def test_seeds_and_splits_draw_different_rows_and_processes_the_same():
    a, b = (["".join(r["problem"] for r in WORLD.rows(50, seed=seed))] for seed in (0, 1))
    assert a != b
    script = (
        "import hashlib, json; from reasonrl.data_tools.worlds import get_world;"
        "rows = get_world('arithmetic').rows(200, seed=4, hard_facts=0.3, self_correction=0.2);"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_golden_rows_never_change():
    assert [row["problem"] for row in WORLD.rows(3, seed=0)] == ["5*5-6+8", "9*4*5-5", "7*4+3-3"]
    assert WORLD.rows(1, split="test", seed=0) == [
        {
            "id": "arithmetic/test/6-8*4-6",
            "problem": "6-8*4-6",
            "answer": "6",
            "solution": "6-8=8\n8*4=2\n2-6=6\n\\boxed{6}",
            "difficulty": 3,
            "slips": 0,
        }
    ]


def test_the_teacher_s_seed_is_not_the_problems_seed():
    # Problems are the same whatever the teacher knows.
    plain, taught = WORLD.rows(200, seed=1), WORLD.rows(200, seed=1, **IMPERFECT)
    assert [(r["problem"], r["answer"]) for r in plain] == [(r["problem"], r["answer"]) for r in taught]
    wrong = [
        facts_of(WORLD.rows(2000, seed=seed, **{**IMPERFECT, "teacher_seed": t}))
        for seed, t in ((1, 0), (2, 0), (1, 1))
    ]
    # What is misremembered belongs to the teacher, not to the rows; another teacher errs elsewhere.
    assert all(wrong[0][fact] == wrong[1][fact] for fact in wrong[0].keys() & wrong[1].keys())
    assert len(wrong[0].keys() & wrong[1].keys()) > 60
    assert wrong[0] != wrong[2] and len(wrong[0].keys() - wrong[2].keys()) > 20


def facts_of(rows, modulus=10):
    """Every wrong fact that was written, and the wrong values it was given."""
    wrong: dict[tuple, set[int]] = {}
    for row in rows:
        for fact, written, _ in read_solution(row, modulus)[0]:
            if written != evaluate(f"{fact[1]}{fact[0]}{fact[2]}", modulus)[-1]:
                wrong.setdefault(fact, set()).add(written)
    return wrong


def test_each_hard_fact_has_one_wrong_value_and_their_share_is_as_asked():
    wrong = facts_of(WORLD.rows(12_000, seed=0, hard_facts=0.3, slip=0.9))
    assert all(len(values) == 1 for values in wrong.values())
    # 3 operators x 10 left x 9 right = 270 facts, 30 % of them hard; enough rows to have met nearly all.
    assert 76 <= len(wrong) <= 81


@pytest.mark.parametrize(("slip", "self_correction"), [(0.25, 0.0), (0.6, 0.5), (1.0, 0.3), (0.5, 1.0)])
def test_slips_and_corrections_follow_their_law(slip, self_correction):
    hard = set(facts_of(WORLD.rows(12_000, seed=0, hard_facts=0.3, slip=1.0)))
    rows = WORLD.rows(4000, seed=1, hard_facts=0.3, slip=slip, self_correction=self_correction)
    met = slipped = redone = 0
    for row in rows:
        left = 0
        for fact, written, corrected in read_solution(row, 10)[0]:
            wrong = written != evaluate(f"{fact[1]}{fact[0]}{fact[2]}", 10)[-1]
            assert not wrong or fact in hard
            met += fact in hard
            slipped += wrong
            redone += corrected
            left += wrong and not corrected
        assert row["slips"] == left
    assert met > 2500
    assert stats.binomtest(slipped, met, slip).pvalue > 1e-3
    assert stats.binomtest(redone, slipped, self_correction).pvalue > 1e-3


def test_a_perfect_teacher_and_one_that_always_slips():
    assert all(row["slips"] == 0 for row in WORLD.rows(300, hard_facts=1.0, slip=0.0))
    assert all(row["slips"] == 0 for row in WORLD.rows(300, hard_facts=0.0, slip=1.0))
    rows = WORLD.rows(300, hard_facts=1.0, slip=1.0)
    assert all(row["slips"] == row["difficulty"] == 3 for row in rows)
    # Answers stay exact whatever the solution says.
    assert all(row["answer"] == str(evaluate(row["problem"], 10)[-1]) for row in rows)


def test_difficulties_and_operands_are_drawn_evenly():
    rows = WORLD.rows(6000, seed=2, operations=[2, 3, 5])
    counts = Counter(row["difficulty"] for row in rows)
    assert stats.chisquare([counts[k] for k in (2, 3, 5)]).pvalue > 1e-3
    text = "".join(row["problem"][1:] for row in rows)
    assert stats.chisquare([text.count(sign) for sign in "+-*"]).pvalue > 1e-3
    assert stats.chisquare([text.count(str(digit)) for digit in range(1, 10)]).pvalue > 1e-3 and "0" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split 'dev' is unknown -> one of test, validation, train"),
        ({"n": 0}, "n = 0"),
        ({"operations": 0}, "operations = 0,"),
        ({"operations": []}, r"operations = \[\]"),
        ({"operations": [3, -1]}, r"operations = \[3, -1\]"),
        ({"operations": "3"}, "operations = '3'"),
        ({"operations": 2.5}, "operations = 2.5"),
        ({"operations": True}, "operations = True"),
        ({"operations": [2, "3"]}, r"operations = \[2, '3'\]"),
        ({"modulus": 7.5}, "modulus = 7.5, allowed are 2 to 10"),
        ({"modulus": 1}, "modulus = 1, allowed are 2 to 10"),
        ({"modulus": 11}, "modulus = 11, allowed are 2 to 10"),
        ({"hard_facts": -0.1}, "hard_facts = -0.1, allowed are 0 to 1"),
        ({"slip": 1.1}, "slip = 1.1, allowed are 0 to 1"),
        ({"self_correction": float("nan")}, "self_correction = nan"),
        ({"split": "test", "operations": 1, "n": 60}, "holds fewer than 60 distinct problems"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        WORLD.rows(**{"n": 5, **arguments})


def test_the_whole_of_a_small_split_can_be_had():
    everything = {f"{a}{o}{b}" for a in range(10) for o in "+-*" for b in range(1, 10)}
    held_out = {p for p in everything if hashlib.sha256(p.encode()).digest()[0] % 16 < 2}
    rows = WORLD.rows(len(held_out), split="test", operations=1)
    assert {row["problem"] for row in rows} == held_out
    with pytest.raises(DataError, match="fewer than"):
        WORLD.rows(len(held_out) + 1, split="test", operations=1)


def test_unknown_worlds_and_arguments_are_named():
    with pytest.raises(DataError, match=r"no world 'arithmetics' -> did you mean 'arithmetic'"):
        get_world("arithmetics")
    with pytest.raises(DataError, match="no world 'chess' -> known worlds: arithmetic"):
        get_world("chess")
    with pytest.raises(DataError, match="modulos"):
        load_rows(world="arithmetic", n=4, args={"modulos": 5})
    assert [row["problem"] for row in load_rows(world="arithmetic", n=4, seed=2, args={"operations": 2})] == [
        row["problem"] for row in WORLD.rows(4, seed=2, operations=2)
    ]
