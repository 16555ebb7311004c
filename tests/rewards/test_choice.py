"""Multiple choice: letters, options written out, values; options from columns and from problems."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards.choice import ChoiceReward, verify_choice
from reasonrl.rewards.choice_options import options_in, options_of
from reasonrl.rewards.math import verify
from reasonrl.rewards.verdict import Verdict

NUMBERS = ["41", "42", "43", r"\frac{1}{2}"]
CITIES = {"A": "Rome", "B": "Paris", "C": "New York", "D": "York"}


@pytest.mark.parametrize(
    ("gold", "response", "options", "status"),
    [
        ("B", "The answer is B", NUMBERS, "correct"),
        ("B", r"\boxed{B}", NUMBERS, "correct"),
        ("B", r"\boxed{\text{(B)}}", NUMBERS, "correct"),
        ("B", "b", NUMBERS, "correct"),
        ("B", "I think it is 42.", NUMBERS, "correct"),
        ("B", r"\boxed{42.0}", NUMBERS, "correct"),
        ("B", r"\boxed{(B) 42}", NUMBERS, "correct"),
        ("B", "The answer is B: 42", NUMBERS, "correct"),
        ("B", r"\boxed{(B) 43}", NUMBERS, "wrong"),
        ("B", "The answer is B: 43", NUMBERS, "wrong"),
        ("B", r"\boxed{(B) 40}", NUMBERS, "wrong"),
        ("B", "It's not A because 41 is prime, so I'd say B.", NUMBERS, "correct"),
        ("D", "The answer is 0.5", NUMBERS, "correct"),
        ("D", r"\boxed{\text{(D) } \dfrac12}", NUMBERS, "correct"),
        ("42", "B", NUMBERS, "correct"),
        ("(B) 42", "The answer is 42.", None, "correct"),
        ("C", "The answer is 42", NUMBERS, "wrong"),
        ("C", "The answer is 40", NUMBERS, "wrong"),
        ("B,D", "The answers are B and D", NUMBERS, "correct"),
        ("B,D", "DB", NUMBERS, "correct"),
        ("B,D", r"\boxed{B}", NUMBERS, "wrong"),
        ("B,D", "Answer: 42 and 1/2", NUMBERS, "correct"),
        ("B", "The answer is A or B", NUMBERS, "wrong"),
        ("A", "(A) 41 (B) 42 (C) 43", NUMBERS, "wrong"),
        ("A", r"\boxed{(A) 41 (B) 42}", NUMBERS, "wrong"),
        ("B", r"\boxed{A, B, C, D}", NUMBERS, "wrong"),
        ("B", "Answer: 42 and 43", NUMBERS, "wrong"),
        ("B", r"<think>\boxed{B}</think>", NUMBERS, "no_answer"),
        ("(D) Alina", "D", None, "correct"),
        ("(D) Alina", "Alina", None, "correct"),
        ("(A) Cecile", "C", None, "wrong"),
        ("Paris", "The capital is B", CITIES, "correct"),
        ("B", "The answer is Paris.", CITIES, "correct"),
        ("B", "It must be Paris", CITIES, "correct"),
        ("B", "It is not Paris", CITIES, "wrong"),
        ("D", "It must be New York", CITIES, "wrong"),
        ("C", "It must be New York", CITIES, "correct"),
        ("B", "Rome or Paris", CITIES, "wrong"),
        ("E", "E", NUMBERS, "bad_gold"),
        ("Oslo", "Paris", CITIES, "bad_gold"),
        ("", "B", NUMBERS, "bad_gold"),
        ("42", r"\boxed{42}", None, "correct"),
    ],
)
def test_choices(gold: str, response: str, options: Any, status: str) -> None:
    verdict = verify_choice(gold, response, options)
    assert verdict.status == status, verdict


def test_the_reason_names_the_options() -> None:
    assert verify_choice("B", r"\boxed{(B) 43}", NUMBERS).reason == ("letter B with the value of option C; right is B")
    assert verify_choice("B", "42", NUMBERS).reason == "the value of option B"


def test_values_follow_the_policy() -> None:
    options = ["1/3", "1/7"]
    assert verify_choice("A", r"\boxed{0.333}", options).correct
    assert not verify_choice("A", r"\boxed{0.333}", options, policy="strict").correct


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [("C", "C", True), ("C Cecile", "C", True), ("(D) Alina", "(D)", True), ("B", "A", False), ("B,D", "B", False)],
)
def test_letters_work_in_math_too(gold: str, response: str, correct: bool) -> None:
    assert verify(gold, response).correct is correct


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (["3", "4"], {"A": "3", "B": "4"}),
        (["(A) 3", "(B) 4"], {"A": "3", "B": "4"}),
        ({"a": "3", "b": "4"}, {"A": "3", "B": "4"}),
        ({"label": ["A", "B"], "text": ["3", "4"]}, {"A": "3", "B": "4"}),
        ({"1": "x", "2": "y"}, {"A": "x", "B": "y"}),
        (json.dumps(["3", "4"]), {"A": "3", "B": "4"}),
        ("(A) 3 (B) 4", {"A": "3", "B": "4"}),
        (["3"], None),
        (None, None),
        (5, None),
        ("[" * 100_000, None),
    ],
)
def test_cells_of_options(cell: Any, options: dict[str, str] | None) -> None:
    assert options_of(cell) == options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("What? (A) 3 (B) 4 (C) 5", {"A": "3", "B": "4", "C": "5"}),
        (
            r"Find. $\textbf{(A)}\ 3 \qquad \textbf{(B)}\ \frac{1}{2}\qquad \textbf{(C)}\ 5$",
            {"A": "3", "B": r"\frac{1}{2}", "C": "5"},
        ),
        ("Q\nA. one\nB. two words.\n\nAnswer with the letter.", {"A": "one", "B": "two words"}),
        ("Q\nA) x\nB) y", {"A": "x", "B": "y"}),
        ("Point (A) lies left. Choose: (A) 1 (B) 2", {"A": "1", "B": "2"}),
        ("No options here.", None),
        ("(A) alone", None),
    ],
)
def test_options_in_a_problem(text: str, options: dict[str, str] | None) -> None:
    assert options_in(text) == options


def test_the_reward_as_trainers_call_it() -> None:
    reward = pickle.loads(pickle.dumps(ChoiceReward()))
    extra: dict[str, list[str]] = {}
    metrics: dict[str, float] = {}
    question = [{"role": "user", "content": "Q (A) 3 (B) 4"}]
    scores = reward(
        prompts=[question, "Q", question, question],
        completions=[[{"role": "assistant", "content": "It is 4"}], "B", "A", "B"],
        completion_ids=None,
        answer=["B", "B", "B", None],
        options=[None, ["x", "y"], None, None],
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert scores == [1.0, 1.0, 0.0, None]
    assert extra == {"verdict": ["correct", "correct", "wrong", "bad_gold"], "extracted": ["4", "B", "A", ""]}
    assert metrics["verdict/correct"] == 0.5 and sum(metrics.values()) == 1.0
    assert (reward.__name__, reward.token_level) == ("choice", False)


def test_wrong_arguments_raise() -> None:
    with pytest.raises(RewardError, match="did you mean 'strict'"):
        ChoiceReward(policy="strikt")
    with pytest.raises(RewardError, match="there is no column 'key'"):
        ChoiceReward(gold="key")(prompts=["q"], completions=["A"], answer=["A"])
    with pytest.raises(RewardError, match="1 completions, but 2 golds"):
        ChoiceReward()(prompts=["q"], completions=["A"], answer=["A", "B"])
    with pytest.raises(RewardError, match="gold is 5, a int"):
        verify_choice(5, "A")  # type: ignore[arg-type]


def test_hostile_values_take_no_longer_than_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def counted(*given: Any) -> Verdict:
        found = verify(*given)
        ended.append(found.status)
        return found

    monkeypatch.setattr("reasonrl.rewards.choice.verify", counted)
    hostile = [rf"\sin^{{{power}}}(x^{{{power}}})+\tan({power}x)" for power in range(2, 12)]
    answer = r"\sum_{k=1}^{n} \cos(k^{2}x)^{k} + \int_0^x \sin(t^{t}) dt"
    verdict = verify_choice("A", rf"\boxed{{{answer}}}", hostile)
    assert verdict.status == ("timeout" if "timeout" in ended else "wrong")
    assert "timeout" not in ended[:-1], "after the first that runs over, none is tried"
    ended.clear()
    monkeypatch.setattr("reasonrl.rewards.choice.LIMIT_SECONDS", 0.0)
    assert verify_choice("A", rf"\boxed{{{answer}}}", hostile).status == "timeout"
    assert len(ended) == 1, "the limit is for the options together"
