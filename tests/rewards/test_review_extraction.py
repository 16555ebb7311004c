"""What stands around a number in prose, remarks, retractions, mentions of a tag, and problems copied as answers."""

from __future__ import annotations

import time

import pytest

from reasonrl.rewards.extract import after_thinking, extract_answer
from reasonrl.rewards.math import verify


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("70", "The answer is at most 70."),
        ("70", "The answer is less than 70"),
        ("70", "It is more than 70."),
        ("70", "The total is less than 70."),
        ("70", "The answer is half of 70."),
        ("70", "The answer is twice 70."),
        ("70", "The answer is 70 minus 3."),
        ("70", "So it has 3 less than 70."),
        ("70", "Thus 2x = 70."),
        ("70", "We have x + 3 = 70."),
        ("70", "Thus $2x = 70$."),
        ("70", "The answer is 70% of 100."),
        ("70", "Answer: 68\nAnswer: 69\nAnswer: 70"),
        ("70", "The answer is at least 70"),
        ("8", "\\text{at least }8"),
        ("10", "10\\text{ or more}"),
        ("5", "\\boxed{5} is wrong."),
        ("5", "The answer is 5, which is wrong; it is 6."),
        ("5", "The answer is 5. Or it could be 6."),
        ("5", "Let me guess: 1? 2? 3? 4? 5"),
        ("5", "The final answer is 1. The final answer is 2. The final answer is 5."),
        ("42", "<think>\\boxed{42}"),
        ("15+9i", "Evaluate $15+9i$."),
        ("6-3i+12i", "Evaluate $(1+2i)6-3i$."),
        ("11\\sqrt2", "Simplify $\\sqrt{242}$."),
        ("(x-1)(x+1)", "Factor the expression $x^2-1$."),
        ("0.35625", "Convert $\\frac{57}{160}$ to a terminating decimal."),
        ("x=5", "Solve for $x$: $x=5$"),
        ("\\sqrt{2}", "What is $\\sqrt 2$?"),
        ("\\sqrt{2}", "Find $\\sqrt 2$."),
        ("1", "The probability is 1 in 576."),
        ("70", "The answer is at most $70$."),
        ("70", "The answer is $70$ minus $3$."),
        ("70", "It is 3 times 70."),
        ("70", "It is the square root of 70."),
    ],
)
def test_a_response_that_states_no_such_answer(gold: str, response: str) -> None:
    assert not verify(gold, response).correct


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        (r"\pm 1", "x = 1 or x = -1"),
        (r"x=\pm 1", r"x = 1 \text{ or } x = -1"),
        ("70", "First we add things up.\n\n**70**"),
        ("70", "Step 1: a.\n\n**$70**"),
        ("70", "**70**"),
        ("70", "\\boxed{**70**}"),
        ("70", "➡️ **70**"),
        ("70", "∴ 70"),
        ("70", "> 70"),
        ("70", "The answer is 70 (i.e. 7 tens)."),
        ("70", "The answer is 70 (7 × 10)."),
        ("70", "So 3 + 67 = 70."),
        ("70", "So x = 70."),
        ("70", "Total = 2 x 35 = 70."),
        ("70", "So 2x = 140, so x = 70."),
        ("70", 'The text says "<think>" is used. \\boxed{70}'),
        ("70", "The total is 70 more."),
        ("70", "**$70$**"),
        ("\\$32,\\!348", "**\\$32,348**"),
        ("10%", "The answer is 10% (i.e. 0.1)."),
        ("10\\%", "The answer is 10% (i.e. 0.1)."),
        ("2\\sqrt3", "The answer is 2√3 (≈ 3.46)."),
        ("6", "The answer is 5, which is wrong; it is 6."),
        ("(8,-2)", "The center is at (8, -2)."),
        ("\\text{Saturday}", "It falls on a Saturday."),
        ("A", "a)"),
        ("\\frac{1}{576}", "The probability is 1 in 576."),
        ("\\frac{1}{576}", "The answer is 1 in 576."),
        ("8", "Step 1: The answer to (a) is 3. The answer to (b) is 5. Final answer: 8"),
        ("70", "Since 70 > 60, he has 70."),
        ("70", "He must sell at least 70 cookies."),
    ],
)
def test_a_response_that_states_the_answer(gold: str, response: str) -> None:
    assert verify(gold, response).correct


def test_a_block_that_opens_a_line_and_never_ends_hides_its_box() -> None:
    assert verify("42", r"<think>\boxed{42}").status == "no_answer"
    assert after_thinking("So.\n<think>\\boxed{42}") == "So.\n"


@pytest.mark.parametrize(
    "piece", ["at most ", "1? 2? ", "70 (", "x + 3 ", "➡️", "> ", "**", "the answer is 5 ", "or it "]
)
def test_long_responses_stay_quick(piece: str) -> None:
    start = time.process_time()
    extract_answer(piece * (100_000 // len(piece)), "70")
    assert time.process_time() - start < 2
