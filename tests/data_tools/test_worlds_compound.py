"""The world of compound chains: exact answers, four layouts over the same lines, a reader that finds planted faults."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from reasonrl.data_tools.worlds import MEASURES, get_world
from reasonrl.data_tools.worlds.compound_chain import BLANK, read_chain, read_prompt, solution_of
from reasonrl.data_tools.worlds.compound_reader import measure
from reasonrl.errors import DataError
from reasonrl.rewards import get_reward

MARKS = {"play": "p", "answer": "a", "scene": r"\[[^\n]*\]", "speaker": "(?P<name>[AB]):", "turns": 1}
LINE = r"^(?P<number>\d)=(?P<answer>\d)$"
CONTROL = ["tags", "nested", "single", "complete", "extra", "numbering"]


def rows(n: int, **args: Any) -> list[dict[str, Any]]:
    return get_world("compound_chain").rows(n, **args)


def test_both_procedures() -> None:
    assert read_chain("L3+4*2-5").steps() == [(3, "+", 4, 7), (7, "*", 2, 4), (4, "-", 5, 9)]
    assert read_chain("R3+4*2-5").steps() == [(2, "-", 5, 7), (4, "*", 7, 8), (3, "+", 8, 1)]
    for row in rows(200, k=[1, 5]):
        for item, chain in zip(json.loads(row["items"]), read_prompt(row["problem"]), strict=True):
            digits, operators = chain.digits, chain.operators
            if chain.procedure == "L":
                value = eval(
                    f"(({digits[0]}{operators[0]}{digits[1]}){operators[1]}{digits[2]}){operators[2]}{digits[3]}"
                )
            else:
                value = eval(
                    f"{digits[0]}{operators[0]}({digits[1]}{operators[1]}({digits[2]}{operators[2]}{digits[3]}))"
                )
            assert item["answer"] == str(value % 10) and item["id"] == chain.text
    for wrong in ("3+4*2-5", "L3+4", "L3+4*2/5", "Lx+4*2-5"):
        with pytest.raises(DataError, match="no problem"):
            read_chain(wrong)


@pytest.mark.parametrize(("modulus", "facts"), [(5, 72), (7, 144), (10, 297)])
def test_a_smaller_modulus_has_fewer_facts(modulus: int, facts: int) -> None:
    seen = set()
    for row in rows(900, k=3, modulus=modulus):
        for item, chain in zip(json.loads(row["items"]), read_prompt(row["problem"], modulus), strict=True):
            assert min(chain.digits) > 0 and max(chain.digits) < modulus
            seen |= {step[:3] for step in chain.steps()}
            digits, (first, second, third) = chain.digits, chain.operators
            if chain.procedure == "L":
                whole = f"(({digits[0]}{first}{digits[1]}){second}{digits[2]}){third}{digits[3]}"
            else:
                whole = f"{digits[0]}{first}({digits[1]}{second}({digits[2]}{third}{digits[3]}))"
            assert item["answer"] == str(eval(whole) % modulus)
    assert len(seen) == facts
    slips = rows(300, k=2, slip=0.2, modulus=modulus)
    assert measure(slips, modulus=modulus)["wrong_facts"] == pytest.approx(0.2, abs=0.05)
    assert not {row["problem"] for row in rows(200, split="test", modulus=modulus)} & {
        row["problem"] for row in rows(200, modulus=modulus)
    }


def test_mistaken_facts_stay_in_the_solution_and_are_the_same_everywhere() -> None:
    """A quarter of the facts, each with one wrong value half of the time; check and answer follow the lines."""
    given = {"k": [1, 3], "modulus": 6, "hard_facts": 0.25, "hard_slip": 0.5}
    written: dict[str, Counter[str]] = {}
    right, asked = 0, 0
    for row in rows(1500, **given):
        body, _, answers = row["solution"].partition("</p>")
        steps = [line.split("=") for line in body.split() if "=" in line]
        checks = [line for line in body.split() if line.isdigit()]
        for left, result in steps:
            written.setdefault(left, Counter())[result] += 1
        results = [result for _, result in steps]
        assert checks == ["".join(results[place : place + 3]) for place in range(0, len(results), 3)]
        ends = [line.split("=")[1] for line in answers.split() if "=" in line]
        assert ends == [check[-1] for check in checks]
        gold = json.loads(row["answer"])
        right, asked = right + sum(map(str.__eq__, ends, gold)), asked + len(gold)
    common = {left: found for left, found in written.items() if found.total() >= 40}
    mistaken = {left for left, found in common.items() if len(found) > 1}
    assert len(common) > 75 and 0.15 < len(mistaken) / len(common) < 0.35
    assert all(len(found) <= 2 for found in written.values())
    share = sum(found[str(eval(left) % 6)] for left, found in common.items() if left in mistaken)
    assert share / sum(common[left].total() for left in mistaken) == pytest.approx(0.5, abs=0.04)
    assert 0.6 < right / asked < 0.8
    wrong = {left: set(found) - {str(eval(left) % 6)} for left, found in common.items() if left in mistaken}
    other = rows(300, split="test", **{**given, "k": 1}, voices=True)
    for line in "\n".join(row["solution"] for row in other).replace("A:", "").split():
        left, _, result = line.partition("=")
        if left in mistaken and result != str(eval(left) % 6):
            assert {result} == wrong[left]
    assert [row["problem"] for row in rows(50, **given)] == [row["problem"] for row in rows(50, k=[1, 3], modulus=6)]
    with pytest.raises(DataError, match=r"hard_facts = 1\.5"):
        rows(3, hard_facts=1.5)


@pytest.mark.parametrize("scenes", [False, True])
@pytest.mark.parametrize("voices", [False, True])
def test_layouts_hold_the_same_lines_and_keep_their_rules(scenes: bool, voices: bool) -> None:
    plain = rows(60, k=[1, 2, 3, 5], slip=0.1)
    made = rows(60, k=[1, 2, 3, 5], slip=0.1, scenes=scenes, voices=voices)
    assert [row["problem"] for row in plain] == [row["problem"] for row in made]
    rules = CONTROL + ["scenes"] * scenes + ["voices", "spoken"] * voices
    keeps = get_reward({"name": "play", "args": {**MARKS, "line": LINE, "rules": rules}})
    right = get_reward({"name": "compound", "args": {"kind": "exact", "tag": "a", "line": LINE}})
    for before, row in zip(plain, made, strict=True):
        bare = [line.removeprefix("A:").removeprefix("B:") for line in row["solution"].split("\n")]
        assert "\n".join(line for line in bare if not line.startswith("[")) == before["solution"]
        assert keeps(completions=[row["solution"]], k=[row["k"]]) == [1.0]
        assert right(completions=[row["solution"]], items=[row["items"]]) == [1.0]
        if scenes or voices:
            every = get_reward(
                {"name": "play", "args": {**MARKS, "line": LINE, "rules": [*CONTROL, "scenes", "voices"]}}
            )
            assert every(completions=[before["solution"]], k=[row["k"]]) == [0.0]
    figures = measure(made)
    assert figures["right"] == figures["well_formed"] == 1 and figures["intrusion"] == figures["extra_switches"] == 0
    assert figures["perseveration"] == 0 and 0.03 < figures["wrong_facts"] < 0.2
    assert measure is MEASURES["compound_chain"]


def test_the_long_monologue_is_as_long_as_the_dialogue() -> None:
    dialogue, long = rows(50, k=5, scenes=True, voices=True), rows(50, k=5, checks=6)
    ratio = sum(len(row["solution"]) for row in long) / sum(len(row["solution"]) for row in dialogue)
    assert 0.97 < ratio < 1.05


def test_splits_share_no_problem_and_every_k_asks_the_same_ones() -> None:
    test = {
        k: {item["id"] for row in rows(60, split="test", k=k) for item in json.loads(row["items"])} for k in (1, 2, 5)
    }
    assert len(test[1]) == 60 and test[1] == test[2] == test[5]
    train = {item["id"] for row in rows(2000, k=3) for item in json.loads(row["items"])}
    assert not train & test[1]
    assert rows(5, k=3) == rows(5, k=3) != rows(5, k=3, seed=1)
    places = [
        (item["id"], at) for row in rows(60, split="test", k=5) for at, item in enumerate(json.loads(row["items"]))
    ]
    assert len(set(places)) == 300


def test_blank_places_change_the_prompt_alone() -> None:
    plain, blank = (rows(200, k=[1, 2, 5], scenes=True, places=places) for places in (0, 6))
    assert {len(row["problem"]) for row in blank} == {6 * 9 - 1}
    assert {len(row["problem"]) for row in plain} == {k * 9 - 1 for k in (1, 2, 5)}
    for one, other in zip(plain, blank, strict=True):
        assert other["problem"].startswith(one["problem"]) and read_prompt(other["problem"]) == read_prompt(
            one["problem"]
        )
        assert {**other, "problem": None} == {**one, "problem": None}
    figures = measure([{**row, "text": row["solution"]} for row in blank])
    assert (figures["right"], figures["intrusion"], figures["extra_switches"]) == (1.0, 0.0, 0.0)
    with pytest.raises(DataError, match=r"places = 4, allowed are 0 and 5"):
        rows(2, k=[1, 5], places=4)
    with pytest.raises(DataError, match="no problem"):
        read_prompt(f"{BLANK};{BLANK}")


def test_the_reader_finds_kept_on_procedures() -> None:
    """A writer that works the second problem as the first."""
    kept = []
    for row in rows(300, k=2):
        chains = read_prompt(row["problem"])
        kept.append(
            {
                "problem": row["problem"],
                "text": solution_of([chains[0], chains[1]._replace(procedure=chains[0].procedure)]),
            }
        )
    assert measure(kept)["perseveration"] == 1.0


def test_the_reader_finds_lines_of_other_problems() -> None:
    first, second = read_chain("L1+2+3+4"), read_chain("L9*8*7*6")
    swapped = measure([{"problem": f"{first.text};{second.text}", "text": solution_of([second, first])}])
    assert swapped["intrusion"] == 1.0 and swapped["right"] == 0.0
    # The same with headings, which say whose turn it is and do not help.
    assert (
        measure([{"problem": f"{first.text};{second.text}", "text": solution_of([second, first], scenes=True)}])[
            "intrusion"
        ]
        == 1
    )
    text = solution_of([first, second]).replace("3+3=6", "9*8=2")
    jumped = measure([{"problem": f"{first.text};{second.text}", "text": text}])
    assert jumped["intrusion"] == pytest.approx(1 / 6) and jumped["extra_switches"] == 2
    broken = solution_of([first, second]).replace("3+3=6\n", "")
    assert measure([{"problem": f"{first.text};{second.text}", "text": broken}])["well_formed"] == 0


@pytest.mark.parametrize(
    "args",
    [
        {"k": 0},
        {"k": []},
        {"k": [1, 10]},
        {"split": "exam"},
        {"checks": -1},
        {"slip": 0.5},
        {"split": "test", "k": 3},
        {"modulus": 2},
        {"modulus": 11},
    ],
)
def test_arguments_out_of_range_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="compound_chain"):
        rows(10, **args)


def test_more_problems_than_a_split_has_are_refused() -> None:
    with pytest.raises(DataError, match="n = 2000 problems of their own"):
        rows(2000, split="test", modulus=5)
