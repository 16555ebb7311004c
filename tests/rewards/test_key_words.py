"""Golds that are sentences, and golds that are still to be worked out."""

from __future__ import annotations

import pytest

from reasonrl.rewards.math import verify


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("The triangle is isosceles.", "isosceles"),
        ("Alice moves first in every game", "Alice"),
        ("Any odd number of players", "odd"),
        ("The function is odd.", "odd"),
        ("yes", "Yes, it does."),
        ("No, there is none.", "no"),
    ],
)
def test_the_word_that_a_sentence_is_about(gold, answer):
    assert verify(gold, rf"\boxed{{\text{{{answer}}}}}").correct
    assert not verify(gold, rf"\boxed{{\text{{{answer}}}}}", "strict").correct or gold.casefold() == answer.casefold()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("The triangle is isosceles.", "triangle"),
        ("Alice moves first in every game", "game"),
        ("Alice moves first in every game", "every game"),
        ("Any odd number of players", "players"),
        ("The sequence converges to 5", "sequence"),
        ("The function is odd.", "function"),
        ("The function is odd.", "Function"),
        ("The function is odd.", "even"),
        ("The function is not odd.", "odd"),
        ("The function is odd.", "odd or even"),
        ("yes", "yes and no"),
        ("yes", "yes or no"),
        ("no", "no idea"),
        ("no", "yes, or no"),
    ],
)
def test_any_other_word_of_it_is_no_answer(gold, answer):
    assert not verify(gold, rf"\boxed{{\text{{{answer}}}}}").correct


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\int_0^1 x^2 \, dx", r"\frac{1}{3}", True),
        (r"\int_0^1 x^2 \, dx", r"\frac{1}{2}", False),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", "1", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}", False),
    ],
)
def test_a_gold_may_be_left_to_computer_algebra_but_no_answer_may(gold, answer, same):
    assert verify(gold, rf"\boxed{{{answer}}}").correct is same
    assert not verify(answer, rf"\boxed{{{gold}}}").correct


def test_numbers_in_a_row_cost_nothing():
    for halves in (5, 20, 40):
        text = "48" + "½" * halves
        assert verify(text, r"\boxed{1}").status == verify("1", rf"\boxed{{{text}}}").status == "wrong"
