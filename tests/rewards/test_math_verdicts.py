"""Verdicts: extraction, normal forms, exact numbers, lists, policies, hostile input; measured on real pairs where they
are.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.errors import RewardError
from reasonrl.rewards.math import verify
from reasonrl.rewards.verdict import SCORE_OF_STATUS, STATUSES


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"it was \boxed{1}</think> then \fbox{3}", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{4} and a torn \boxed{7", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("<think>…</think><answer>84</answer>", "84"),
        (r"<answer>is \boxed{84}</answer>", "84"),
        ("16-3\n#### 13", "13"),
        ("Thus the answer is 26.", "26"),
        ("The final answer is: $\\frac12$. I hope it is correct.", r"\frac12"),
        ("**Answer:** 7", "7"),
        ("3.50", "3.50"),
    ],
)
def test_what_is_taken_for_the_answer(response: str, extracted: str) -> None:
    assert verify("0", response).extracted == extracted


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        r"\boxed{}",
        r"<think>\boxed{5}",
        "<think>The answer is 5",
        "I am not sure about this, let me think about it some more. It may be 5.",
    ],
)
def test_no_answer(response: str) -> None:
    verdict = verify("5", response)
    assert (verdict.status, verdict.score) == ("no_answer", 0.0)


SAME = [
    ("1/2", r"\frac{1}{2}"),
    (r"\dfrac12", "0.5"),
    ("1,234", "1234"),
    ("1{,}234", "1234"),
    (r"12\,345", "12345"),
    (r"3,\!380", "3380"),
    ("2 1/2", "5/2"),
    (r"2\frac{1}{2}", "2.5"),
    ("½", "1/2"),
    ("2½", "5/2"),
    ("-1/3", r"-\frac{2}{6}"),
    ("2/(-3)", "-2/3"),
    ("1e5", "100000"),
    (r"3\times10^{4}", "30000"),
    (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", "1/6"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    ("−4", "-4"),
    ("+4", "4"),
    ("42", "42.0"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("f(x)=2x+1", "2x+1"),
    ("$5$", "5"),
    (r"\$18", "18"),
    ("18", r"\$18.00"),
    (r"\boxed{12}", "12"),
    ("#### 7", "7"),
    ("10\\%", "10"),
    ("10", "10%"),
    ("35^\\circ", "35"),
    ("35", "35 degrees"),
    ("5", r"5\text{ cm}"),
    ("5 cm", r"5\,\mathrm{cm}"),
    (r"\text{Monday}", "monday"),
    (r"\text{(E)}", "E"),
    ("B", "(B) because"),
    ("(1,2)", r"\left( 1,\; 2\right)"),
    ("1, 2, 3", "3,2,1"),
    ("1,2", r"\{2, 1\}"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("-8,1", r"1 \text{ and } -8"),
    ("[2,5)", r"\left[2, 5\right)"),
    ("1/3", "0.333"),
    (r"\frac{2}{3}", "0.6667"),
    (r"3\sqrt{3}", r"\sqrt{27}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("8-2x+x^2", "x^2-2x+8"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt 2", "√2"),
    ("π/2", r"\frac{\pi}{2}"),
    ("6+9c", "9 c + 6"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
]
DIFFERENT = [
    ("1/2", "1/3"),
    ("1234", "1235"),
    ("1,234", "234"),
    ("5", "-5"),
    ("1/2", "2"),
    ("2 1/2", "2"),
    ("4 10/3", "10/3"),
    ("0.5", "0.6"),
    ("1/3", "0.3"),
    ("1/3", "0.334"),
    ("5 cm", "5 kg"),
    ("12:30", "12"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", r"\{1,2\}"),
    ("[2,5)", "(2,5)"),
    ("1,2,3", "1,2"),
    ("1,2", "1,2,3"),
    ("41", "41, 42"),
    ("5", "5 or 6"),
    ("x^2-1", "x^2+1"),
    ("A", "B"),
    ("A", "AB"),
    ("Monday", "Tuesday"),
    ("5", "x=4=5"),
    ("x=5", "y=5"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("w^2", "x^2"),
    (r"\pm 2021", "2021"),
    ("1,2,\\ldots,n", "1,3,\\ldots,2n-1"),
    ("20", "0.2"),
    ("10^{-400}", "10^{-401}"),
    (r"\sum_{n=1}^{5} n", r"\sum_{k=1}^{5} n"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_answer(gold: str, answer: str) -> None:
    verdict = verify(gold, rf"so \boxed{{{answer}}}")
    assert (verdict.status, verdict.score) == ("correct", 1.0), verdict.reason


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_another_answer(gold: str, answer: str) -> None:
    verdict = verify(gold, rf"so \boxed{{{answer}}}")
    assert (verdict.status, verdict.score) == ("wrong", 0.0), verdict.reason


@pytest.mark.parametrize(
    ("gold", "answer", "strict"),
    [
        ("10\\%", "10", False),
        ("10\\%", "0.1", True),
        ("5 cm", "5", False),
        ("1/3", "0.333", False),
        ("1,2", "2,1", False),
        ("1/2", "0.5", True),
        ("(1,2)", "(1, 2)", True),
    ],
)
def test_strict_is_strict(gold: str, answer: str, strict: bool) -> None:
    assert verify(gold, rf"\boxed{{{answer}}}", policy="strict").correct is strict


def test_an_unevaluated_sum_is_no_answer() -> None:
    """A model that copies the question into the box must earn nothing."""
    verdict = verify("11", r"\boxed{3+8}")
    assert (verdict.status, verdict.reason) == ("wrong", "unevaluated arithmetic is no answer")
    assert verify("11", r"3+8 = \boxed{11}").correct
    assert verify("3 + 8", r"\boxed{11}").correct


@pytest.mark.parametrize("gold", ["", "  ", "$$", r"\boxed{}", "7" * 5000])
def test_bad_golds_are_masked(gold: str) -> None:
    verdict = verify(gold, r"\boxed{5}")
    assert (verdict.status, verdict.score) == ("bad_gold", None)


def test_scores_of_statuses() -> None:
    assert set(SCORE_OF_STATUS) == set(STATUSES)
    assert {status for status, score in SCORE_OF_STATUS.items() if score is None} == {"bad_gold", "fault"}
    assert {status for status, score in SCORE_OF_STATUS.items() if score == 1.0} == {"correct"}


def test_wrong_arguments_raise() -> None:
    with pytest.raises(RewardError, match="did you mean 'strict'"):
        verify("1", "1", policy="strikt")
    with pytest.raises(RewardError, match="gold is 5, a int"):
        verify(5, "5")  # type: ignore[arg-type]


@given(st.fractions(max_denominator=10**6), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_fractions_in_any_spelling(value: Fraction, scale: int) -> None:
    spelled = (
        rf"\boxed{{{'-' if value < 0 else ''}\frac{{{abs(value.numerator) * scale}}}{{{value.denominator * scale}}}}}"
    )
    assert verify(str(value), spelled).correct
    wrong = value + Fraction(1, value.denominator)
    assert not verify(str(value), rf"\boxed{{{wrong}}}", policy="strict").correct


@given(st.integers(-(10**30), 10**30), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_decimals_are_exact(digits: int, places: int) -> None:
    exact = Fraction(digits, 10**places)
    sign = "-" if digits < 0 else ""
    text = str(abs(digits)).rjust(places + 1, "0")
    decimal = f"{sign}{text[:-places]}.{text[-places:]}" if places else f"{sign}{text}"
    assert verify(str(exact), rf"\boxed{{{decimal}}}", policy="strict").correct
    assert not verify(str(exact), rf"\boxed{{{decimal}1}}", policy="strict").correct


@given(st.text(max_size=60), st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_no_text_raises_and_the_verdict_is_the_same_twice(gold: str, response: str) -> None:
    first, second = verify(gold, response), verify(gold, response)
    assert first.status in STATUSES
    assert (first.status, first.extracted, first.reason) == (second.status, second.extracted, second.reason)


HOSTILE = [
    "9^{9^{9^9}}",
    "9**9**9**9",
    "10^{10^{9}}",
    "(10^9)!",
    "((20!)!)!",
    r"\binom{10^9}{5\cdot10^8}",
    "(x+y+z+w+1)^{200}",
    r"\sum_{k=1}^{10^{12}} 1/k",
    r"\sin(\cos(e^{e^{e^{e}}}))",
    "{" * 5000 + "}" * 5000,
    "1" + " 1" * 30000,
    "(" * 900 + "1" + ")" * 900,
    "1," * 20000,
    r"\sqrt{" * 60 + "2" + "}" * 60,
    "9" * 100_000,
    "1/" * 400 + "2",
    "2^" * 300 + "2",
    r"\frac{1}{" * 300 + "2" + "}" * 300,
    "-" * 901 + "1",
    "1e999999999",
    "99999!",
    r"\boxed{" * 3000,
]


def test_hostile_answers_come_back_in_bounded_time() -> None:
    program = (
        "import json, sys, time\nfrom reasonrl.rewards.math import verify\nverify('x', 'y+1')\n"
        "for gold, response in json.load(sys.stdin):\n"
        "    start = time.perf_counter(); verdict = verify(gold, response)\n"
        "    print(verdict.status, time.perf_counter() - start, flush=True)\n"
    )
    items = [(gold, rf"so \boxed{{{text}}}") for text in HOSTILE for gold in ("1", "x+1")] + [
        (text, r"\boxed{x+1}") for text in HOSTILE
    ]
    run = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(items), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    verdicts = [line.split() for line in run.stdout.splitlines()]
    assert len(verdicts) == len(items)
    for (gold, response), (status, seconds) in zip(items, verdicts, strict=True):
        assert status in ("wrong", "no_answer", "bad_gold", "timeout"), (gold[:50], response[:50], status)
        assert float(seconds) < 3, (gold[:50], response[:50], seconds)


NEEDS_ALGEBRA = (r"{x \over 2}", r"\boxed{\frac{x}{2}}")
"""Read by math-verify, not by our own reader."""


def test_outside_the_main_thread_a_pool_decides_what_needs_an_alarm() -> None:
    found = {}

    def work() -> None:
        found["number"] = verify("1/2", r"\boxed{0.5}")
        found["algebra"] = verify(*NEEDS_ALGEBRA)

    here = verify(*NEEDS_ALGEBRA)
    assert here.reason == "computer algebra"
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found["number"].correct
    assert (found["algebra"].status, found["algebra"].reason) == (here.status, here.reason)


def test_an_outer_alarm_survives() -> None:
    rung = []
    outer = signal.getsignal(signal.SIGALRM)
    remaining = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        start = time.monotonic()
        assert verify("x^2+2x+1", r"\boxed{(x+1)^2}").correct
        while not rung and time.monotonic() - start < 5:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGALRM, outer)
        signal.setitimer(signal.ITIMER_REAL, *remaining)
    assert rung and rung[0] - start == pytest.approx(1.0, abs=0.4)


def test_a_limit_of_ones_own_ends_a_verdict():
    gold = r"\int_0^{\infty} \frac{\sin(x^{x})}{x^{7}+\ln(x)} dx"
    verify(gold, "1")  # the import of computer algebra is paid
    verdict = verify(gold, r"\boxed{1}", limit=0.2)
    assert verdict.status == "timeout" and "0.2 s" in verdict.reason
    with pytest.raises(RewardError, match="limit"):
        verify("1", "1", limit=0)
